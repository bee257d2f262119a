/** Running pods in and out of the mesh, and how the mesh lives with what a cluster does around it. */

import t from 'tap';

import { until, wait } from '../../src/demo/mesh.ts';
import { reasonToSkipCluster, useCluster } from './harness.ts';
import { appObjects } from './manifests.ts';
import { target } from './pod-line.ts';

const DB = { protocol: 'db', port: 5432 } as const;
const LONG = 10;
const ENROL_MS = 60_000;
const LABEL = 'nodemesh.dev/mesh';

t.test(
  'running pods join and leave by a label: nothing restarts, open connections go on',
  { skip: reasonToSkipCluster(true) },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const namespace = await cluster.namespace('joining');
    await cluster.apply([
      ...appObjects(namespace, 'web', { node: 'node-a' }),
      ...appObjects(namespace, 'db', { node: 'node-b', serve: DB }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/web', 'deployment/db');
    const uids = (await cluster.pods(namespace)).map(({ uid }) => uid).toSorted();
    const web = await cluster.line(namespace, 'web');
    const db = target('db', `db.${namespace}`, DB.port);
    const wire = cluster.wire();
    const isWire = async (encrypted: boolean): Promise<boolean> => {
      wire.reset();
      for (let round = 0; round < 6; round++) if (!(await web.probe(db)).ok) return false;
      const { plainNew, tunnel } = wire.counts();
      return encrypted ? plainNew === 0 && tunnel > 0 : plainNew > 0;
    };
    await until('db answers', 20_000, async () => (await web.probe(db)).ok);
    await web.hold('before', db, LONG);
    await web.load('load', [db]);
    await wait(1000);
    t.ok(await isWire(false), 'before: plain');

    await cluster.kubectl('label', 'namespace', namespace, `${LABEL}=enabled`);
    await until('encrypted', ENROL_MS, () => isWire(true));
    await web.hold('within', db, LONG);
    await wait(1000);
    const before = await web.holdCounts('before');
    t.equal(before.lost + before.wrong, 0, 'joining cut none', { errors: before.errors });

    await cluster.kubectl('label', 'namespace', namespace, `${LABEL}-`);
    await until('plain again', ENROL_MS, () => isWire(false));
    await wait(1000);
    for (const name of ['before', 'within']) {
      const held = await web.holdStop(name);
      t.equal(held.lost + held.wrong, 0, `leaving cut none (${name})`, { errors: held.errors });
      t.equal(held.open, LONG, `all of them live (${name})`);
    }
    const load = await web.loadStop('load');
    t.equal(load.failed, 0, `0 of ${load.sent} new connections failed`, { errors: load.errors });
    t.strictSame((await cluster.pods(namespace)).map(({ uid }) => uid).toSorted(), uids);
  },
);

t.test(
  'T35 a NetworkPolicy between two pods of one node is honoured, and not skipped by the short way',
  { skip: reasonToSkipCluster(true) },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const namespace = await cluster.namespace('policed', { mesh: true, strict: true });
    await cluster.apply([
      ...appObjects(namespace, 'web', { node: 'node-a' }),
      ...appObjects(namespace, 'db', { node: 'node-a', serve: DB }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/web', 'deployment/db');
    const web = await cluster.line(namespace, 'web');
    const { ip: webIp } = await cluster.pod(namespace, 'app=web');
    const { ip: dbIp } = await cluster.pod(namespace, 'app=db');
    const db = target('db', `db.${namespace}`, DB.port);
    await until('web reaches db', 20_000, async () => (await web.probe(db)).ok);

    // The bridge CNI enforces no NetworkPolicy. This is what one that does puts into the node: a drop on the pods' own way.
    const rules = `table bridge enforcer {
  chain forward {
    type filter hook forward priority 0; policy accept;
    ip saddr ${webIp} ip daddr ${dbIp} tcp dport { ${DB.port}, 15008 } drop
  }
}`;
    const nft = async (...args: readonly string[]): Promise<void> =>
      void (await cluster.own.tool('node', 'node-a', 'nft', ...args));
    await nft(rules);
    t.teardown(() => nft('delete table bridge enforcer').catch(() => {}));
    t.ok((await web.probe(db)).ok, 'without a NetworkPolicy object the short way skips the drop');
    await cluster.apply([
      {
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata: { name: 'nobody', namespace },
        spec: {
          podSelector: { matchLabels: { app: 'db' } },
          policyTypes: ['Ingress'],
          ingress: [],
        },
      },
    ]);
    await until('the policy is honoured', 20_000, async () => !(await web.probe(db, 2000)).ok);
    await nft('delete table bridge enforcer');
    await until('web reaches db through the tunnel', 20_000, async () => (await web.probe(db)).ok);
    t.pass('with the object the traffic takes the way that is policed');
  },
);
