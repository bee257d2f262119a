/** TrafficPolicy → what the waypoints of a service get: targets, precedence of age, conflicts, who is told what. */

import fc from 'fast-check';
import { isDeepStrictEqual } from 'node:util';
import t from 'tap';

import type { MeshObject } from '../../src/controlplane/objects.ts';
import { gatewayApi, Model, namespace, own, read, service, type Json } from './build.ts';

type Change =
  | { readonly name: string; readonly target: Json; readonly seconds: number }
  | { readonly gone: string }
  | { readonly route: boolean }
  | { readonly gateway: boolean };

const USE = { 'nodemesh.dev/waypoint': 'way' };
const CART = 'shop/cart.shop.svc.cluster.local';
const FAR = 'other/far.other.svc.cluster.local';
const WAY = 'shop/way';
const onCart = { kind: 'Service', name: 'cart' };

const BASE: readonly MeshObject[] = [
  namespace('shop', USE),
  namespace('other'),
  gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }),
  service('shop/cart', {
    clusterIP: '10.96.0.1',
    ports: [
      { name: 'http', port: 80 },
      { name: 'alt', port: 81 },
    ],
  }),
  service('other/far', { clusterIP: '10.96.0.3', ports: [{ port: 80 }] }),
];

const base = (): Model => new Model().put(...BASE);
const request = (seconds: number): Json => ({ timeouts: { request: `${seconds}s` } });
const policy = (
  path: string,
  target: Json,
  spec: Json,
  created = '2026-01-01T00:00:00Z',
): MeshObject =>
  own('TrafficPolicy', path, { targetRefs: [target], ...spec }, { creationTimestamp: created });
const route = (path: string, more: Json = {}): MeshObject =>
  gatewayApi('HTTPRoute', path, {
    parentRefs: [{ group: '', kind: 'Service', name: 'cart' }],
    ...more,
  });

/** `SCOPE SECONDS` of each layer. */
function layers(model: Model, key = CART, waypoint = WAY): string[] {
  const found = model.traffic.get(waypoint)?.get(key)?.layers ?? [];
  return found.map(({ scope, settings }) => {
    const { kind, ...rest } = scope;
    const of = Object.values(rest).join('/');
    return `${kind}${of === '' ? '' : ` ${of}`} ${(settings.timeouts?.requestMs ?? 0) / 1_000}`;
  });
}

const reasons = (model: Model): string[] =>
  [...model.world.conditions()]
    .filter(({ key }) => key.startsWith('TrafficPolicy/'))
    .map(({ key, reason, message }) => `${key} ${reason}: ${message}`);

t.test('each target becomes a layer of the services it bears on', async (t) => {
  const model = base().put(
    policy('shop/n', { kind: 'Namespace', name: 'shop' }, request(1)),
    policy('shop/g', { kind: 'Gateway', name: 'way' }, request(2)),
    policy('shop/s', onCart, request(3)),
    policy('shop/p', { ...onCart, sectionName: 'alt' }, request(4)),
    policy('shop/r', { kind: 'HTTPRoute', name: 'r' }, request(5)),
    policy('shop/u', { kind: 'HTTPRoute', name: 'r', sectionName: 'one' }, request(6)),
    policy('other/s', onCart, request(9)),
    route('shop/r', { rules: [{ name: 'one' }] }),
  );
  model.publish();
  t.strictSame(layers(model), [
    'namespace 1',
    'gateway 2',
    'service 3',
    'port 81 4',
    'route HTTPRoute/shop/r 5',
    'rule HTTPRoute/shop/r/one 6',
  ]);
  t.equal(model.traffic.get(WAY)?.get(CART)?.layers[2]?.source, 'shop/s');
  t.match(reasons(model), [
    /^TrafficPolicy\/other\/s TargetNotFound: Service "cart" does not exist/,
  ]);
  model.remove('TrafficPolicy', 'shop/s').publish();
  t.equal(layers(model).length, 5);
});

t.test('a port is meant by its name or number, and a name that is not there is said', async (t) => {
  const model = base().put(
    policy('shop/a', { ...onCart, sectionName: '80' }, request(1)),
    policy('shop/b', { ...onCart, sectionName: 'none' }, request(2)),
    policy('shop/c', { kind: 'HTTPRoute', name: 'r', sectionName: 'two' }, request(3)),
    policy('shop/d', { kind: 'Gateway', name: 'none' }, request(4)),
    route('shop/r', { rules: [{ name: 'one' }] }),
  );
  model.publish();
  t.strictSame(layers(model), ['port 80 1', 'rule HTTPRoute/shop/r/two 3']);
  t.match(reasons(model), [
    /\/b .*has no port "none"/,
    /\/c .*has no rule "two"/,
    /\/d .*not exist/,
  ]);
  model.put(route('shop/r', { rules: [{ name: 'two' }] })).publish();
  t.equal(reasons(model).length, 2, 'it came later');
});

t.test('of two with the same target the older counts, section by section', async (t) => {
  const model = base().put(
    policy('shop/new', onCart, { ...request(9), retries: { attempts: 3 } }, '2026-02-01T00:00:00Z'),
    policy('shop/old', onCart, request(1)),
  );
  model.publish();
  t.strictSame(layers(model), ['service 1']);
  const settings = model.traffic.get(WAY)?.get(CART)?.layers[0]?.settings;
  t.equal(settings?.retries?.attempts, 3, 'what the older one does not say');
  t.match(reasons(model), [/^TrafficPolicy\/shop\/new Conflicted: .*"shop\/old".*: timeouts$/]);
  model.remove('TrafficPolicy', 'shop/old').publish();
  t.strictSame(layers(model), ['service 9']);
  t.strictSame(reasons(model), []);
});

t.test("Gateway API's own policy is one of them", async (t) => {
  const model = base().put(
    read({
      apiVersion: 'gateway.networking.x-k8s.io/v1alpha1',
      kind: 'XBackendTrafficPolicy',
      metadata: { namespace: 'shop', name: 'x' },
      spec: { targetRefs: [{ group: '', kind: 'Service', name: 'cart' }], retryConstraint: {} },
    }),
  );
  model.publish();
  t.match(model.traffic.get(WAY)?.get(CART)?.layers, [
    { scope: { kind: 'service' }, settings: { budget: { percent: 20 } } },
  ]);
});

t.test("failover names services of the policy's own namespace", async (t) => {
  const balancing = { failover: [{ name: 'spare', port: 81 }] };
  const model = base().put(policy('shop/s', onCart, { balancing }));
  model.publish();
  t.strictSame(model.traffic.get(WAY)?.get(CART)?.layers[0]?.settings.balancing?.failover, [
    { service: 'shop/spare.shop.svc.cluster.local', port: 81 },
  ]);
});

t.test(
  'only waypoints that send requests there are told: the bound one, and those whose routes may',
  async (t) => {
    const model = base().put(policy('other/s', { kind: 'Service', name: 'far' }, request(7)));
    model.publish();
    t.equal(model.traffic.size, 0, 'it has no waypoint');
    const far = { name: 'far', namespace: 'other', port: 80 };
    model.put(route('shop/r', { rules: [{ backendRefs: [far] }] })).publish();
    t.strictSame(layers(model, FAR), [], 'nobody has granted that');
    const from = { group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', namespace: 'shop' };
    model.put(
      gatewayApi('ReferenceGrant', 'other/g', {
        from: [from],
        to: [{ group: '', kind: 'Service' }],
      }),
    );
    model.publish();
    t.strictSame(layers(model, FAR), ['service 7']);
    model.remove('HTTPRoute', 'shop/r').publish();
    t.strictSame(layers(model, FAR), []);
    model.put(route('shop/r', { rules: [{ backendRefs: [far] }] })).publish();
    t.strictSame(layers(model, FAR), ['service 7']);
    model.remove('Service', 'shop/cart').publish();
    t.strictSame(layers(model, FAR), [], 'the route leads there from nowhere');
    model.put(policy('shop/s', onCart, request(1)), ...BASE).publish();
    t.strictSame(layers(model), ['service 1']);
    model.remove('Gateway', 'shop/way').publish();
    t.strictSame([layers(model), layers(model, FAR)], [[], []]);
  },
);

t.test('any order of changes ends where the last ones alone would', async () => {
  const names = ['a', 'b', 'c'];
  const target = fc.constantFrom<Json>(
    onCart,
    { ...onCart, sectionName: 'http' },
    { kind: 'Namespace', name: 'shop' },
    { kind: 'Gateway', name: 'way' },
    { kind: 'HTTPRoute', name: 'r' },
  );
  const change: fc.Arbitrary<Change> = fc.oneof(
    fc.record({ name: fc.constantFrom(...names), target, seconds: fc.integer({ min: 1, max: 5 }) }),
    fc.record({ gone: fc.constantFrom(...names) }),
    fc.record({ route: fc.boolean() }),
    fc.record({ gateway: fc.boolean() }),
  );
  const apply = (model: Model, one: Change): void => {
    if ('name' in one) model.put(policy(`shop/${one.name}`, one.target, request(one.seconds)));
    else if ('gone' in one) model.remove('TrafficPolicy', `shop/${one.gone}`);
    else if ('route' in one) {
      if (one.route) model.put(route('shop/r'));
      else model.remove('HTTPRoute', 'shop/r');
    } else if (one.gateway) {
      model.put(gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }));
    } else model.remove('Gateway', 'shop/way');
  };
  fc.assert(
    fc.property(fc.array(change, { maxLength: 12 }), (changes) => {
      const stepwise = base();
      stepwise.publish();
      for (const one of changes) {
        apply(stepwise, one);
        stepwise.publish();
      }
      const atOnce = base();
      for (const one of changes) apply(atOnce, one);
      atOnce.publish();
      return (
        isDeepStrictEqual(layers(stepwise), layers(atOnce)) &&
        isDeepStrictEqual(reasons(stepwise).toSorted(), reasons(atOnce).toSorted())
      );
    }),
    { numRuns: 60 },
  );
});
