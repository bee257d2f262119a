/** The test cluster itself, without the mesh: what the other tests stand on. */

import t from 'tap';

import { until } from '../../src/demo/mesh.ts';
import { reasonToSkipCluster, useCluster } from './harness.ts';
import { appObjects } from './manifests.ts';
import { target } from './pod-line.ts';

const DB = { protocol: 'db', port: 5432 } as const;

t.test(
  'two nodes carry pods, names resolve, and plain text between them is seen',
  { skip: reasonToSkipCluster(true) },
  async (t) => {
    const cluster = useCluster(t);
    const nodes = await cluster.kubectl('get', 'nodes', '-o', 'name');
    t.strictSame(nodes.trim().split('\n').toSorted(), ['node/node-a', 'node/node-b']);
    const namespace = await cluster.namespace('bare');
    await cluster.apply([
      ...appObjects(namespace, 'web', { node: 'node-a' }),
      ...appObjects(namespace, 'db', { node: 'node-b', serve: DB }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/web', 'deployment/db');
    const wire = cluster.wire();
    const line = await cluster.line(namespace, 'web');
    const db = target('db', `db.${namespace}`, DB.port);
    // Rolled out means started; listening, and known to the nodes, it is a moment later.
    await until('db answers', 20_000, async () => (await line.probe(db)).ok);
    const { readable, tunnel } = wire.counts();
    t.ok(readable > 0, 'the control of every "0 plaintext frames": without the mesh they are seen');
    t.equal(tunnel, 0);
  },
);
