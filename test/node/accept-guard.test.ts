/** The accept guard: when accepting stops, when it goes on, and that nothing that waits is lost (T69, F60). */

import { Socket } from 'node:net';

import t from 'tap';

import { createFakeClock, createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger, type Logger } from '../../src/base/logger.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { closeDescriptor, duplicateDescriptor } from '../../src/linux/descriptors.ts';
import { openNamespace } from '../../src/linux/namespaces.ts';
import { loadNative } from '../../src/linux/native.ts';
import { openDescriptorCount } from '../../src/linux/process-limits.ts';
import { createConnector, createListener } from '../../src/linux/sockets.ts';
import { acceptThreshold, createAcceptGuard } from '../../src/node/accept-guard.ts';
import { openPodListeners } from '../../src/node/listeners.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';

function countingLogger(): Logger & { readonly lines: string[] } {
  const lines: string[] = [];
  return { ...createNullLogger(), lines, warn: (message) => void lines.push(message) };
}

function rig(limit: number): {
  guard: ReturnType<typeof createAcceptGuard>;
  clock: ReturnType<typeof createFakeClock>;
  logger: ReturnType<typeof countingLogger>;
  state: { open: number; counted: number; accepting: boolean };
} {
  const clock = createFakeClock();
  const logger = countingLogger();
  const state = { open: 0, counted: 0, accepting: true };
  const openCount = (): number => {
    state.counted++;
    return state.open;
  };
  const guard = createAcceptGuard({ clock, logger, limit, openCount });
  guard.join({
    pause: () => void (state.accepting = false),
    resume: () => void (state.accepting = true),
  });
  return { guard, clock, logger, state };
}

t.test('a tenth and at least 64 descriptors stay in reserve, but never more than half', (t) => {
  t.equal(acceptThreshold(256), 192);
  t.equal(acceptThreshold(20_000), 18_000);
  t.equal(acceptThreshold(100), 50);
  t.end();
});

t.test(
  'T69 accepting stops at the threshold, by number or by count, and goes on below it',
  async (t) => {
    const { guard, clock, state } = rig(256);
    state.open = 100;
    guard.accepted(99);
    t.ok(state.accepting);
    guard.accepted(192);
    t.notOk(state.accepting, 'number 192 means that 192 others are in use');
    state.open = 190;
    await clock.advance(300);
    t.notOk(state.accepting, 'a few free ones do not make it flap');
    state.open = 150;
    await clock.advance(100);
    t.ok(state.accepting, 'within 100 ms after descriptors were free');
    state.open = 192;
    guard.accepted(10);
    t.notOk(state.accepting, 'the count says so although low numbers are free');
    const late = { accepting: true };
    guard.join({ pause: () => void (late.accepting = false), resume: () => {} });
    t.notOk(late.accepting, 'who joins meanwhile pauses too');
  },
);

t.test(
  'counting gets rare while the limit is far and a full proxy logs once in 10 s',
  async (t) => {
    const { guard, clock, state, logger } = rig(100_000);
    state.open = 1000;
    for (let index = 0; index < 10_000; index++) guard.accepted(1000);
    t.equal(state.counted, 1);
    for (let index = 0; index < 100; index++) {
      state.open = 99_000;
      guard.accepted(95_000);
      state.open = 1000;
      await clock.advance(100);
    }
    t.same(logger.lines.length, 1);
  },
);

t.test(
  'F60 a listener that is parked and served again by turns loses none of 300 connections and more',
  { skip: reasonToSkip() },
  async (t) => {
    const network = createTestNetwork();
    t.teardown(() => network.removeAll());
    const native = loadNative();
    const namespace = openNamespace(native, network.add('guard'));
    t.teardown(() => namespace.close());
    const clock = createSystemClock();
    let pausing = false;
    const guard = createAcceptGuard({
      clock,
      logger: createNullLogger(),
      limit: 1000,
      openCount: () => (guard.paused ? 0 : pausing ? 1000 : 0),
    });
    t.teardown(() => guard.stop());
    let served = 0;
    let parks = 0;
    guard.join({ pause: () => void parks++, resume: () => {} });
    const before = openDescriptorCount();
    const listeners = openPodListeners({
      clock: { ...clock, after: (ms, run) => clock.after(ms / 100, run) },
      logger: createNullLogger(),
      guard,
      pod: 'pod' as PodUid,
      source: {
        adopt: () => undefined,
        create: (port) => createListener(native, namespace, { port }),
        created: () => {},
        duplicate: (fd) => duplicateDescriptor(native, fd),
        close: (fd) => closeDescriptor(native, fd),
      },
      accept(_, socket) {
        served++;
        socket.on('error', () => {});
        socket.end('here');
        socket.resume();
      },
      onChange: () => {},
    });
    t.teardown(() => listeners.close());
    while (!listeners.listening) await new Promise((resolve) => setTimeout(resolve, 5));
    pausing = true;
    const one = (): Promise<string> =>
      new Promise((resolve) => {
        const fd = createConnector(native, namespace, { family: 'ipv4' });
        const socket = new Socket({ fd });
        let got = '';
        socket.on('error', (error) => resolve(error.message));
        socket.on('data', (chunk) => (got += chunk.toString()));
        socket.on('close', () => resolve(got));
        socket.connect({ host: '127.0.0.1', port: 15_006 });
      });
    const wave = async (): Promise<string[]> => Promise.all(Array.from({ length: 60 }, one));
    const answers: string[] = [];
    let rounds = 0;
    // A busy machine may notice too late that descriptors are short: more waves then, none may be lost.
    const isShort = (): boolean => parks < 2;
    for (; rounds < 5 || (isShort() && rounds < 50); rounds++) {
      const running = wave();
      await new Promise((resolve) => setTimeout(resolve, 30));
      // From now on descriptors are free, until the next wave.
      pausing = false;
      answers.push(...(await running));
      pausing = true;
    }
    t.same([...new Set(answers)], ['here']);
    t.equal(served, 60 * rounds);
    t.ok(parks >= 2, `parked ${parks} times`);
    pausing = false;
    await new Promise((resolve) => setTimeout(resolve, 150));
    t.ok(listeners.listening);
    t.equal(openDescriptorCount(), before + 3, 'no duplicate is left over');
    listeners.close();
    await new Promise((resolve) => setImmediate(resolve));
    t.equal(openDescriptorCount(), before);
  },
);

t.test(
  'F60 listeners that open while accepting is paused are paused, too',
  { skip: reasonToSkip() },
  async (t) => {
    const network = createTestNetwork();
    t.teardown(() => network.removeAll());
    const native = loadNative();
    const namespace = openNamespace(native, network.add('late'));
    t.teardown(() => namespace.close());
    const clock = createSystemClock();
    const logger = createNullLogger();
    let open = 1000;
    const guard = createAcceptGuard({ clock, logger, limit: 1000, openCount: () => open });
    t.teardown(() => guard.stop());
    guard.accepted(950);
    let served = 0;
    const listeners = openPodListeners({
      clock,
      logger,
      guard,
      pod: 'pod' as PodUid,
      source: {
        adopt: () => undefined,
        create: (port) => createListener(native, namespace, { port }),
        created: () => {},
        duplicate: (fd) => duplicateDescriptor(native, fd),
        close: (fd) => closeDescriptor(native, fd),
      },
      accept(_, socket) {
        served++;
        socket.destroy();
      },
      onChange: () => {},
    });
    t.teardown(() => listeners.close());
    const until = async (holds: () => boolean): Promise<void> => {
      while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
    };
    const connectSome = (): Promise<unknown> =>
      Promise.all(
        Array.from({ length: 20 }, () => {
          const fd = createConnector(native, namespace, { family: 'ipv4' });
          const socket = new Socket({ fd });
          socket.on('error', () => {});
          t.teardown(() => socket.destroy());
          return new Promise<void>((resolve) => {
            socket.connect({ host: '127.0.0.1', port: 15_006 }, resolve);
          });
        }),
      );
    await until(() => listeners.listening);
    await connectSome();
    await new Promise((resolve) => setTimeout(resolve, 100));
    t.equal(served, 0, 'opened while paused');
    listeners.renew();
    await until(() => listeners.listening);
    await connectSome();
    await new Promise((resolve) => setTimeout(resolve, 100));
    t.equal(served, 0, 'made anew while paused');
    t.ok(guard.paused);
    open = 10;
    await until(() => served >= 20);
    t.equal(
      served,
      20,
      'who waits is served once there are descriptors; the first went with their listeners',
    );
  },
);
