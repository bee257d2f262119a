/**
 * Nothing readable from STRICT pods, whatever happens to the node: pods whose first act is to connect (G08), node
 * proxies that restart (F21), a node that loses its power (G07). The short form is a test, the long one a soak.
 */

import type { Test } from 'tap';

import { until } from '../../src/demo/mesh.ts';
import type { WireCounts } from '../../src/demo/wire.ts';
import { useCluster, type TestCluster } from './harness.ts';
import { appObjects, podTemplate, type KubeObject } from './manifests.ts';
import { SYSTEM } from './mesh.ts';
import { target } from './pod-line.ts';

const DB = { protocol: 'db', port: 5432 } as const;
const AT_ONCE = 10;
const POD_START_MS = 20_000;
const NODE_BACK_MS = 150_000;

async function strictDb(cluster: TestCluster, name: string): Promise<string> {
  await cluster.mesh();
  const namespace = await cluster.namespace(name, { mesh: true, strict: true });
  await cluster.apply(appObjects(namespace, 'db', { node: 'node-b', serve: DB }));
  await cluster.rolledOut(namespace, 'deployment/db');
  return namespace;
}

function job(namespace: string, name: string, count: number, host: string): KubeObject[] {
  const template = podTemplate(name, {
    args: ['once', host, String(DB.port)],
    node: 'node-a',
    pod: { restartPolicy: 'Never' },
  });
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace } },
    {
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name, namespace },
      spec: {
        completions: count,
        parallelism: Math.min(count, AT_ONCE),
        backoffLimit: 0,
        template,
      },
    },
  ];
}

function assertNothingReadable(t: Test, what: string, seen: WireCounts): void {
  t.comment(`${what}: ${seen.tunnel} tunnel frames, ${seen.plain + seen.readable} others`);
  t.ok(seen.tunnel > 0, `${what}: the tunnels were seen`);
  t.equal(seen.readable, 0, `${what}: 0 readable frames`);
  t.equal(seen.plain, 0, `${what}: 0 frames outside tunnels`, { sample: seen.plainSample });
}

/** G08 T31: `count` pods connect before they do anything else. */
export async function testPodStarts(t: Test, count: number): Promise<void> {
  const cluster = useCluster(t);
  const namespace = await strictDb(cluster, 'first-packet');
  const wire = cluster.wire();
  await cluster.apply(
    job(namespace, 'first', count, await cluster.serviceAddress(namespace, 'db')),
  );
  await until(`${count} pods were heard`, POD_START_MS * (2 + count / AT_ONCE), async () => {
    const args = ['-n', namespace, 'get', 'job', 'first', '-o', 'jsonpath={.status.succeeded}'];
    return (await cluster.kubectl(...args)) === String(count);
  });
  assertNothingReadable(t, `${count} pod starts`, wire.counts());
}

/** Node proxies ended and replaced, `count` times, alternately on the client's and the server's node. */
export async function testProxyRestarts(t: Test, count: number): Promise<void> {
  const cluster = useCluster(t);
  const namespace = await strictDb(cluster, 'proxy-restarts');
  await cluster.apply(appObjects(namespace, 'web', { node: 'node-a' }));
  await cluster.rolledOut(namespace, 'deployment/web');
  const web = await cluster.line(namespace, 'web');
  const db = target('db', `db.${namespace}`, DB.port);
  const wire = cluster.wire();
  await web.load('load', [db]);
  for (let round = 0; round < count; round++) {
    const node = round % 2 === 0 ? 'node-a' : 'node-b';
    const proxies = await cluster.pods(SYSTEM, 'app.kubernetes.io/component=node');
    const old = proxies.find((pod) => pod.node === node);
    // No orderly end: one second, then it is killed.
    await cluster.kubectl('-n', SYSTEM, 'delete', 'pod', old?.name ?? '', '--grace-period=1');
    await cluster.rolledOut(SYSTEM, 'daemonset/nodemesh-node');
    await until('connections succeed again', POD_START_MS, async () => (await web.probe(db)).ok);
  }
  const load = await web.loadStop('load');
  t.comment(`${load.ok} of ${load.sent} connections succeeded across ${count} abrupt restarts`);
  t.ok(load.ok > 0, 'connections succeeded in between');
  assertNothingReadable(t, `${count} proxy restarts`, wire.counts());
}

/** G07 T33: the node loses its power while its pods talk, and comes back with what its disk holds. */
export async function testReboot(t: Test): Promise<void> {
  const cluster = useCluster(t);
  const namespace = await strictDb(cluster, 'reboot');
  const host = await cluster.serviceAddress(namespace, 'db');
  const talkers = { args: ['chatter', host, String(DB.port)], node: 'node-a', replicas: 5 };
  await cluster.apply(appObjects(namespace, 'talker', talkers));
  await cluster.rolledOut(namespace, 'deployment/talker');
  // The port of the node that stays: the other one's goes with the node.
  const wire = cluster.wire({ device: 'v-node-b' });
  await until('the talkers are heard', POD_START_MS, () => wire.counts().tunnel > 50);
  const before = await restarts(cluster, namespace);
  await cluster.own.tool('stop', 'node-a');
  const stoppedAt = performance.now();
  await cluster.own.tool('start', 'node-a');
  const atStart = wire.counts().tunnel;
  await until('all talkers have started again', NODE_BACK_MS, async () => {
    const after = await restarts(cluster, namespace);
    return after.every(({ ready, count }) => ready && count > 0) && after.length === before.length;
  });
  t.comment(`5 talkers were back ${Math.round((performance.now() - stoppedAt) / 1000)} s after`);
  await until('they are heard again', POD_START_MS, () => wire.counts().tunnel > atStart + 50);
  assertNothingReadable(t, 'a node reboot', wire.counts());
  await cluster.rolledOut(SYSTEM, 'daemonset/nodemesh-node');
}

async function restarts(
  cluster: TestCluster,
  namespace: string,
): Promise<{ readonly ready: boolean; readonly count: number }[]> {
  const path =
    '{range .items[*]}{.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}{"\\n"}{end}';
  const args = ['-n', namespace, 'get', 'pods', '-l', 'app=talker', '-o', `jsonpath=${path}`];
  return (await cluster.kubectl(...args))
    .trim()
    .split('\n')
    .map((line) => ({ ready: line.startsWith('true'), count: Number(line.split(' ')[1]) }));
}
