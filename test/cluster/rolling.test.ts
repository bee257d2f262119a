/** The node proxies' DaemonSet rolled under load: the successor takes over beside its predecessor (G01, G03, F22). */

import t from 'tap';

import { until, wait } from '../../src/demo/mesh.ts';
import { reasonToSkipCluster, useCluster, type PodView } from './harness.ts';
import { appObjects } from './manifests.ts';
import { SYSTEM } from './mesh.ts';
import { target } from './pod-line.ts';

const DB = { protocol: 'db', port: 5432 } as const;
const LONG = 20;
/** The second one begins while the first generation still drains. */
const ROUNDS = 2;
const PROXIES = 'app.kubernetes.io/component=node';
const SETTLE_MS = 3000;
const ROLLED_MS = 120_000;
const DRAIN_MS = 60_000;

t.test(
  'G01 G03 rolling restarts of the DaemonSet under 20 new connections/s and 20 long ones: 0 failed, 0 cut',
  { skip: reasonToSkipCluster() },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const namespace = await cluster.namespace('rolling', { mesh: true, strict: true });
    await cluster.apply([
      ...appObjects(namespace, 'web', { node: 'node-a' }),
      ...appObjects(namespace, 'db', { node: 'node-b', serve: DB }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/web', 'deployment/db');
    const proxies = (): Promise<PodView[]> => cluster.pods(SYSTEM, PROXIES);
    const web = await cluster.line(namespace, 'web');
    const db = target('db', `db.${namespace}`, DB.port);
    await until('db answers', 20_000, async () => (await web.probe(db)).ok);
    await web.hold('long', db, LONG);
    await until('the long connections are open', 10_000, async () => {
      return (await web.holdCounts('long')).open === LONG;
    });
    await web.load('load', [db]);
    await wait(SETTLE_MS);
    const replaced = new Set<string>();
    for (let round = 0; round < ROUNDS; round++) {
      const before = await proxies();
      for (const { uid } of before) replaced.add(uid);
      await cluster.kubectl('-n', SYSTEM, 'rollout', 'restart', 'daemonset/nodemesh-node');
      // `rollout status` would wait for the predecessors, which drain as long as their connections live.
      await until('every node proxy has a ready successor', ROLLED_MS, async () => {
        const now = await proxies();
        return (
          now.length === before.length && now.every((pod) => pod.ready && !replaced.has(pod.uid))
        );
      });
      await wait(SETTLE_MS);
      const { sent, failed } = await web.loadCounts('load');
      t.comment(`rolled ${round + 1} times: ${failed} of ${sent} new connections failed`);
    }
    const load = await web.loadStop('load');
    t.comment(`${load.sent} new connections, slowest ${Math.round(load.slowestMs)} ms`);
    t.equal(load.failed, 0, '0 new connections failed', { errors: load.errors });
    const long = await web.holdCounts('long');
    t.equal(long.lost, 0, '0 long connections were cut', { errors: long.errors });
    t.equal(long.wrong, 0, 'and none carried a foreign byte');
    await wait(500);
    t.ok((await web.holdStop('long')).exchanged > long.exchanged, 'they go on');
    await until('the predecessors end with their last connection', DRAIN_MS, async () => {
      const left = await cluster.kubectl('-n', SYSTEM, 'get', 'pods', '-l', PROXIES, '-o', 'name');
      return left.trim().split('\n').length === (await proxies()).length;
    });
  },
);
