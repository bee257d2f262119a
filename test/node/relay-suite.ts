/** What every relay must do, whatever is between its ends. Run for each kind of rig. */

import { createHash } from 'node:crypto';
import { once } from 'node:events';

import type { Test } from 'tap';

import { MeshError } from '../../src/base/errors.ts';
import { pattern, type App, type Joined, type Rig, type RigOptions } from './relay-rig.ts';

/** Every order of two lists that keeps each list's own order. */
function interleavings<T>(first: readonly T[], second: readonly T[]): T[][] {
  const [a, ...restA] = first;
  const [b, ...restB] = second;
  if (a === undefined) return [[...second]];
  if (b === undefined) return [[...first]];
  return [
    ...interleavings(restA, second).map((order) => [a, ...order]),
    ...interleavings(first, restB).map((order) => [b, ...order]),
  ];
}

type Step = `${'a' | 'b'}${'1' | '2' | '.'}`;

const SIZES = { '1': 70_001, '2': 13 } as const;
const ORDERS = interleavings<Step>(['a1', 'a2', 'a.'], ['b1', 'b2', 'b.']);

const sides = (joined: Joined, step: Step): [App, App] =>
  step.startsWith('a') ? [joined.a, joined.b] : [joined.b, joined.a];

/** Does one step; with `wait`, until the other application has seen it. */
async function play(joined: Joined, step: Step, sent: Record<'a' | 'b', number>, wait: boolean) {
  const [from, to] = sides(joined, step);
  const name = step[0] as 'a' | 'b';
  const act = step[1] as '1' | '2' | '.';
  if (act === '.') {
    from.socket.end();
    if (wait) await to.until((app) => app.ended);
    return;
  }
  from.socket.write(pattern(SIZES[act], name === 'a' ? 1 : 2, sent[name]));
  sent[name] += SIZES[act];
  if (wait) await to.until((app) => app.received >= sent[name]);
}

const TOTAL = SIZES['1'] + SIZES['2'];

export function relaySuite(
  t: Test,
  subject: string,
  createRig: (options?: RigOptions) => Promise<Rig>,
): void {
  const withRig = async (t: Test, run: (rig: Rig) => Promise<void>, options?: RigOptions) => {
    const rig = await createRig(options);
    try {
      await run(rig);
      t.equal(rig.sweep.count, 0, 'no relay is left');
    } finally {
      await rig.close();
    }
  };

  for (const wait of [true, false]) {
    const mode = wait ? 'step by step' : 'at once';
    void t.test(
      `${subject}: half close in ${ORDERS.length} orders, ${mode} (F30, G22)`,
      async (t) => {
        await withRig(t, async (rig) => {
          for (const order of ORDERS) {
            const joined = await rig.open();
            const sent = { a: 0, b: 0 };
            for (const step of order) await play(joined, step, sent, wait);
            await Promise.all([
              joined.a.until((app) => app.closed),
              joined.b.until((app) => app.closed),
            ]);
            const exact =
              joined.b.bytes.equals(pattern(TOTAL, 1)) && joined.a.bytes.equals(pattern(TOTAL, 2));
            const clean = joined.a.error === undefined && joined.b.error === undefined;
            for (const result of await joined.results) {
              t.match(result, { bytesToA: TOTAL, bytesToB: TOTAL, flag: '-' });
            }
            t.ok(exact && clean && joined.a.ended && joined.b.ended, order.join(' '));
          }
        });
      },
    );
  }

  void t.test(`${subject}: a reset at any moment arrives as a reset (F31)`, async (t) => {
    await withRig(t, async (rig) => {
      // Each order, cut at each place before the resetting side's FIN.
      const cuts = new Set<string>();
      for (const order of ORDERS.filter((_, index) => index % 3 === 0)) {
        for (const name of ['a', 'b'] as const) {
          for (let at = 0; at <= order.indexOf(`${name}.`); at++) {
            cuts.add([name, ...order.slice(0, at)].join(' '));
          }
        }
      }
      for (const cut of cuts) {
        const [name, ...steps] = cut.split(' ') as ['a' | 'b', ...Step[]];
        const joined = await rig.open();
        const sent = { a: 0, b: 0 };
        for (const step of steps) await play(joined, step, sent, true);
        const [from, to] = name === 'a' ? [joined.a, joined.b] : [joined.b, joined.a];
        from.socket.resetAndDestroy();
        // After its peer's FIN a reader is not told; it meets the reset when it writes, as with plain TCP.
        await to.until((app) => app.closed || app.ended);
        t.equal(to.ended, false, `${cut}: no FIN`);
        t.equal(to.error, 'ECONNRESET', `${cut}: reset`);
        for (const result of await joined.results) t.equal(result.flag, 'RESET');
      }
    });
  });

  for (const [first, second] of [
    ['a', 'b'],
    ['b', 'a'],
  ] as const) {
    void t.test(
      `${subject}: ${first} ends, then resets: ${second} has all bytes and meets the reset (F30, F31)`,
      async (t) => {
        await withRig(t, async (rig) => {
          const joined = await rig.open();
          const [from, to] = [joined[first], joined[second]];
          from.socket.end(pattern(TOTAL, 7));
          await to.until((app) => app.ended);
          t.ok(to.bytes.equals(pattern(TOTAL, 7)));
          await new Promise((resolve) => setImmediate(resolve));
          from.socket.resetAndDestroy();
          await once(from.socket, 'close');
          // Nobody writes: only the sweep finds out.
          const found = { results: false };
          void joined.results.then(() => (found.results = true));
          for (let round = 0; round < 100 && !found.results; round++) {
            await rig.clock.advance(5000);
          }
          t.ok(found.results, 'found without traffic');
          // The first write is answered with a reset, which a second one meets: as with plain TCP.
          while (!to.closed) {
            to.socket.write('anybody there');
            await new Promise((resolve) => setTimeout(resolve, 1));
          }
          t.not(to.error, undefined);
        });
      },
    );
  }

  void t.test(`${subject}: close from outside resets both applications`, async (t) => {
    await withRig(t, async (rig) => {
      for (const which of ['near', 'far'] as const) {
        const joined = await rig.open();
        joined.a.socket.write('hello');
        await joined.b.until((app) => app.received === 5);
        const error = new MeshError('MESH_POLICY_DENIED', 'Denied', { flag: 'DENY' });
        joined[which].close(error);
        joined[which].close(new MeshError('MESH_ABORTED', 'Too late'));
        await Promise.all([
          joined.a.until((app) => app.closed),
          joined.b.until((app) => app.closed),
        ]);
        t.same([joined.a.error, joined.b.error], ['ECONNRESET', 'ECONNRESET']);
        t.same([joined.a.ended, joined.b.ended], [false, false]);
        const results = await joined.results;
        t.ok(results.some((result) => result.error === error && result.flag === 'DENY'));
      }
    });
  });

  void t.test(`${subject}: half closed and idle it ends after an hour, with a reset`, async (t) => {
    await withRig(t, async (rig) => {
      const joined = await rig.open();
      joined.a.socket.end('bye');
      await joined.b.until((app) => app.ended);
      await rig.clock.advance(1000);
      await rig.clock.advance(3_590_000);
      t.equal(joined.b.closed, false, 'still open before');
      await rig.clock.advance(15_000);
      const results = await joined.results;
      t.ok(
        results.some(
          ({ error, flag }) => error?.code === 'MESH_DEADLINE_EXCEEDED' && flag === 'LIMIT',
        ),
      );
      // Past the FIN a reader is not told of a reset; a writer is.
      joined.b.socket.write('still there?');
      await joined.b.until((app) => app.closed && app.error !== undefined);
    });
  });

  /** Writes until nothing more fits between `from` and the other end. Returns how much fitted. */
  const fill = async (from: App, chunkBytes: number, seed: number): Promise<number> => {
    let total = 0;
    for (;;) {
      const before = from.socket.writableLength;
      if (before === 0) {
        from.socket.write(pattern(chunkBytes, seed, total));
        total += chunkBytes;
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      await new Promise((resolve) => setTimeout(resolve, 40));
      if (from.socket.writableLength > 0) return total;
    }
  };

  void t.test(
    `${subject}: one stalled user waits with at most 256 KiB a direction (F36)`,
    async (t) => {
      await withRig(
        t,
        async (rig) => {
          const joined = await rig.open();
          joined.a.keep = joined.b.keep = false;
          joined.b.socket.pause();
          joined.a.socket.pause();
          const sentA = await fill(joined.a, 100_000, 1);
          const sentB = await fill(joined.b, 100_000, 2);
          const queued = [joined.farSocket.writableLength, joined.nearSocket.writableLength];
          t.ok(Math.max(...queued) <= 256 * 1024, `queued ${queued.join(' and ')} bytes`);
          t.ok(Math.min(...queued) > 0, 'both were really stalled');
          joined.a.socket.resume();
          joined.b.socket.resume();
          joined.a.socket.end();
          joined.b.socket.end();
          await joined.results;
          await Promise.all([
            joined.a.until((app) => app.closed),
            joined.b.until((app) => app.closed),
          ]);
          t.same([joined.b.received, joined.a.received], [sentA, sentB]);
        },
        { windowsGrow: false },
      );
    },
  );

  for (const { name, chunkBytes, ownMax, busyFirst } of [
    { name: 'small reads', chunkBytes: 2000, ownMax: 64, busyFirst: true },
    // Written in one go, so that the reads before the stall fill own buffers: one of its own at first, ...
    { name: 'large reads', chunkBytes: 16_000_000, ownMax: 64, busyFirst: true },
    { name: 'large reads, last buffer', chunkBytes: 16_000_000, ownMax: 1, busyFirst: false },
    // ... one with two users from the start.
    { name: 'large reads, no buffer', chunkBytes: 16_000_000, ownMax: 1, busyFirst: true },
  ]) {
    void t.test(
      `${subject}: one stalled beside a busy one, 0 foreign bytes, ${name}`,
      async (t) => {
        await withRig(
          t,
          async (rig) => {
            const [stalled, busy] = [await rig.open(), await rig.open()];
            let busySent = 0;
            const keepBusy = async (): Promise<void> => {
              // The last read is large as well, so that the connection keeps an own buffer.
              const byteCount = Math.min(chunkBytes, 190_000);
              busy.a.socket.write(pattern(byteCount, 0xa5, busySent));
              busySent += byteCount;
              await busy.b.until((app) => app.received >= busySent);
            };
            if (busyFirst) await keepBusy();
            stalled.b.socket.pause();
            const sent = await fill(stalled.a, chunkBytes, 0x5a);
            // Foreign bytes through every buffer that the stalled write could refer to.
            for (let round = 0; round < 50; round++) await keepBusy();
            stalled.b.socket.resume();
            stalled.a.socket.end();
            busy.a.socket.end();
            await stalled.b.until((app) => app.ended);
            const got = stalled.b.bytes;
            const wanted = pattern(sent, 0x5a);
            let foreign = got.byteLength === sent ? 0 : Infinity;
            if (!got.equals(wanted)) {
              for (let index = 0; index < sent; index++)
                if (got[index] !== wanted[index]) foreign++;
            }
            t.equal(foreign, 0, `${foreign} foreign bytes`);
            t.ok(busy.b.bytes.equals(pattern(busy.b.received, 0xa5)), 'the busy one is whole');
            stalled.b.socket.end();
            busy.b.socket.end();
            await Promise.all([stalled.results, busy.results]);
          },
          { ownMax },
        );
      },
    );
  }

  void t.test(`${subject}: 200 MB arrive with the same hash in flat memory (F37)`, async (t) => {
    await withRig(t, async (rig) => {
      const joined = await rig.open();
      joined.b.keep = false;
      const block = pattern(1_000_000, 3);
      const hash = createHash('sha256');
      let peakBytes = 0;
      const startBytes = process.memoryUsage.rss();
      for (let round = 0; round < 200; round++) {
        block.writeUInt32BE(round, round);
        hash.update(block);
        await new Promise((resolve) => joined.a.socket.write(Buffer.from(block), resolve));
        peakBytes = Math.max(peakBytes, process.memoryUsage.rss());
      }
      joined.a.socket.end();
      await joined.b.until((app) => app.ended);
      t.equal(joined.b.hash.digest('hex'), hash.digest('hex'));
      const grown = peakBytes - startBytes;
      t.ok(grown < 64 * 1024 * 1024, `grew by ${Math.round(grown / 1e6)} MB`);
      joined.b.socket.end();
      await joined.results;
    });
  });

  void t.test(`${subject}: 1,000 connections leave nothing behind`, async (t) => {
    const sockets = (): number =>
      process.getActiveResourcesInfo().filter((name) => name.startsWith('TCP')).length;
    await withRig(t, async (rig) => {
      const before = sockets();
      for (let round = 0; round < 20; round++) {
        const all = await Promise.all(Array.from({ length: 50 }, () => rig.open()));
        all.forEach(({ a, b }, index) => {
          a.socket.write(pattern(9000, index));
          if (index % 3 === 0) b.socket.end('first');
          if (index % 5 === 0) a.socket.resetAndDestroy();
          else a.socket.end();
        });
        await Promise.all(all.map(({ b }) => b.until((app) => app.ended || app.closed)));
        for (const { a, b } of all) {
          b.socket.end();
          if (a.closed) b.socket.destroy();
        }
        await Promise.all(all.map(({ results }) => results));
      }
      for (let turn = 0; turn < 50 && sockets() > before; turn++) {
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      t.ok(sockets() <= before, `${sockets()} sockets, ${before} before`);
      const taken = Array.from({ length: rig.buffers.ownCount }, () => rig.buffers.acquire());
      t.ok(
        taken.every((slot) => slot.users === 1),
        'every buffer was given back',
      );
    });
  });
}
