/** A successor beside the running proxy takes over under load; the old one serves its connections and goes. */

import { existsSync, renameSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';

import t from 'tap';

import {
  childrenOf,
  describeLoad,
  holdCounts,
  holdOpen,
  holdStop,
  linesOf,
  LONG_CONNECTIONS,
  proxyOn,
  startTraffic,
  stopTraffic,
} from '../../src/demo/actions.ts';
import { until, wait, type NodeProxy } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh, untilCaptured, type TestMesh } from './harness.ts';

const skip = reasonToSkipMesh();

async function replace(running: TestMesh, node: string): Promise<NodeProxy> {
  const old = proxyOn(running, node);
  const successor = running.mesh.startNode(node);
  await running.mesh.waitHandedOver(old, successor);
  running.proxies.set(node, successor);
  return old;
}

const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`);

t.test(
  'upgrading both nodes under load refuses none, keeps long connections, and the old processes end with them',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    await holdOpen(running, 'long');
    await startTraffic(running, 'load');
    const olds: NodeProxy[] = [];
    for (const node of ['node-a', 'node-b']) olds.push(await replace(running, node));
    await untilCaptured(running, 4);
    await wait(500);
    const load = await stopTraffic(running, 'load');
    t.same(load.errors, [], describeLoad(load));
    t.match(await holdCounts(running, 'long'), { open: LONG_CONNECTIONS, lost: 0, wrong: 0 });
    const pids = olds.flatMap((old) => [
      old.process.pid,
      ...childrenOf(old, 'worker'),
      ...childrenOf(old, 'agent'),
    ]);
    t.ok(pids.every(isAlive), 'the old ones serve their connections');
    await holdStop(running, 'long');
    const ms = await until('the old processes end', 15_000, () => !pids.some(isAlive));
    t.ok(ms < 15_000, `gone ${Math.round(ms)} ms after their last connection`);
  },
);

/** An enrolled pod that no process of its node belongs to, as one whose end is not known yet. */
function goneNamespace(pods: number): string {
  const objects = Array.from(
    { length: pods },
    (_, index) => `apiVersion: v1
kind: Pod
metadata:
  name: gone-${index}
  namespace: gone
  uid: 00000000-0000-4000-8000-0000000001${index}0
spec:
  nodeName: node-b
  serviceAccountName: gone
  containers: [{ name: app, image: demo }]
status: { phase: Running, podIP: 10.42.2.20${index}, podIPs: [{ ip: 10.42.2.20${index} }] }
`,
  );
  const namespace = `apiVersion: v1
kind: Namespace
metadata:
  name: gone
  labels: { nodemesh.dev/mesh: enabled }
`;
  return [namespace, ...objects].join('---\n');
}

t.test(
  'a successor that looks for pods which are gone takes over when it serves those that are there',
  { skip },
  async (t) => {
    const running = await createTestMesh(t, { manifests: { 'gone.yaml': goneNamespace(3) } });
    // Until the last good configuration has them; it is written some 2 s after a change.
    await wait(3000);
    await startTraffic(running, 'load');
    for (let round = 0; round < 2; round++) {
      await replace(running, 'node-b');
      await untilCaptured(running, 4);
      await wait(500);
    }
    const load = await stopTraffic(running, 'load');
    t.same(load.errors, [], describeLoad(load));
  },
);

t.test(
  'two successors at once: one of them serves in the end, nothing is refused, nothing is lost',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    await holdOpen(running, 'long');
    await startTraffic(running, 'load');
    const all = [proxyOn(running, 'node-b')];
    for (let count = 0; count < 2; count++) all.push(running.mesh.startNode('node-b'));
    const ended = new Set<NodeProxy>();
    for (const proxy of all) void proxy.process.exited.then(() => ended.add(proxy));
    const drains = (proxy: NodeProxy): boolean => linesOf(proxy, 'node proxy drains').length > 0;
    await until('two of three drain', 30_000, () => all.filter(drains).length === 2);
    const heir = all.find((proxy) => !drains(proxy));
    t.not(heir, all[0], 'one of the successors');
    if (heir !== undefined) running.proxies.set('node-b', heir);
    await untilCaptured(running, 4);
    await wait(1000);
    const load = await stopTraffic(running, 'load');
    t.same(load.errors, [], describeLoad(load));
    t.match(await holdCounts(running, 'long'), { open: LONG_CONNECTIONS, lost: 0, wrong: 0 });
    await holdStop(running, 'long');
    await until('the two have ended', 15_000, () => ended.size === 2);
    t.notOk(heir !== undefined && ended.has(heir));
  },
);

t.test(
  'who was complete in the same moment as another stands aside for it',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    const own = join(running.dir, 'node-b', 'run', 'supervisor.sock');
    const other = createServer((socket) => {
      socket.on('error', () => {});
    });
    t.teardown(() => other.close());
    // As the other one takes the path: made beside it and renamed.
    await new Promise<void>((resolve) => other.listen(`${own}.other`, resolve));
    renameSync(`${own}.other`, own);
    const proxy = proxyOn(running, 'node-b');
    const aside = (): boolean => linesOf(proxy, 'another proxy serves this node').length === 1;
    await until('it stands aside', 10_000, aside);
    t.equal(await Promise.race([proxy.process.exited, wait(10_000)]), 0, 'and ends');
  },
);

t.test(
  'a proxy that nobody can find any more takes its place back, and its successor finds it',
  { skip },
  async (t) => {
    const running = await createTestMesh(t);
    const own = join(running.dir, 'node-b', 'run', 'supervisor.sock');
    // Another took the path and was killed: its file is there, and nobody answers.
    const dead = createServer();
    await new Promise<void>((resolve) => dead.listen(`${own}.dead`, resolve));
    renameSync(`${own}.dead`, own);
    await new Promise((resolve) => void dead.close(resolve));
    t.ok(existsSync(own));
    const proxy = proxyOn(running, 'node-b');
    const back = (): boolean => linesOf(proxy, 'taking the place back').length === 1;
    await until('it takes its place back', 10_000, back);
    t.equal(await replace(running, 'node-b'), proxy);
    t.equal(await Promise.race([proxy.process.exited, wait(10_000)]), 0, 'it was handed over');
  },
);

t.test(
  'a drain deadline of 5 s cuts what is left, with the reason in the log',
  { skip },
  async (t) => {
    const running = await createTestMesh(t, {
      workers: 1,
      nodeSettings: { NODEMESH_DRAIN_S: '5' },
    });
    await holdOpen(running, 'long');
    const old = await replace(running, 'node-b');
    t.equal((await holdCounts(running, 'long')).lost, 0, 'none is cut before');
    await until('all are cut', 20_000, async () => (await holdCounts(running, 'long')).open === 0);
    const reason = await Promise.race([old.process.exited, wait(10_000)]);
    t.equal(reason, 0, 'the old proxy has ended');
    const records = linesOf(old, '"flag":"DRAIN"');
    t.equal(records.length, LONG_CONNECTIONS, 'each record says why');
    t.match(records[0] ?? '', /MESH_DRAINED/);
  },
);
