/** A rolling update of ten replicas under load costs no more failed requests in the mesh than without it. */

import t from 'tap';

import { until } from '../../src/demo/mesh.ts';
import { reasonToSkipCluster, useCluster, type TestCluster } from './harness.ts';
import { appObjects } from './manifests.ts';
import { target } from './pod-line.ts';

const HTTP = { protocol: 'http', port: 8080 } as const;
const REPLICAS = 10;

async function updateUnderLoad(cluster: TestCluster, name: string, mesh: boolean) {
  const namespace = await cluster.namespace(name, { mesh, strict: mesh });
  const app = {
    serve: HTTP,
    replicas: REPLICAS,
    container: { readinessProbe: { httpGet: { port: HTTP.port, path: '/' }, periodSeconds: 1 } },
  };
  await cluster.apply([...appObjects(namespace, 'client'), ...appObjects(namespace, 'cart', app)]);
  await cluster.rolledOut(namespace, 'deployment/client', 'deployment/cart');
  const client = await cluster.line(namespace, 'client');
  const cart = target('http', `cart.${namespace}`, HTTP.port);
  await until('cart answers', 20_000, async () => (await client.probe(cart)).ok);
  await client.load('load', [cart]);
  await cluster.kubectl('-n', namespace, 'rollout', 'restart', 'deployment/cart');
  await cluster.rolledOut(namespace, 'deployment/cart');
  await until('the old ones are gone', 60_000, async () => {
    const pods = await cluster.kubectl(
      '-n',
      namespace,
      'get',
      'pods',
      '-l',
      'app=cart',
      '-o',
      'name',
    );
    return pods.trim().split('\n').length === REPLICAS;
  });
  const load = await client.loadStop('load');
  await cluster.kubectl('delete', 'namespace', namespace, '--wait=false');
  return load;
}

t.test(
  'a rolling update of 10 replicas under load: 0 failed requests beyond what it costs without the mesh',
  { skip: reasonToSkipCluster() },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const without = await updateUnderLoad(cluster, 'update-bare', false);
    const within = await updateUnderLoad(cluster, 'update-mesh', true);
    t.comment(
      `without: ${without.failed} of ${without.sent} failed; in the mesh: ${within.failed} of ${within.sent}`,
    );
    t.ok(within.sent > 50, 'the load went on');
    t.ok(within.failed <= without.failed, 'no more than without', { errors: within.errors });
  },
);
