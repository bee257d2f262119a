/** Services of every kind, from a pod of the mesh to pods of the mesh: reached, and encrypted. */

import t from 'tap';

import { until, wait } from '../../src/demo/mesh.ts';
import { reasonToSkipCluster, useCluster } from './harness.ts';
import { appObjects, podTemplate, serviceObject, type KubeObject } from './manifests.ts';
import { target, type PodLine } from './pod-line.ts';

const HTTP = { protocol: 'http', port: 8080 } as const;
const NAMESPACE = 'kinds';
const ROUNDS = 12;
/** From the API server to the workers. */
const KNOWN_MS = 500;

/** Every pod answers with its own name. */
const OWN_NAME = {
  args: ['serve', '$(POD)', 'v1', String(HTTP.port), 'http'],
  env: [{ name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }],
};

/** Names of the pods that answered. */
async function whoAnswers(
  client: PodLine,
  host: string,
  port: number = HTTP.port,
): Promise<Set<string>> {
  const names = new Set<string>();
  for (let round = 0; round < ROUNDS; round++) {
    const { ok, text } = await client.probe(target('http', host, port));
    names.add(ok ? (/"app":"([^"]+)"/.exec(text)?.[1] ?? text) : `failed: ${text}`);
  }
  return names;
}

function statefulSet(): KubeObject[] {
  return [
    serviceObject(NAMESPACE, 'set', HTTP, { clusterIP: 'None' }),
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'set', namespace: NAMESPACE } },
    {
      apiVersion: 'apps/v1',
      kind: 'StatefulSet',
      metadata: { name: 'set', namespace: NAMESPACE },
      spec: {
        serviceName: 'set',
        replicas: 2,
        podManagementPolicy: 'Parallel',
        selector: { matchLabels: { app: 'set' } },
        template: podTemplate('set', { serve: HTTP, node: 'node-b', container: OWN_NAME }),
      },
    },
  ];
}

t.test('Services of every kind', { skip: reasonToSkipCluster(true) }, async (t) => {
  const cluster = useCluster(t);
  await cluster.mesh();
  await cluster.namespace(NAMESPACE, { mesh: true, strict: true });
  const named = { name: 'web', port: 80, targetPort: 'http-main' };
  await cluster.apply([
    ...appObjects(NAMESPACE, 'client', { node: 'node-a' }),
    ...appObjects(NAMESPACE, 'cart', {
      serve: HTTP,
      node: 'node-b',
      replicas: 2,
      container: OWN_NAME,
    }),
    ...statefulSet(),
    serviceObject(NAMESPACE, 'headless', HTTP, { clusterIP: 'None', selector: { app: 'cart' } }),
    serviceObject(NAMESPACE, 'named', HTTP, { selector: { app: 'cart' }, ports: [named] }),
    serviceObject(NAMESPACE, 'sticky', HTTP, {
      selector: { app: 'cart' },
      sessionAffinity: 'ClientIP',
    }),
    serviceObject(NAMESPACE, 'six', HTTP, {
      selector: { app: 'cart' },
      ipFamilyPolicy: 'SingleStack',
      ipFamilies: ['IPv6'],
    }),
    serviceObject(NAMESPACE, 'both', HTTP, {
      selector: { app: 'cart' },
      ipFamilyPolicy: 'RequireDualStack',
      ipFamilies: ['IPv4', 'IPv6'],
    }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'alias', namespace: NAMESPACE },
      spec: { type: 'ExternalName', externalName: `cart.${NAMESPACE}.svc.cluster.local` },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'by-hand', namespace: NAMESPACE },
      spec: { ports: [{ name: 'http', port: HTTP.port }] },
    },
  ]);
  const names = ['deployment/client', 'deployment/cart', 'statefulset/set'];
  await cluster.rolledOut(NAMESPACE, ...names);
  const carts = await cluster.pods(NAMESPACE, 'app=cart');
  const all = new Set(carts.map(({ name }) => name));
  await cluster.apply([
    {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: {
        name: 'by-hand-1',
        namespace: NAMESPACE,
        labels: { 'kubernetes.io/service-name': 'by-hand' },
      },
      addressType: 'IPv4',
      ports: [{ name: 'http', port: HTTP.port, protocol: 'TCP' }],
      endpoints: carts.map(({ ip }) => ({ addresses: [ip], conditions: { ready: true } })),
    },
  ]);
  const client = await cluster.line(NAMESPACE, 'client');
  const cart = `cart.${NAMESPACE}`;
  await until('cart answers', 20_000, async () => {
    return (await client.probe(target('http', cart, HTTP.port))).ok;
  });
  await until('the endpoints made by hand are known', 20_000, async () => {
    return (await client.probe(target('http', `by-hand.${NAMESPACE}`, HTTP.port))).ok;
  });
  // Ready is not yet listed: Kubernetes tries again a second later when it finds that its own cache is old.
  const listedMs = await until(
    'Kubernetes lists every cart behind every service',
    20_000,
    async () => {
      for (const service of ['cart', 'headless', 'named', 'sticky', 'six', 'both']) {
        const label = `kubernetes.io/service-name=${service}`;
        const path =
          'jsonpath={range .items[*].endpoints[?(@.conditions.ready)]}{.targetRef.name} {end}';
        const get = ['-n', NAMESPACE, 'get', 'endpointslices', '-l', label, '-o', path];
        const listed = new Set((await cluster.kubectl(...get)).trim().split(' '));
        if (carts.some(({ name }) => !listed.has(name))) return false;
      }
      return true;
    },
  );
  t.comment(`Kubernetes has listed every endpoint ${Math.round(listedMs)} ms after cart answered`);
  await wait(KNOWN_MS);
  const wire = cluster.wire();
  t.strictSame(await whoAnswers(client, cart), all, 'ClusterIP');
  // Which of its addresses is taken is the resolver's choice (RFC 6724), and it may always choose the same.
  const headless = await whoAnswers(client, `headless.${NAMESPACE}`);
  t.ok(
    [...headless].every((name) => all.has(name)),
    'headless',
    { headless },
  );
  t.strictSame(await whoAnswers(client, `named.${NAMESPACE}`, 80), all, 'a named target port');
  t.strictSame(await whoAnswers(client, `alias.${NAMESPACE}`), all, 'ExternalName');
  t.strictSame(await whoAnswers(client, `by-hand.${NAMESPACE}`), all, 'without a selector');
  t.equal((await whoAnswers(client, `sticky.${NAMESPACE}`)).size, 1, 'session affinity');
  for (const name of ['set-0', 'set-1']) {
    const answered = await whoAnswers(client, `${name}.set.${NAMESPACE}`);
    t.strictSame(answered, new Set([name]), `StatefulSet: ${name} by its own name`);
  }
  const path = 'jsonpath={.spec.clusterIPs}';
  const both = await cluster.kubectl('-n', NAMESPACE, 'get', 'service', 'both', '-o', path);
  for (const ip of JSON.parse(both) as string[]) {
    t.strictSame(
      await whoAnswers(client, ip),
      all,
      `dual stack: ${ip.includes(':') ? 'IPv6' : 'IPv4'}`,
    );
  }
  t.strictSame(await whoAnswers(client, `six.${NAMESPACE}`), all, 'IPv6 alone');
  const { readable, plain, tunnel } = wire.counts();
  t.ok(tunnel > 0);
  t.equal(readable, 0, '0 readable frames');
  t.equal(plain, 0, '0 frames outside tunnels');
});
