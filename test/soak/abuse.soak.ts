/**
 * G16: how much other clients notice of an HTTP/2 client that floods a waypoint, is closed, and comes back five seconds later,
 * again and again, one kind of flood after the other. Their p99 is printed, beside that without an abuser: the median of rounds that
 * alternate, for the slowest 20 of 2,000 requests are mostly the machine's own. The waypoint's data path runs in a process of its own.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';

import t from 'tap';

import { freePort } from '../support/free-port.ts';
import { ABUSES, frame, NOTHING, PREFACE } from '../waypoint/h2-abuses.ts';
import type { SteadyResult, SteadyRun } from './steady-client.ts';

const PER_SECOND = 200;
const REQUESTS = 2_000;
const WARM_UP = 100;
const ROUNDS = 3;
/** What a waypoint in use has served; one that has not meets the first flood with code that was never optimised. */
const WARM_REQUESTS = 20_000;
const WARM_PER_SECOND = 2_000;
const ABSENT_MS = 5_000;
const CLOSED_MAX_MS = 1_000;
/** Whoever is not closed by then ends it. */
const GIVE_UP_MS = 10 * CLOSED_MAX_MS;

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** One connection from its preface until the other side has closed it, or until we give up. Fails if nobody listens. */
async function abuseOnce(port: number, make: (index: number) => Buffer): Promise<number> {
  const socket = connect(port, '127.0.0.1');
  const close = new Promise<void>((resolve) => void socket.on('close', () => resolve()));
  socket.on('error', () => {});
  socket.on('end', () => socket.destroy());
  socket.resume();
  await once(socket, 'connect');
  const giveUp = setTimeout(() => socket.destroy(), GIVE_UP_MS);
  socket.write(PREFACE);
  socket.write(frame(4, 0, 0, NOTHING));
  const startMs = performance.now();
  for (let index = 0; !socket.destroyed;) {
    const burst = Array.from({ length: 200 }, () => make(index++));
    if (!socket.write(Buffer.concat(burst))) {
      await Promise.race([once(socket, 'drain').catch(() => {}), close]);
    }
    await pause(0);
  }
  clearTimeout(giveUp);
  return performance.now() - startMs;
}

t.test('G16 what other clients notice of each kind of flood', { timeout: 0 }, async (t) => {
  const steady = new Worker(new URL('./steady-client.ts', import.meta.url));
  const [upstream] = (await once(steady, 'message')) as [number];
  const port = await freePort();
  const proxy = spawn(process.execPath, [join(import.meta.dirname, '../bench/l7-proxy.ts')], {
    stdio: 'ignore',
    env: {
      ...process.env,
      BENCH_PORT: String(port),
      BENCH_UPSTREAM_PORT: String(upstream),
      BENCH_ROUTES: '10',
      BENCH_PROTOCOL: 'HTTP2',
    },
  });
  t.teardown(async () => {
    proxy.kill('SIGKILL');
    await steady.terminate();
  });
  const run = async (requests = REQUESTS, perSecond = PER_SECOND): Promise<SteadyResult> => {
    const message: SteadyRun = { port, requests, perSecond };
    steady.postMessage(message);
    const [result] = (await once(steady, 'message')) as [SteadyResult];
    return result;
  };
  for (let failed = 1; failed > 0;) ({ failed } = await run(WARM_UP));
  await run(WARM_REQUESTS, WARM_PER_SECOND);
  for (const [name, make] of ABUSES) {
    const without: number[] = [];
    const beside: number[] = [];
    const times: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      without.push((await run()).p99Ms);
      const state = { over: false };
      const abuse = async (): Promise<void> => {
        while (!state.over) {
          times.push(await abuseOnce(port, make));
          await pause(ABSENT_MS);
        }
      };
      const abusing = abuse();
      abusing.catch(() => {}); // Awaited below, when the others are done.
      const { failed, p99Ms } = await run();
      state.over = true;
      await abusing;
      beside.push(p99Ms);
      t.equal(failed, 0, `${name}: no request of others fails`);
    }
    const longestMs = Math.max(...times);
    t.comment(
      `${name}: p99 ${median(without).toFixed(2)} → ${median(beside).toFixed(2)} ms ` +
        `(rounds: ${without.map((p99Ms, round) => `${p99Ms.toFixed(2)} → ${beside[round]?.toFixed(2)}`).join(', ')}); ` +
        `closed ${times.length} times, at the latest after ${longestMs.toFixed(0)} ms`,
    );
    t.ok(longestMs <= CLOSED_MAX_MS, `${name}: closed after ${longestMs.toFixed(0)} ms`);
  }
});
