/** The CNI script on real nodes: who is held, who never is, with which words, and what other installers do to it. */

import t, { type Test } from 'tap';

import { until } from '../../src/demo/mesh.ts';
import { OWN_CONFLIST } from '../../src/redirect/cni-conflist.ts';
import { reasonToSkipCluster, useCluster, type TestCluster } from './harness.ts';
import { APP_IMAGE, appObjects, type KubeObject } from './manifests.ts';
import { SYSTEM } from './mesh.ts';
import { target } from './pod-line.ts';

const NODE = 'node-a';
const DB = { protocol: 'db', port: 5432 } as const;
const DAEMON_SET = 'daemonset/nodemesh-node';

function pod(namespace: string, name: string, args: readonly string[], labels = {}): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels: { app: name, ...labels } },
    spec: {
      nodeName: NODE,
      terminationGracePeriodSeconds: 1,
      containers: [{ name: 'app', image: APP_IMAGE, imagePullPolicy: 'IfNotPresent', args }],
    },
  };
}

async function phaseOf(cluster: TestCluster, namespace: string, name: string): Promise<string> {
  const path = 'jsonpath={.status.phase}';
  return (await cluster.kubectl('-n', namespace, 'get', 'pod', name, '-o', path)).trim();
}

const untilRunning = (cluster: TestCluster, namespace: string, name: string): Promise<number> =>
  until(`pod "${namespace}/${name}" runs`, 60_000, async () => {
    return (await phaseOf(cluster, namespace, name)) === 'Running';
  });

/** No node proxy on the node, as after a reboot, until the returned function brings it back. */
async function withoutProxy(t: Test, cluster: TestCluster): Promise<() => Promise<void>> {
  const patch = async (selector: string | null): Promise<void> => {
    const spec = { template: { spec: { nodeSelector: { 'kubernetes.io/hostname': selector } } } };
    const text = JSON.stringify({ spec });
    await cluster.kubectl('-n', SYSTEM, 'patch', DAEMON_SET, '--type', 'merge', '-p', text);
  };
  const back = async (): Promise<void> => {
    await patch(null);
    await cluster.rolledOut(SYSTEM, DAEMON_SET);
  };
  t.teardown(back);
  await patch('node-b');
  await until('the node has no proxy', 60_000, async () => {
    const found = await cluster.pods(SYSTEM, 'app.kubernetes.io/component=node');
    return !found.some(({ node }) => node === NODE);
  });
  const processes = async (): Promise<string> =>
    cluster.own.tool(
      'node',
      NODE,
      'sh',
      '-c',
      'grep -lzxE "agent|worker" /proc/[0-9]*/cmdline || :',
    );
  await until('its processes have ended', 60_000, async () => (await processes()).trim() === '');
  // What a reboot leaves of a folder in memory.
  await cluster.own.tool('node', NODE, 'sh', '-c', 'rm -rf /run/nodemesh/*');
  return back;
}

void t.test(
  'without the proxy a pod of the mesh is held with a reason, and nobody else is delayed (G07)',
  { skip: reasonToSkipCluster(true), timeout: 300_000 },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const plain = await cluster.namespace('cni-plain');
    const mesh = await cluster.namespace('cni-mesh', { mesh: true, strict: true });
    await cluster.apply(appObjects(mesh, 'db', { node: 'node-b', serve: DB }));
    await cluster.rolledOut(mesh, 'deployment/db');
    const startMs = async (name: string): Promise<number> => {
      const beganMs = performance.now();
      await cluster.apply([pod(plain, name, ['idle'])]);
      await untilRunning(cluster, plain, name);
      return performance.now() - beganMs;
    };
    const withMs = await startMs('with-proxy');
    const bringBack = await withoutProxy(t, cluster);
    const withoutMs = await startMs('without-proxy');
    const ms = (value: number): string => `${value.toFixed(0)} ms`;
    t.ok(
      withoutMs < withMs + 5000,
      `outside: ${ms(withMs)} with the proxy, ${ms(withoutMs)} without`,
    );
    await cluster.apply([pod('kube-system', 'cni-test', ['idle'])]);
    t.teardown(() => cluster.kubectl('-n', 'kube-system', 'delete', 'pod', 'cni-test', '--now'));
    await untilRunning(cluster, 'kube-system', 'cni-test');
    t.pass('kube-system starts without us');

    const file = '/etc/kubernetes/manifests/static.json';
    const text = JSON.stringify(pod(mesh, 'static', ['idle']));
    await cluster.own.tool('node', NODE, 'sh', '-c', `echo '${text}' > ${file}`);
    await until('a static pod starts without us, enrolled namespace or not', 60_000, async () => {
      const found = (await cluster.pods(mesh)).find(({ name }) => name === `static-${NODE}`);
      return found?.phase === 'Running';
    });
    await cluster.own.tool('node', NODE, 'rm', file);

    const first = ['first-act', `db.${mesh}`, String(DB.port)];
    await cluster.apply([
      pod(mesh, 'held', first),
      pod(plain, 'labelled', ['idle'], { 'nodemesh.dev/mesh': 'enabled' }),
    ]);
    await untilRunning(cluster, plain, 'labelled');
    t.pass('enrolled only by its own label, it is captured later');
    let message = '';
    await until('the refusal is an event', 60_000, async () => {
      const which = ['--field-selector', 'involvedObject.name=held,reason=FailedCreatePodSandBox'];
      const path = 'jsonpath={.items[*].message}';
      message = await cluster.kubectl('-n', mesh, 'get', 'events', ...which, '-o', path);
      return message !== '';
    });
    t.match(
      message,
      `Cannot start pod "${mesh}/held": its namespace is in the mesh, and the node proxy of this node does not answer`,
    );
    t.match(
      message,
      `New pods of "${mesh}" start when the nodemesh-node pod of this node is ready again`,
    );
    t.equal(await phaseOf(cluster, mesh, 'held'), 'Pending');

    await bringBack();
    await untilRunning(cluster, mesh, 'held');
    await until('its first act is answered', 30_000, async () =>
      (await cluster.kubectl('-n', mesh, 'logs', 'held')).includes('heard after'),
    );
    t.match(
      await cluster.kubectl('-n', mesh, 'logs', 'held'),
      /heard after 1\n/,
      'at the first try',
    );
    const rules = async (): Promise<string> => {
      const { uid } = await cluster.pod(plain, 'app=labelled');
      const find = `for f in $(grep -l ${uid} /proc/[0-9]*/cgroup 2>/dev/null); do nsenter --net=$(dirname $f)/ns/net nft list table inet nodemesh && break; done || :`;
      return cluster.own.tool('node', NODE, 'sh', '-c', find);
    };
    await until('the labelled pod is captured', 30_000, async () =>
      (await rules()).includes('redirect to :15001'),
    );
    t.pass('and so is the one with the label');
  },
);

void t.test(
  'another installer that writes its file anew takes nobody out of the chain',
  { skip: reasonToSkipCluster(true), timeout: 120_000 },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const inNode = (script: string): Promise<string> =>
      cluster.own.tool('node', NODE, 'sh', '-c', `cd /etc/cni/net.d && ${script}`);
    const theirs = (await inNode(`ls | grep -v ${OWN_CONFLIST} | head -1`)).trim();
    const before = await inNode(`cat ${theirs}`);
    t.teardown(() => inNode(`mv .kept ${theirs} 2>/dev/null || :`));
    await inNode(`cp ${theirs} .kept`);
    const chained = async (): Promise<readonly string[]> => {
      const text = await inNode(`cat ${OWN_CONFLIST} 2>/dev/null || :`);
      if (text === '') return [];
      const list: unknown = JSON.parse(text);
      const plugins = (list as { plugins: readonly { type: string }[] }).plugins;
      return plugins.map(({ type }) => type);
    };
    const types = await chained();
    t.match(types.at(-1), /^nodemesh-cni-\d/);

    await inNode(`sed 's/"portmap"/"tuning"/' .kept > .new && mv .new ${theirs}`);
    t.match((await chained()).at(-1), /^nodemesh-cni-\d/, 'not for a moment');
    await until('their change is in ours', 15_000, async () =>
      (await chained()).includes('tuning'),
    );
    await inNode(`rm ${OWN_CONFLIST}`);
    await until('ours is back', 15_000, async () => (await chained()).includes('tuning'));
    await inNode(`cp .kept .new && mv .new ${theirs}`);
    await until('as it was', 15_000, async () => (await chained()).join() === types.join());
    t.equal(await inNode(`cat ${theirs}`), before, 'theirs is theirs');
    const mesh = await cluster.namespace('cni-chain', { mesh: true, strict: true });
    await cluster.apply([
      ...appObjects(mesh, 'db', { node: 'node-b', serve: DB }),
      ...appObjects(mesh, 'web', { node: NODE }),
    ]);
    await cluster.rolledOut(mesh, 'deployment/db', 'deployment/web');
    const line = await cluster.line(mesh, 'web');
    const answer = await line.probe(target('db', `db.${mesh}`, DB.port));
    t.ok(answer.ok, answer.text);
  },
);
