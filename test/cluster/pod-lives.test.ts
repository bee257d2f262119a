/** Pods as Kubernetes makes and ends them: init containers, Jobs, native sidecars, new sandboxes, inherited addresses. */

import t from 'tap';

import { until } from '../../src/demo/mesh.ts';
import { reasonToSkipCluster, useCluster, type TestCluster } from './harness.ts';
import { APP_IMAGE, appObjects, type KubeObject } from './manifests.ts';
import { target } from './pod-line.ts';

const NODE = 'node-a';
const DB = { protocol: 'db', port: 5432 } as const;
const HTTP = { protocol: 'http', port: 8080 } as const;

function container(name: string, args: readonly string[], more: KubeObject = {}): KubeObject {
  return { name, image: APP_IMAGE, imagePullPolicy: 'IfNotPresent', args, ...more };
}

function job(namespace: string, name: string, spec: KubeObject): KubeObject {
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name, namespace },
    spec: {
      backoffLimit: 0,
      template: {
        metadata: { labels: { app: name } },
        spec: { restartPolicy: 'Never', nodeSelector: { 'kubernetes.io/hostname': NODE }, ...spec },
      },
    },
  };
}

async function completed(cluster: TestCluster, namespace: string, name: string): Promise<void> {
  await cluster.kubectl(
    '-n',
    namespace,
    'wait',
    '--for=condition=complete',
    `job/${name}`,
    '--timeout=90s',
  );
}

void t.test(
  'init containers, Jobs and native sidecars are in the mesh from their first act',
  { skip: reasonToSkipCluster(), timeout: 300_000 },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const namespace = await cluster.namespace('lives', { mesh: true, strict: true });
    await cluster.apply([
      ...appObjects(namespace, 'db', { node: 'node-b', serve: DB }),
      ...appObjects(namespace, 'web', { node: NODE }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/db', 'deployment/web');
    const host = await cluster.serviceAddress(namespace, 'db');
    // What is looked at is the jobs' own first act, not whether db listens yet.
    const web = await cluster.line(namespace, 'web');
    await until('db answers', 20_000, async () => {
      return (await web.probe(target('db', host, DB.port))).ok;
    });
    const once = ['once', host, String(DB.port)];
    const sidecar = container('side', ['serve', 'side', 'v1', String(HTTP.port), 'http'], {
      restartPolicy: 'Always',
      startupProbe: {
        httpGet: { path: '/', port: HTTP.port },
        periodSeconds: 1,
        failureThreshold: 30,
      },
    });
    await cluster.apply([
      job(namespace, 'plain', { containers: [container('app', once)] }),
      job(namespace, 'init', {
        initContainers: [container('first', once)],
        containers: [container('app', once)],
      }),
      job(namespace, 'sidecar', {
        initContainers: [sidecar],
        containers: [container('app', once)],
      }),
    ]);
    for (const name of ['plain', 'init', 'sidecar']) {
      await completed(cluster, namespace, name);
      const logs = ['-n', namespace, 'logs', `job/${name}`, '--all-containers'];
      const text = await cluster.kubectl(...logs);
      const heard = text.match(/heard after \d+/g) ?? [];
      t.equal(heard.length, name === 'init' ? 2 : 1, `${name}: ${heard.join(', ')}`);
      t.ok(
        heard.every((line) => line === 'heard after 1'),
        `${name} was answered at the first try`,
        { text },
      );
    }
  },
);

void t.test(
  'a pod whose sandbox is made anew under its UID is captured anew',
  { skip: reasonToSkipCluster(true), timeout: 300_000 },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const namespace = await cluster.namespace('sandbox', { mesh: true, strict: true });
    await cluster.apply([
      ...appObjects(namespace, 'db', { node: 'node-b', serve: DB }),
      ...appObjects(namespace, 'web', { node: NODE, serve: HTTP }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/db', 'deployment/web');
    const before = await cluster.pod(namespace, 'app=web');
    // The sandbox's own process: the kubelet makes another sandbox for the same pod.
    const kill = `for f in $(grep -l ${before.uid} /proc/[0-9]*/cgroup 2>/dev/null); do d=$(dirname $f); [ "$(cat $d/comm)" = pause ] && kill -9 $(basename $d); done || :`;
    await cluster.own.tool('node', NODE, 'sh', '-c', kill);
    await until('the pod has another sandbox', 90_000, async () => {
      const path =
        'jsonpath={.items[*].status.containerStatuses[*].restartCount} {.items[*].status.containerStatuses[*].ready}';
      const args = ['-n', namespace, 'get', 'pods', '-l', 'app=web', '-o', path];
      return /^[1-9]\d* true$/.test(await cluster.kubectl(...args));
    });
    const after = await cluster.pod(namespace, 'app=web');
    t.equal(after.uid, before.uid);
    const line = await cluster.line(namespace, 'web');
    const answer = await line.probe(target('db', `db.${namespace}`, DB.port));
    t.ok(answer.ok, `it reaches db: ${answer.text}`);
    const client = await cluster.namespace('sandbox-plain');
    await cluster.apply(appObjects(client, 'outsider', { node: 'node-b' }));
    await cluster.rolledOut(client, 'deployment/outsider');
    const outsider = await cluster.line(client, 'outsider');
    const refused = await outsider.probe(target('http', after.ip, HTTP.port));
    t.notOk(refused.ok, `and STRICT holds there: ${refused.text}`);
  },
);

void t.test(
  'a pod that inherits an address is reached as itself, never as its predecessor (T47)',
  { skip: reasonToSkipCluster(true), timeout: 300_000 },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const namespace = await cluster.namespace('inherit', { mesh: true, strict: true });
    await cluster.apply([
      ...appObjects(namespace, 'web', { node: 'node-b' }),
      ...appObjects(namespace, 'old', { node: NODE, serve: HTTP }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/web', 'deployment/old');
    const old = await cluster.pod(namespace, 'app=old');
    const line = await cluster.line(namespace, 'web');
    const at = target('http', old.ip, HTTP.port);
    await until('the old one answers', 20_000, async () => {
      return (await line.probe(at)).text.includes('old');
    });
    await line.load('inherit', [at], 20);
    await cluster.kubectl('-n', namespace, 'delete', 'deployment', 'old');
    await until('the pod is gone', 60_000, async () => {
      const args = ['-n', namespace, 'get', 'pods', '-l', 'app=old', '-o', 'name'];
      return (await cluster.kubectl(...args)).trim() === '';
    });
    // host-local gives the address after the last one.
    const previous = old.ip.replace(/\d+$/, (last) => String(Number(last) - 1));
    const reserve = `for f in $(ls /var/lib/cni/networks/*/last_reserved_ip.*); do grep -q : $f || printf %s ${previous} > $f; done`;
    await cluster.own.tool('node', NODE, 'sh', '-c', reserve);
    await cluster.apply(appObjects(namespace, 'heir', { node: NODE, serve: HTTP }));
    await until('the heir has its address', 60_000, async () => {
      return (await cluster.pods(namespace, 'app=heir')).some(({ ip }) => ip !== '');
    });
    const heir = await cluster.pod(namespace, 'app=heir');
    t.equal(heir.ip, old.ip, 'the same address');
    // The node's kernel takes the predecessor's hardware address for true for up to 45 s (seen), and so does the kubelet
    // with its probes; who hands out an address anew so soon must see to that.
    await cluster.own.tool('node', NODE, 'ip', 'neigh', 'flush', 'dev', 'cni0');
    await cluster.rolledOut(namespace, 'deployment/heir');
    let answer = await line.probe(at);
    await until('the heir answers', 40_000, async () => {
      answer = await line.probe(at);
      return answer.ok;
    });
    t.match(answer.text, /heir/);
    const counts = await line.loadStop('inherit');
    t.comment(`under load meanwhile: ${counts.ok} answered, ${counts.failed} failed`);
    for (let round = 0; round < 20; round++) {
      t.match((await line.probe(at)).text, /heir/, 'as itself');
    }
  },
);
