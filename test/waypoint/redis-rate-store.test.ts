/** The shared store against a real server: one budget for all, its own clock, silence, death and return. */

import t, { type Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createRate, takeUnit } from '../../src/base/gcra.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import { createRedisRateStore } from '../../src/waypoint/redis-rate-store.ts';
import { freePort } from '../support/free-port.ts';
import { findServer, startServer } from './redis-server.ts';

const program = findServer();
const clock = createSystemClock();
const random = createSystemRandom();
const skip = program === undefined && 'needs redis-server or valkey-server';

async function connect(t: Test, url: string, timeoutMs = 2_000) {
  const states: boolean[] = [];
  let wake = (): void => {};
  const store = createRedisRateStore({
    url,
    clock,
    random,
    timeoutMs,
    pauseMs: 50,
    onState: (connected) => {
      states.push(connected);
      wake();
    },
  });
  t.teardown(() => store[Symbol.asyncDispose]());
  const until = async (connected: boolean): Promise<void> => {
    while (states.at(-1) !== connected) await new Promise<void>((resolve) => (wake = resolve));
  };
  store.start();
  return { store, until };
}

t.test(
  'two waypoints share one budget, answer by answer as the local arithmetic',
  { skip },
  async (t) => {
    const server = await startServer(program ?? '', await freePort());
    t.teardown(() => server.stop());
    const [a, b] = [await connect(t, server.url), await connect(t, server.url)];
    await Promise.all([a.until(true), b.until(true)]);
    // A minute a unit: nothing comes back while the test runs.
    const rate = createRate(1, 60_000, 5);
    let fullAtMs = -Infinity;
    for (let i = 0; i < 8; i++) {
      const wanted = takeUnit(rate, fullAtMs, 0);
      fullAtMs = wanted.fullAtMs;
      const found = await (i % 2 === 0 ? a : b).store.take('k', rate);
      t.equal(found.allowed, wanted.allowed, `${i}`);
      t.equal(found.remaining, wanted.remaining);
      t.ok(Math.abs(found.resetMs - wanted.resetMs) < 5_000);
      t.ok(Math.abs(found.waitMs - wanted.waitMs) < 5_000);
    }
    t.equal((await a.store.take('other', rate)).remaining, 4);
  },
);

t.test('many at once take exactly the burst', { skip }, async (t) => {
  const server = await startServer(program ?? '', await freePort());
  t.teardown(() => server.stop());
  const [a, b] = [await connect(t, server.url), await connect(t, server.url)];
  await Promise.all([a.until(true), b.until(true)]);
  const rate = createRate(1, 60_000, 50);
  const takings = await Promise.all(
    Array.from({ length: 200 }, (_, i) => (i % 2 === 0 ? a : b).store.take('k', rate)),
  );
  t.equal(takings.filter(({ allowed }) => allowed).length, 50);
});

t.test(
  'a silent, dead or absent server is an error in time, and its return is noticed',
  { skip },
  async (t) => {
    const port = await freePort();
    const rate = createRate(1, 60_000, 5);
    const { store, until } = await connect(t, `redis://127.0.0.1:${port}`, 100);
    const code = async (): Promise<unknown> =>
      store.take('k', rate).then(
        () => 'taken',
        (error: unknown) => (error instanceof MeshError ? error.code : error),
      );
    await until(false);
    t.equal(await code(), 'MESH_RATE_STORE_FAILED', 'nobody listens');
    const server = await startServer(program ?? '', port);
    t.teardown(() => server.stop());
    await until(true);
    t.equal(await code(), 'taken');
    server.process.kill('SIGSTOP');
    const startMs = clock.nowMs();
    t.equal(await code(), 'MESH_RATE_STORE_FAILED', 'it does not answer');
    t.ok(clock.nowMs() - startMs < 1_000);
    const pausedMs = clock.nowMs();
    t.equal(await code(), 'MESH_RATE_STORE_FAILED', 'it is left alone');
    t.ok(clock.nowMs() - pausedMs < 50, 'at no cost');
    server.process.kill('SIGCONT');
    await new Promise((resolve) => setTimeout(resolve, 100));
    t.equal(await code(), 'taken');
    await server.stop();
    await until(false);
    t.equal(await code(), 'MESH_RATE_STORE_FAILED', 'it is gone');
    const successor = await startServer(program ?? '', port);
    t.teardown(() => successor.stop());
    await until(true);
    t.equal(await code(), 'taken', 'the script is loaded again');
  },
);
