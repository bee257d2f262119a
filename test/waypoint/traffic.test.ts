/** Policies at work: which layer counts, what survives a change, destinations and their endpoints. */

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import type { HttpRule } from '../../src/core/route.ts';
import {
  DEFAULT_BALANCING,
  DEFAULT_LIMITS,
  DEFAULT_OUTLIERS,
  DEFAULT_RETRIES,
  DEFAULT_TIMEOUTS,
  type TrafficScope,
} from '../../src/core/traffic-policy.ts';
import { createResilienceMetrics } from '../../src/waypoint/resilience-metrics.ts';
import { Traffic } from '../../src/waypoint/traffic.ts';
import { mergeTraffic, type TrafficTarget } from '../../src/waypoint/traffic-layers.ts';
import { emptyState, key, service, workload } from '../state/build.ts';
import { layer, rateLimit, traffic } from './traffic-builder.ts';

const route = { kind: 'HTTPRoute', namespace: 'shop', name: 'r', createdMs: 0 } as const;
const rule = (more: Partial<HttpRule> = {}): HttpRule => ({
  route,
  index: 0,
  name: 'one',
  hostnames: [],
  matches: [],
  filters: [],
  backends: [],
  requestTimeoutMs: undefined,
  backendRequestTimeoutMs: undefined,
  retry: undefined,
  sessionPersistence: undefined,
  invalid: '',
  ...more,
});

function rig() {
  const clock = createFakeClock();
  const { state } = emptyState();
  const policies = new Traffic({
    clock,
    random: createSeededRandom(1),
    source: state.services,
    client: () => workload('waypoint'),
    metrics: createResilienceMetrics(createNullRegistry()),
    rateStore: undefined,
  });
  state.applyAddresses({
    services: [service('cart'), service('spare')],
    workloads: [
      workload('a', { addresses: ['10.0.0.1'], services: ['cart'] }),
      workload('b', { addresses: ['10.0.0.2'], services: ['cart'], tunnelProtocol: 'none' }),
      workload('s', { addresses: ['10.0.0.3'], services: ['spare'] }),
    ],
  });
  return { clock, state, policies };
}

t.test('the strongest layer that has a section gives all of it', async (t) => {
  const timeouts = (requestMs: number) => ({ timeouts: { ...DEFAULT_TIMEOUTS, requestMs } });
  const scopes: TrafficScope[] = [
    { kind: 'namespace' },
    { kind: 'gateway' },
    { kind: 'service' },
    { kind: 'port', port: 80 },
    { kind: 'route', routeKind: 'HTTPRoute', namespace: 'shop', name: 'r' },
    { kind: 'rule', routeKind: 'HTTPRoute', namespace: 'shop', name: 'r', rule: 'one' },
  ];
  const target = { port: 80, route, rule: 'one' };
  fc.assert(
    fc.property(fc.shuffledSubarray(scopes), (chosen) => {
      const layers = chosen.map((scope) => layer(scope, timeouts(scopes.indexOf(scope) + 1)));
      const strongest = Math.max(0, ...chosen.map((scope) => scopes.indexOf(scope) + 1));
      const merged = mergeTraffic(traffic('cart', ...layers), target);
      return merged.timeouts.requestMs === strongest;
    }),
  );
  const all = traffic('cart', ...scopes.map((scope, index) => layer(scope, timeouts(index + 1))));
  const at = (more: Partial<TrafficTarget>): number =>
    mergeTraffic(all, { ...target, ...more }).timeouts.requestMs;
  t.equal(at({ rule: 'two' }), 5);
  t.equal(at({ rule: '' }), 5);
  t.equal(at({ route: { ...route, name: 'other' } }), 4);
  t.equal(at({ port: 81, route: { ...route, kind: 'GRPCRoute' } }), 3);
});

t.test('sections are merged, budgets alone replace those of the retries', async (t) => {
  const budget = { percent: 1, intervalMs: 1_000, minPerSecond: 0 };
  const merged = mergeTraffic(
    traffic(
      'cart',
      layer({ kind: 'namespace' }, { retries: { ...DEFAULT_RETRIES, attempts: 5 } }),
      layer({ kind: 'service' }, { budget, limits: { ...DEFAULT_LIMITS, requestsMax: 3 } }),
    ),
    { port: 80, route: undefined, rule: '' },
  );
  t.match(merged, { retries: { attempts: 5, budget }, limits: { requestsMax: 3 } });
  t.strictSame(mergeTraffic(undefined, { port: 80, route: undefined, rule: '' }), {
    retries: DEFAULT_RETRIES,
    timeouts: DEFAULT_TIMEOUTS,
    balancing: DEFAULT_BALANCING,
    limits: DEFAULT_LIMITS,
    outliers: undefined,
    rateLimits: [],
    rateLimitScope: '',
    faults: [],
  });
});

t.test("a rule's own timeouts and retry win over policies", async (t) => {
  const { policies } = rig();
  const timeouts = { ...DEFAULT_TIMEOUTS, requestMs: 9_000 };
  policies.apply([traffic('cart', layer({ kind: 'service' }, { timeouts }))], []);
  const own = rule({
    requestTimeoutMs: 500,
    retry: { attempts: 4, codes: [503], backoffMs: undefined },
  });
  const plan = policies.plan(key('cart'), 80, own);
  t.equal(plan.times.requestMs, 500);
  t.equal(plan.retries.settings.attempts, 4);
  t.equal(policies.plan(key('cart'), 80, rule()).times.requestMs, 9_000);
  t.equal(policies.plan(key('cart'), 80, own), plan, 'made once');
  policies.apply([], [key('cart')]);
  t.equal(policies.plan(key('cart'), 80, undefined).times.requestMs, undefined);
});

t.test('rate limits go on counting over changes that do not touch them', async (t) => {
  const { policies } = rig();
  const put = (requestMs: number, burst: number): void =>
    policies.apply(
      [
        traffic(
          'cart',
          layer(
            { kind: 'service' },
            { timeouts: { ...DEFAULT_TIMEOUTS, requestMs }, rateLimits: [rateLimit({ burst })] },
          ),
        ),
      ],
      [],
    );
  const take = () => policies.plan(key('cart'), 80, undefined).rateLimiter?.take('a', []);
  put(1, 1);
  t.equal(take(), undefined);
  t.ok(take());
  put(2, 1);
  t.ok(take(), 'the same limit');
  put(2, 2);
  t.equal(take(), undefined, 'another limit');
});

t.test('a visit says where to go, counts load, and tells the detector', async (t) => {
  const { policies, clock } = rig();
  policies.apply(
    [
      traffic(
        'cart',
        layer({ kind: 'service' }, { outliers: { ...DEFAULT_OUTLIERS, consecutiveFailures: 2 } }),
      ),
    ],
    [],
  );
  const cart = policies.destination(key('cart'), 80);
  const nobody = new Set<string>();
  const visits = Array.from({ length: 6 }, () => policies.visit(cart, undefined, nobody));
  for (const visit of visits) {
    const { workload: of, address, protocol, identities } = visit?.target ?? {};
    t.equal(address?.port, 8080);
    t.equal(protocol, of?.name === 'a' ? 'hbone' : 'plain');
    t.strictSame(identities, ['spiffe://cluster.local/ns/shop/sa/default']);
  }
  const names = visits.map((visit) => visit?.target.workload.name);
  t.ok(names.includes('a') && names.includes('b'), 'open visits weigh');
  for (const visit of visits) {
    visit?.answered();
    visit?.end(visit.target.workload.name === 'b');
    visit?.end(true);
  }
  const after = Array.from({ length: 10 }, () => policies.visit(cart, undefined, nobody));
  t.ok(
    after.every((visit) => visit?.target.workload.name === 'b'),
    'a is out',
  );
  await clock.advance(1_000);
  const probe = policies.visit(cart, undefined, nobody);
  t.equal(probe?.target.workload.name, 'a', 'a probe');
  probe?.end(true);
  policies.apply([], [key('cart')]);
  t.equal(cart.traffic.outliers, undefined);
});

t.test('a probe that stands brings its endpoint back before it ends', async (t) => {
  const { policies, clock } = rig();
  const outliers = { ...DEFAULT_OUTLIERS, consecutiveFailures: 1 };
  policies.apply([traffic('cart', layer({ kind: 'service' }, { outliers }))], []);
  const cart = policies.destination(key('cart'), 80);
  const nobody = new Set<string>();
  const visit = () => policies.visit(cart, undefined, nobody);
  const first = visit();
  t.equal(first?.probing, false);
  first?.stands();
  const sick = first?.target.workload.name;
  first?.end(false);
  await clock.advance(1_000);
  const probe = visit();
  t.match(probe, { probing: true, target: { workload: { name: sick } } });
  const others = () => Array.from({ length: 10 }, () => visit()?.target.workload.name);
  t.notOk(others().includes(sick), 'one probe at a time');
  // The head of a watch, a WebSocket, a connection of a database pool.
  probe?.stands();
  t.equal(probe?.probing, false);
  // Its failure makes it unattractive for a while yet.
  await clock.advance(3_600_000);
  t.ok(others().includes(sick));
  probe?.end(false);
  await clock.advance(3_600_000);
  t.ok(others().includes(sick), 'its end, hours later, tells nothing any more');
});

t.test('what counts as a failure of an endpoint', async (t) => {
  const { policies } = rig();
  const cart = policies.destination(key('cart'), 80);
  t.ok(cart.isFailure(500, undefined));
  t.ok(cart.isFailure(200, 14));
  t.notOk(cart.isFailure(200, 0));
  t.notOk(cart.isFailure(429, undefined));
  t.notOk(cart.isFailure(200, 5));
});

t.test('failover: the first of the others that has an endpoint', async (t) => {
  const { policies, state } = rig();
  const failover = [
    { service: key('absent'), port: 80 },
    { service: key('spare'), port: 80 },
  ];
  const balancing = { ...DEFAULT_BALANCING, failover };
  policies.apply([traffic('cart', layer({ kind: 'service' }, { balancing }))], []);
  const cart = policies.destination(key('cart'), 80);
  const name = () => policies.visit(cart, undefined, new Set())?.target.workload.name;
  t.not(name(), 's');
  state.applyAddresses({ removed: [workload('a').uid, workload('b').uid] });
  t.equal(name(), 's');
  state.applyAddresses({
    workloads: [workload('a', { addresses: ['10.0.0.1'], services: ['cart'] })],
  });
  t.equal(name(), 'a');
  state.applyAddresses({ removed: [workload('a').uid, workload('s').uid] });
  t.equal(name(), undefined);
});

t.test('destinations that nobody uses are let go', async (t) => {
  const { policies, clock } = rig();
  const held = policies.destination(key('cart'), 80);
  await held.limiter.enter('a');
  policies.destination(key('spare'), 80);
  await clock.advance(700_000);
  t.equal(policies.destinationCount, 1);
  t.equal(policies.destination(key('cart'), 80), held);
  policies[Symbol.dispose]();
  t.equal(clock.pendingCount(), 0);
});
