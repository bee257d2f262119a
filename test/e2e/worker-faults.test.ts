/** Workers that die or stall under load: the others and the heir serve on, nothing new is refused. */

import t, { type Test } from 'tap';

import {
  childrenOf,
  countConnections,
  DB,
  describeLoad,
  epochMs,
  holdCounts,
  holdOpen,
  linesOf,
  LONG_CONNECTIONS,
  podNamed,
  proxyOn,
  startTraffic,
  stopTraffic,
} from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import type { LoadCounts } from '../../src/demo/traffic.ts';
import { createTestMesh, reasonToSkipMesh, untilCaptured, type TestMesh } from './harness.ts';

const skip = reasonToSkipMesh();

/** No connection that began after `sinceMs` failed. */
function noneRefused(t: Test, load: LoadCounts, sinceMs: number, name: string): void {
  const refused = load.failedStartsMs.filter((ms) => ms > sinceMs);
  t.same(refused, [], `${name}: none refused; ${describeLoad(load)} ${load.errors.join('; ')}`);
}

/** The worker of db's node that carries more of the long connections to db, and how many. */
function busiestWorker(running: TestMesh): { pid: number; own: number } {
  const counts = childrenOf(proxyOn(running, 'node-b'), 'worker').map((pid) => ({
    pid,
    own: countConnections(pid, podNamed(running, 'db'), DB.port),
  }));
  const [busiest] = counts.toSorted((a, b) => b.own - a.own);
  if (busiest === undefined) throw new Error('node-b has no worker');
  return busiest;
}

t.test(
  'G02 F20 a worker killed at the destination loses its own long connections and refuses none',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    await holdOpen(running, 'long');
    const { pid, own } = busiestWorker(running);
    await startTraffic(running, 'load');
    await wait(1000);
    process.kill(pid, 'SIGKILL');
    const killedMs = epochMs();
    const proxy = proxyOn(running, 'node-b');
    await until('the heir runs', 10_000, () => {
      const workers = childrenOf(proxy, 'worker');
      return workers.length === 2 && !workers.includes(pid);
    });
    await untilCaptured(running, 4);
    await wait(1000);
    const load = await stopTraffic(running, 'load');
    noneRefused(t, load, killedMs, 'SIGKILL');
    const { open, lost, wrong } = await holdCounts(running, 'long');
    t.equal(lost, own, `the dead worker carried ${own} of ${LONG_CONNECTIONS}`);
    t.equal(open, LONG_CONNECTIONS - own);
    t.equal(wrong, 0);
  },
);

t.test(
  'F20 a worker killed at the source loses its own long connections and refuses none',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    await holdOpen(running, 'long');
    const [victim = 0] = childrenOf(proxyOn(running, 'node-a'), 'worker');
    await startTraffic(running, 'load');
    await wait(1000);
    process.kill(victim, 'SIGKILL');
    const killedMs = epochMs();
    await wait(2000);
    await untilCaptured(running, 4);
    const load = await stopTraffic(running, 'load');
    noneRefused(t, load, killedMs, 'SIGKILL');
    const { open, lost, wrong } = await holdCounts(running, 'long');
    t.ok(open > 0, `${open} of the other worker go on, ${lost} were the dead one's`);
    t.equal(wrong, 0);
  },
);

t.test(
  'G19 F63 a worker stopped for 5 s is taken out within 1.5 s, refuses none, and serves again after',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    await holdOpen(running, 'long');
    const { pid, own } = busiestWorker(running);
    const proxy = proxyOn(running, 'node-b');
    t.ok(own > 0, `the stopped worker carries ${own} long connections`);
    // What is asked of it through an open tunnel waits until it goes on.
    await startTraffic(running, 'load', { timeoutMs: 10_000 });
    await wait(500);
    process.kill(pid, 'SIGSTOP');
    t.teardown(() => continueProcess(pid));
    const outMs = await until('it is taken out', 5000, () => {
      return linesOf(proxy, 'its listeners are taken out').length === 1;
    });
    t.ok(outMs < 1600, `taken out after ${Math.round(outMs)} ms`);
    await wait(5000 - outMs);
    process.kill(pid, 'SIGCONT');
    await until('it is back', 5000, () => linesOf(proxy, 'back after a stall').length === 1);
    await untilCaptured(running, 4);
    await wait(1000);
    const load = await stopTraffic(running, 'load');
    t.same(load.errors, [], describeLoad(load));
    t.ok(childrenOf(proxy, 'worker').includes(pid), 'it was not killed');
    const held = await holdCounts(running, 'long');
    t.match(held, { open: LONG_CONNECTIONS, lost: 0, wrong: 0 }, 'its own connections went on');

    // It serves again: when the other one dies, new connections are answered by it at once.
    const other = childrenOf(proxy, 'worker').find((candidate) => candidate !== pid) ?? 0;
    await startTraffic(running, 'again');
    await wait(300);
    process.kill(other, 'SIGKILL');
    const killedMs = epochMs();
    await wait(1500);
    noneRefused(t, await stopTraffic(running, 'again'), killedMs, 'the other one killed');
  },
);

function continueProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT');
  } catch {
    // Gone with its mesh.
  }
}
