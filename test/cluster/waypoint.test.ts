/** A waypoint on a real cluster from its making to its end, by meshctl, under load: no request is lost on the way. */

import t from 'tap';

import { until } from '../../src/demo/mesh.ts';
import { installGatewayApi } from '../conformance/gateway-api/crds.ts';
import { reasonToSkipGatewayApi, useCluster, type TestCluster } from './harness.ts';
import { appObjects, serviceObject, type KubeObject } from './manifests.ts';
import { meshctl } from './mesh.ts';
import { target, type PodLine } from './pod-line.ts';

const HTTP = { protocol: 'http', port: 8080 } as const;
const PODS = 'gateway.networking.k8s.io/gateway-name=waypoint';
const READY_MS = 60_000;
/** The last node hears of a change a moment after the first. */
const ROUNDS = 60;
const FAIL_PERCENT = 30;

/** One version of `cart`, whose Service has all of them. */
function cart(namespace: string, version: string, node: string, failPercent = 0): KubeObject[] {
  const args = ['serve', 'cart', version, String(HTTP.port), 'http', '5000', String(failPercent)];
  const container = { args };
  const labels = { versions: 'cart' };
  return appObjects(namespace, `cart-${version}`, {
    serve: HTTP,
    version,
    node,
    labels,
    container,
  });
}

function targeting(kind: string, namespace: string, spec: KubeObject): KubeObject {
  return {
    apiVersion: 'nodemesh.dev/v1alpha1',
    kind,
    metadata: { name: 'cart', namespace, annotations: { 'nodemesh.dev/explain-refusals': 'true' } },
    spec: { targetRefs: [{ kind: 'Service', name: 'cart' }], ...spec },
  };
}

/** The requests of a load while `act` runs, and until it is over. */
async function lost(line: PodLine, host: string, act: () => Promise<void>): Promise<string> {
  await line.load('waypoint', [target('http', host, HTTP.port)], 40);
  await act();
  const { sent, failed, errors } = await line.loadStop('waypoint');
  if (sent < 20) throw new Error(`a load of ${sent} requests is none`);
  return failed === 0 ? '' : `${failed} of ${sent}: ${errors.join('; ')}`;
}

async function json(cluster: TestCluster, ...args: readonly string[]): Promise<unknown> {
  return JSON.parse((await meshctl(cluster.access, ...args, '-o', 'json')).out);
}

t.test(
  'a waypoint is made, replaced pod by pod and taken away under load: 0 requests lost; L7 policies govern meanwhile',
  { skip: reasonToSkipGatewayApi(true), timeout: 300_000 },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    await installGatewayApi(cluster.access);
    const namespace = await cluster.namespace('l7', { mesh: true, strict: true });
    await cluster.apply([
      ...appObjects(namespace, 'web', { node: 'node-a' }),
      ...cart(namespace, 'v1', 'node-b'),
      serviceObject(namespace, 'cart', HTTP, { selector: { versions: 'cart' } }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/web', 'deployment/cart-v1');
    const web = await cluster.line(namespace, 'web');
    const host = await cluster.serviceAddress(namespace, 'cart');
    const get = target('http', host, HTTP.port);
    await until('cart answers', READY_MS, async () => (await web.probe(get)).ok);
    const wire = cluster.wire();
    const waypoint = async (verb: string, ...args: readonly string[]): Promise<string> => {
      const done = await meshctl(cluster.access, 'waypoint', verb, '-n', namespace, ...args);
      t.equal(done.code, 0, `meshctl waypoint ${verb}: ${done.err}`);
      return done.out;
    };

    const making = await lost(web, host, async () => {
      t.match(await waypoint('apply'), `namespace ${namespace}: requests to its services pass`);
      // Sooner than the autoscaler, who would do the same.
      await cluster.kubectl('-n', namespace, 'scale', 'deployment/waypoint', '--replicas=2');
      await cluster.rolledOut(namespace, 'deployment/waypoint');
    });
    t.equal(making, '', '0 requests lost on the way in');
    const row = { namespace, name: 'waypoint', ready: true, namespaces: [namespace] };
    t.match(await json(cluster, 'waypoint', 'list', '-n', namespace), { items: [row] });
    const processes = [{ ready: true }, { ready: true }];
    t.match(await json(cluster, 'waypoint', 'status', '-n', namespace), { ...row, processes });

    const before = await cluster.pods(namespace, PODS);
    const replacing = await lost(web, host, async () => {
      await cluster.kubectl('-n', namespace, 'rollout', 'restart', 'deployment/waypoint');
      await cluster.rolledOut(namespace, 'deployment/waypoint');
      await until('their predecessors have ended', READY_MS, async () => {
        const args = ['-n', namespace, 'get', 'pods', '-l', PODS, '-o', 'name'];
        const names = (await cluster.kubectl(...args)).trim().split('\n');
        return names.length === 2 && before.every(({ name }) => !names.includes(`pod/${name}`));
      });
    });
    t.equal(replacing, '', '0 requests lost while both pods were replaced');

    const failures = async (): Promise<number> => {
      let count = 0;
      for (let round = 0; round < ROUNDS; round++) count += Number(!(await web.probe(get)).ok);
      return count;
    };
    await cluster.apply([
      ...cart(namespace, 'v2', 'node-a', FAIL_PERCENT),
      targeting('TrafficPolicy', namespace, { balancing: { algorithm: 'round-robin' } }),
    ]);
    await cluster.rolledOut(namespace, 'deployment/cart-v2');
    await until('v2 answers, and fails', READY_MS, async () => !(await web.probe(get)).ok);
    t.ok((await failures()) > 0, `without a policy ${FAIL_PERCENT} % of v2 are seen to fail`);
    await cluster.apply([
      targeting('TrafficPolicy', namespace, {
        balancing: { algorithm: 'round-robin' },
        retries: { attempts: 2, statusCodes: [503] },
      }),
    ]);
    await until('the failures are hidden', READY_MS, async () => (await failures()) === 0);
    t.equal(await failures(), 0, 'a TrafficPolicy hides them');

    const source = { principals: [`cluster.local/ns/${namespace}/sa/web`] };
    const rules = [{ from: [{ source }], to: [{ operation: { methods: ['GET'] } }] }];
    await cluster.apply([targeting('AuthorizationPolicy', namespace, { action: 'ALLOW', rules })]);
    const post = { ...get, method: 'POST' };
    let refusal = '';
    await until('POST is refused', READY_MS, async () => {
      refusal = (await web.probe(post)).text;
      return !refusal.includes('"app"');
    });
    t.match(refusal, /no rule|not allowed|policy/i, `and says why: ${refusal}`);
    t.match((await web.probe(get)).text, '"app":"cart"', 'GET is not');
    const { ip } = await cluster.pod(namespace, 'app=cart-v1');
    await until('nobody goes around it to the pod', READY_MS, async () => {
      return !(await web.probe(target('http', ip, HTTP.port), 2000)).ok;
    });
    const policies = ['authorizationpolicies.nodemesh.dev', 'trafficpolicies.nodemesh.dev'];
    await cluster.kubectl('-n', namespace, 'delete', policies.join(','), '--all');
    await cluster.kubectl('-n', namespace, 'delete', 'deployment/cart-v2');
    await until('POST is let in again', READY_MS, async () => {
      return (await web.probe(post)).text.includes('"app"');
    });
    await until('v2 is forgotten', READY_MS, async () => (await failures()) === 0);

    const leaving = await lost(web, host, async () => {
      t.match(await waypoint('delete'), `waypoint ${namespace}/waypoint deleted`);
      await until('its pods have ended', READY_MS, async () => {
        const args = ['-n', namespace, 'get', 'pods', '-l', PODS, '-o', 'name'];
        return (await cluster.kubectl(...args)).trim() === '';
      });
    });
    t.equal(leaving, '', '0 requests lost on the way out');
    t.match(await json(cluster, 'waypoint', 'list', '-n', namespace), { items: [] });
    const { readable, plain, tunnel } = wire.counts();
    t.ok(tunnel > 0);
    t.equal(readable + plain, 0, '0 frames outside tunnels all the while');
  },
);
