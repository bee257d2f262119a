/**
 * Workers with 256 descriptors and more connections than fit: what does not fit waits in the kernel, nothing is
 * refused, nothing spins, and the rest is served as soon as descriptors are free (T69, F60, G18).
 */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import t, { type Test } from 'tap';

import { childrenOf, DB, podNamed, probeFrom, proxyOn } from '../../src/demo/actions.ts';
import { httpGet, until, wait } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh, untilCaptured, type TestMesh } from './harness.ts';
import { processorMs } from './process-usage.ts';
import { startSwarm, type Swarm } from './swarm.ts';

const LIMIT = 256;
const PORT = 7005;
const FULL_MS = 3000;

/** Gives the proxy of a node, its agent and its workers `LIMIT` descriptors. */
async function limit(running: TestMesh, node: string): Promise<void> {
  const proxy = proxyOn(running, node);
  const set = (pid: number): void => {
    const done = spawnSync('prlimit', [`--pid=${pid}`, `--nofile=${LIMIT}:${LIMIT}`]);
    if (done.status !== 0) throw new Error(String(done.stderr));
  };
  set(proxy.process.pid);
  for (const pid of childrenOf(proxy, 'agent')) set(pid);
  const old = childrenOf(proxy, 'worker');
  // Their heirs inherit the limit of the supervisor.
  for (const pid of old) process.kill(pid, 'SIGKILL');
  await until('heirs are there', 10_000, () => {
    const now = childrenOf(proxy, 'worker');
    return now.length === old.length && now.every((pid) => !old.includes(pid));
  });
  await untilCaptured(running, 4);
}

function lineCount(running: TestMesh, node: string): number {
  return readFileSync(proxyOn(running, node).logFile, 'utf8').split('\n').length;
}

/** Overfills, looks at the full proxy, makes room, and sees the rest served. */
async function overfill(
  t: Test,
  running: TestMesh,
  node: string,
  client: Swarm,
  count: number,
): Promise<void> {
  const { native, mesh } = running;
  const workers = childrenOf(proxyOn(running, node), 'worker');
  const cpu = (): number => workers.reduce((ms, pid) => ms + processorMs(pid), 0);
  const base = (await client.ask({ kind: 'counts' })).good;
  await client.ask({ kind: 'open', count, parallel: count, say: true, background: true });
  let served = 0;
  await until('as many as fit are served', 10_000, async () => {
    const now = (await client.ask({ kind: 'counts' })).good - base;
    const settled = now > 0 && now === served;
    served = now;
    await wait(200);
    return settled;
  });
  t.ok(served < count, `${served} of ${count} fit`);

  const [cpuBefore, linesBefore] = [cpu(), lineCount(running, node)];
  await wait(FULL_MS);
  const share = (cpu() - cpuBefore) / FULL_MS;
  const lines = lineCount(running, node) - linesBefore;
  t.ok(share <= 0.1 * workers.length, `full: ${(share * 100).toFixed(1)} % of a core`);
  t.ok(lines <= FULL_MS / 1000, `full: ${lines} log lines in ${FULL_MS / 1000} s`);
  const full = await client.ask({ kind: 'touch', each: 5 });
  t.match(full, { lost: 0, errors: [] }, 'nothing was refused, and what is served goes on');
  const { hub } = mesh.topology;
  const { ip } = mesh.nodeNamed(node);
  const metrics = await httpGet(native, hub.netns, ip, 15_020, '/metrics');
  t.equal(metrics?.status, 200, 'metrics answer');
  const ready = await mesh.readiness(mesh.nodeNamed(node));
  t.equal(ready?.status, 200, 'readiness answers');

  let left = count - served;
  let rounds = 0;
  let slowestMs = 0;
  while (left > 0 && rounds++ < 8) {
    const before = (await client.ask({ kind: 'counts' })).good;
    await client.ask({ kind: 'close', only: 'good' });
    const freed = performance.now();
    await until('waiting connections are served', 5000, async () => {
      const { good } = await client.ask({ kind: 'counts' });
      if (good > before) slowestMs = Math.max(slowestMs, performance.now() - freed);
      return good > before;
    });
    await wait(500);
    const { good, lost, errors } = await client.ask({ kind: 'counts' });
    t.equal(lost, 0, errors.join());
    left = count - (good - base);
  }
  t.equal(left, 0, 'all were served in the end');
  t.ok(slowestMs <= 1000, `recovered ${Math.round(slowestMs)} ms after room was made`);
  t.comment(
    `${node}: ${served} of ${count} fit, ${(share * 100).toFixed(1)} % of a core and ${lines} log lines in ${FULL_MS / 1000} s while full, recovered in ${Math.round(slowestMs)} ms`,
  );
  await client.ask({ kind: 'close' });
}

t.setTimeout(180_000);

t.test(
  'T69 F60 G18 accept storms under 256 descriptors',
  { skip: reasonToSkipMesh('prlimit') },
  async (t) => {
    const running = await createTestMesh(t);
    const log = join(running.dir, 'log', 'swarm.log');
    const db = podNamed(running, 'db').place;
    const server = await startSwarm(db, log, 'server', String(PORT));
    t.teardown(() => server.stop());
    const swarmFrom = async (pod: string): Promise<Swarm> => {
      const { place } = podNamed(running, pod);
      const swarm = await startSwarm(place, log, 'client', db.ip, String(PORT));
      t.teardown(() => swarm.stop());
      return swarm;
    };
    const web = await swarmFrom('web');
    const outsider = await swarmFrom('outsider');
    await limit(running, 'node-b');
    await t.test('at the destination, through tunnels', (t) =>
      overfill(t, running, 'node-b', web, 800),
    );
    await t.test('at the destination, in plain text', (t) =>
      overfill(t, running, 'node-b', outsider, 400),
    );
    await limit(running, 'node-a');
    await t.test('at the source', (t) => overfill(t, running, 'node-a', web, 600));
    t.ok((await probeFrom(running, 'web', DB)).ok, 'web reaches db afterwards');
  },
);
