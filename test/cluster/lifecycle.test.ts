/** Deployments that go to zero and back, and a node that is drained; `pod-lives.test.ts` has the lives of single pods. */

import t from 'tap';

import { until } from '../../src/demo/mesh.ts';
import { reasonToSkipCluster, useCluster, type TestCluster } from './harness.ts';
import { appObjects } from './manifests.ts';
import { target } from './pod-line.ts';

const DB = { protocol: 'db', port: 5432 } as const;
const READY_MS = 60_000;

async function strictNamespace(cluster: TestCluster, name: string): Promise<string> {
  await cluster.mesh();
  return cluster.namespace(name, { mesh: true, strict: true });
}

t.test('to zero and back', { skip: reasonToSkipCluster() }, async (t) => {
  const cluster = useCluster(t);
  const namespace = await strictNamespace(cluster, 'to-zero');
  await cluster.apply([
    ...appObjects(namespace, 'web'),
    ...appObjects(namespace, 'db', { serve: DB }),
  ]);
  await cluster.rolledOut(namespace, 'deployment/web', 'deployment/db');
  const web = await cluster.line(namespace, 'web');
  const db = target('db', `db.${namespace}`, DB.port);
  await until('db answers', READY_MS, async () => (await web.probe(db)).ok);
  await cluster.kubectl('-n', namespace, 'scale', 'deployment/db', '--replicas=0');
  await until('nobody answers', READY_MS, async () => !(await web.probe(db)).ok);
  const refused = await web.probe(db, 5000);
  t.notOk(refused.ok);
  t.ok(refused.durationMs < 4000, 'refused at once, not by a time-out', { refused });
  await cluster.kubectl('-n', namespace, 'scale', 'deployment/db', '--replicas=1');
  await until('db answers again', READY_MS, async () => (await web.probe(db)).ok);
  t.pass('and back');
});

t.test('eviction and the drain of a node', { skip: reasonToSkipCluster(true) }, async (t) => {
  const cluster = useCluster(t);
  const namespace = await strictNamespace(cluster, 'drained');
  const spread = {
    topologySpreadConstraints: [
      {
        maxSkew: 1,
        topologyKey: 'kubernetes.io/hostname',
        whenUnsatisfiable: 'ScheduleAnyway',
        labelSelector: { matchLabels: { app: 'db' } },
      },
    ],
  };
  await cluster.apply([
    ...appObjects(namespace, 'web', { node: 'node-a' }),
    ...appObjects(namespace, 'db', { serve: DB, replicas: 2, pod: spread }),
    {
      apiVersion: 'policy/v1',
      kind: 'PodDisruptionBudget',
      metadata: { name: 'db', namespace },
      spec: { minAvailable: 1, selector: { matchLabels: { app: 'db' } } },
    },
  ]);
  await cluster.rolledOut(namespace, 'deployment/web', 'deployment/db');
  const web = await cluster.line(namespace, 'web');
  const db = target('db', `db.${namespace}`, DB.port);
  await until('db answers', READY_MS, async () => (await web.probe(db)).ok);
  const wire = cluster.wire();
  await web.load('load', [db]);
  t.teardown(() => cluster.access.kubectl(['uncordon', 'node-b']));
  const selector = `--pod-selector=app=db`;
  await cluster.kubectl('drain', 'node-b', '--ignore-daemonsets', selector, '--timeout=90s');
  const left = (await cluster.pods(namespace, 'app=db')).filter(({ node }) => node === 'node-b');
  t.strictSame(left, [], 'evicted from the node');
  await cluster.rolledOut(namespace, 'deployment/db');
  const load = await web.loadStop('load');
  t.equal(load.failed, 0, `0 of ${load.sent} connections failed`, { errors: load.errors });
  const { readable, plain } = wire.counts();
  t.equal(readable + plain, 0, '0 frames outside tunnels');
});
