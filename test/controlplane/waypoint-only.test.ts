/** T49: ports that an L7 policy governs are open to the service's waypoint alone; with routes only, to everybody. */

import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { parseAddress, parseSocketAddress } from '../../src/core/address.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import { isWaypointOnly } from '../../src/core/policy.ts';
import { createAuthorizer } from '../../src/policy/authorizer.ts';
import { gatewayApi, Model, namespace, own, pod, service, type Json } from './build.ts';

const WAY = 'ns/shop/sa/way';
const WEB = 'ns/shop/sa/web';
const labels = { app: 'cart' };
const rules = [{ to: [{ operation: { methods: ['GET'] } }] }];

function policy(targetRefs: Json[], more: Json = {}, meta: Json = {}): ReturnType<typeof own> {
  return own(
    'AuthorizationPolicy',
    'shop/p',
    { action: 'ALLOW', rules, targetRefs, ...more },
    meta,
  );
}

function model(...objects: ReturnType<typeof own>[]): Model {
  const built = new Model().put(
    namespace('shop', { 'nodemesh.dev/waypoint': 'way', 'nodemesh.dev/mesh': 'enabled' }),
    gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }),
    service('shop/cart', {
      clusterIP: '10.96.0.1',
      selector: labels,
      ports: [
        { name: 'http', port: 80, targetPort: 8_080 },
        { name: 'named', port: 81, targetPort: 'admin' },
      ],
    }),
    pod('shop/cart-1', {
      ip: '10.0.0.1',
      labels,
      phase: 'Running',
      spec: { containers: [{ name: 'c', ports: [{ name: 'admin', containerPort: 9_000 }] }] },
    }),
    pod('shop/other', { ip: '10.0.0.2', phase: 'Running' }),
    ...objects,
  );
  built.settleAll();
  return built;
}

const verdict = (built: Model, source: string | undefined, port = 8_080, at = 'cart-1'): boolean =>
  built.decide(`shop/${at}`, source, port).allowed;

const CART = { group: '', kind: 'Service', name: 'cart' };
const GATEWAY = { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'way' };

t.test('T49 with a policy on the service or its waypoint nobody goes around it', (t) => {
  for (const target of [CART, GATEWAY]) {
    const built = model(policy([target]));
    t.equal(verdict(built, WAY), true);
    t.equal(verdict(built, WAY, 9_000), true, 'a named port is the pod’s own');
    for (const port of [8_080, 9_000]) {
      t.equal(verdict(built, WEB, port), false, 'a meshed client at the pod’s address');
      t.equal(verdict(built, undefined, port), false, 'a client without a mesh');
      t.equal(verdict(built, 'ns/other/sa/way', port), false, 'a namesake');
    }
    t.equal(verdict(built, WEB, 22), true, 'other ports are not governed');
    t.equal(verdict(built, WEB, 8_080, 'other'), true, 'nor are other pods');
    built.remove('AuthorizationPolicy', 'shop/p').settleAll();
    t.equal(verdict(built, WEB), true, 'until the policy goes');
    t.equal(built.policies.size, 1, 'and nothing of it stays but STRICT, which is always there');
  }
  t.end();
});

t.test('the waypoint judges without it, with the client’s identity', (t) => {
  const built = model(policy([CART]));
  const workload = built.workload('shop/cart-1');
  const only = workload.authorizationPolicies.filter(isWaypointOnly);
  t.equal(only.length, 1);
  t.equal(isWaypointOnly('shop/p'), false);
  const source = {
    synced: true,
    version: 1,
    get: (key: string) => built.policies.get(key),
    globals: () => [],
    inNamespace: () => [],
  };
  const facts = {
    source: `spiffe://cluster.local/${WEB}` as SpiffeId,
    sourceIp: unwrap(parseAddress('10.9.9.9')),
    destination: unwrap(parseSocketAddress('10.0.0.1:8080')),
  };
  t.equal(createAuthorizer(source).decide(facts, workload).allowed, false);
  t.equal(createAuthorizer(source, isWaypointOnly).decide(facts, workload).allowed, true);
  t.end();
});

t.test('with routes only, with AUDIT or in dry run, a pod’s own address is open', (t) => {
  const route = gatewayApi('HTTPRoute', 'shop/r', { parentRefs: [CART], rules: [] });
  t.equal(verdict(model(route), WEB), true);
  t.equal(verdict(model(policy([CART], { action: 'AUDIT' })), WEB), true);
  const annotations = { 'nodemesh.dev/dry-run': 'true' };
  t.equal(verdict(model(policy([CART], {}, { annotations })), WEB), true);
  t.end();
});

t.test('G06 a governed service whose waypoint is gone is closed to everybody', (t) => {
  const built = model(policy([CART]));
  built.remove('Gateway', 'shop/way').settleAll();
  t.equal(verdict(built, WAY), false);
  t.equal(verdict(built, WEB), false);
  t.equal(verdict(built, WEB, 22), true);
  built.put(gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }));
  built.settleAll();
  t.equal(verdict(built, WAY), true);
  t.end();
});

t.test('who prefers its waypoint still does not get around a policy', (t) => {
  const annotations = { 'nodemesh.dev/waypoint-policy': 'preferred' };
  const spec = {
    clusterIP: '10.96.0.1',
    selector: labels,
    ports: [{ port: 80, targetPort: 8_080 }],
  };
  const key = 'shop/cart.shop.svc.cluster.local';
  const built = model(service('shop/cart', spec, annotations));
  t.equal(built.services.get(key)?.waypoint, undefined);
  built.put(policy([CART])).settleAll();
  t.ok(built.services.get(key)?.waypoint, 'refused at the client, with its reason');
  t.equal(verdict(built, WEB), false);
  t.end();
});

t.test('a policy that pods share is there while one of them lists it', (t) => {
  const built = model(policy([CART]));
  const count = built.policies.size;
  built.put(pod('shop/cart-2', { ip: '10.0.0.3', labels, phase: 'Running' })).settleAll();
  built.put(
    pod('shop/cart-3', {
      ip: '10.0.0.4',
      labels,
      phase: 'Running',
      spec: { containers: [{ name: 'c', ports: [{ name: 'admin', containerPort: 9_000 }] }] },
    }),
  );
  built.settleAll();
  t.equal(built.policies.size, count + 1, 'cart-2 has no port of that name, cart-3 is as cart-1');
  built.remove('Pod', 'shop/cart-1').settleAll();
  t.equal(verdict(built, WEB, 8_080, 'cart-3'), false);
  built.remove('Pod', 'shop/cart-3').remove('Pod', 'shop/cart-2').settleAll();
  t.equal(built.policies.size, 1);
  t.end();
});
