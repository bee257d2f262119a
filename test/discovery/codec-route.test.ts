import { isDeepStrictEqual } from 'node:util';

import { create, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { runAtOnce } from '../../src/base/steps.ts';
import type {
  Backend,
  HttpFilter,
  HttpRule,
  RouteSet,
  WaypointService,
} from '../../src/core/route.ts';
import { APP_PROTOCOLS, serviceKey } from '../../src/core/workload.ts';
import { decodeWaypointService, waypointServiceResource } from '../../src/discovery/codec-route.ts';
import { decodeWaypointServiceInSteps } from '../../src/discovery/waypoint-service-steps.ts';
import {
  HttpRuleSchema,
  RouteRef_Kind,
  WaypointServiceSchema,
} from '../../src/discovery/gen/nodemesh/v1/waypoint_pb.ts';
import { label, record } from './arbitraries.ts';

const text = fc.string({ maxLength: 12 });
const few = <T>(one: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(one, { maxLength: 2 });
const maybe = <T>(one: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.option(one, { nil: undefined });
const key = fc.tuple(label, label).map(([ns, host]) => serviceKey(ns, host));
const port = fc.integer({ min: 1, max: 65_535 });
const ms = fc.nat({ max: 1_000_000_000 });

const backend: fc.Arbitrary<Backend> = fc.oneof(
  record({ service: key, port, invalid: fc.constant('') }),
  record({ service: key, port: fc.nat({ max: 65_535 }), invalid: label }),
);
const pairs = few(fc.tuple(label, text));
const change = record({ set: pairs, add: pairs, remove: few(label) });
const pathChange = maybe(record({ kind: fc.constantFrom('full', 'prefix'), value: text }));
const filter: fc.Arbitrary<HttpFilter> = fc.oneof(
  record({ kind: fc.constant('request-headers' as const), change }),
  record({ kind: fc.constant('response-headers' as const), change }),
  record({
    kind: fc.constant('redirect' as const),
    redirect: record({
      scheme: fc.constantFrom('http' as const, 'https' as const, undefined),
      hostname: maybe(text),
      port: maybe(port),
      path: pathChange,
      status: fc.constantFrom(301, 302, 303, 307, 308),
    }),
  }),
  record({
    kind: fc.constant('rewrite' as const),
    rewrite: record({ hostname: maybe(text), path: pathChange }),
  }),
  record({
    kind: fc.constant('mirror' as const),
    mirror: record({
      backend,
      numerator: fc.nat({ max: 1_000 }),
      denominator: fc.integer({ min: 1, max: 1_000 }),
    }),
  }),
  record({
    kind: fc.constant('cors' as const),
    cors: record({
      allowOrigins: few(text),
      allowCredentials: fc.boolean(),
      allowMethods: few(text),
      allowHeaders: few(text),
      exposeHeaders: few(text),
      maxAgeS: fc.nat(),
    }),
  }),
);
const weighted = few(record({ backend, weight: fc.nat({ max: 1_000_000 }), filters: few(filter) }));
const named = record({
  name: label,
  match: record({ kind: fc.constantFrom('exact', 'regex'), value: text }),
});
const ref = record({
  kind: fc.constantFrom('HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute'),
  namespace: label,
  name: label,
  createdMs: ms,
});
const rule: fc.Arbitrary<HttpRule> = record({
  route: ref,
  index: fc.nat({ max: 64 }),
  name: text,
  hostnames: few(label),
  matches: fc.array(
    record({
      path: record({ kind: fc.constantFrom('exact', 'prefix', 'regex'), value: text }),
      method: text,
      headers: few(named),
      queryParams: few(named),
    }),
    { minLength: 1, maxLength: 2 },
  ),
  filters: few(filter),
  backends: weighted,
  requestTimeoutMs: maybe(ms),
  backendRequestTimeoutMs: maybe(ms),
  retry: maybe(
    record({
      attempts: fc.nat({ max: 10 }),
      codes: few(fc.integer({ min: 100, max: 599 })),
      backoffMs: maybe(ms),
    }),
  ),
  sessionPersistence: maybe(
    record({
      kind: fc.constantFrom('cookie', 'header'),
      name: text,
      absoluteTimeoutMs: maybe(ms),
      idleTimeoutMs: maybe(ms),
    }),
  ),
  invalid: text,
});
const connection = record({
  route: ref,
  index: fc.nat({ max: 64 }),
  hostnames: few(label),
  backends: weighted,
});
const set: fc.Arbitrary<RouteSet> = record({
  http: few(rule),
  tls: few(connection),
  tcp: few(connection),
});
const service: fc.Arbitrary<WaypointService> = record({
  key,
  ports: few(
    record({
      port,
      appProtocol: fc.constantFrom(...APP_PROTOCOLS),
      producer: set,
      consumers: few(fc.tuple(label, set)).map((entries) => new Map(entries)),
    }),
  ),
});

void t.test('a waypoint service returns as it was encoded, and hostile bytes never throw', (t) => {
  fc.assert(
    fc.property(service, (value) =>
      isDeepStrictEqual(unwrap(decodeWaypointService(waypointServiceResource(value).body)), value),
    ),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      decodeWaypointService(bytes);
    }),
    { numRuns: 500 },
  );
  t.end();
});

void t.test('in steps it reads as at once, however it is cut', (t) => {
  const inSteps = (body: Uint8Array): ReturnType<typeof decodeWaypointService> =>
    runAtOnce(decodeWaypointServiceInSteps(body, 0));
  fc.assert(
    fc.property(service, (value) => {
      return isDeepStrictEqual(unwrap(inSteps(waypointServiceResource(value).body)), value);
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      inSteps(bytes);
    }),
    { numRuns: 500 },
  );
  const [sample] = fc.sample(rule, { numRuns: 1, seed: 1 });
  if (sample === undefined) throw new Error('no rule');
  const http = Array.from({ length: 1_000 }, (_, index) => ({ ...sample, index }));
  const producer = { http, tls: [], tcp: [] };
  const consumers = new Map([['a', producer]]);
  const large: WaypointService = {
    key: serviceKey('shop', 'cart'),
    ports: [1, 2].map((number) => ({ port: number, appProtocol: 'GRPC', producer, consumers })),
  };
  const { body } = waypointServiceResource(large);
  let steps = 0;
  const work = decodeWaypointServiceInSteps(body);
  let step = work.next();
  for (; step.done !== true; step = work.next()) steps++;
  t.same(unwrap(step.value), large);
  t.ok(steps > 100, `${steps} steps for ${body.length} bytes`);
  const wrong = { ...large, ports: large.ports.slice(1).concat(large.ports) };
  const bad = { ...sample, matches: [] };
  const broken = { ...producer, http: [...http, bad] };
  t.match(
    inSteps(
      waypointServiceResource({
        ...wrong,
        ports: [...wrong.ports, { port: 3, appProtocol: 'TCP', producer: broken, consumers }],
      }).body,
    ),
    { ok: false, error: { code: 'MESH_MESSAGE_INVALID', message: /matches/ } },
  );
  t.end();
});

void t.test('what would be routed by another rule than was meant is refused', (t) => {
  const route = { kind: RouteRef_Kind.HTTP_ROUTE, namespace: 'shop', name: 'r', createdMs: 0n };
  const path = { match: { case: 'prefix' as const, value: '/' } };
  const http = { route, matches: [{ path }] };
  const withRule = (change: object): Uint8Array => {
    const rule = create(HttpRuleSchema, { ...http, ...change });
    const ports = [{ port: 80, producer: { http: [rule] } }];
    const message = create(WaypointServiceSchema, { namespace: 'shop', hostname: 'cart', ports });
    return toBinary(WaypointServiceSchema, message);
  };
  t.equal(decodeWaypointService(withRule({})).ok, true);
  const rows: readonly [object, RegExp][] = [
    [{ matches: [] }, /matches/],
    [{ matches: [{ path, headers: [{ name: 'a' }] }] }, /unknown kind/],
    [{ filters: [{}] }, /filter/],
    [{ route: { ...route, kind: 9 } }, /unknown kind/],
    [{ filters: [{ filter: { case: 'redirect', value: { status: 200 } } }] }, /no redirect/],
    [{ retry: { attempts: 1, codes: [42] } }, /no status/],
    [{ backends: [{ backend: { namespace: 'a', hostname: 'b' }, weight: 1 }] }, /port/],
  ];
  for (const [changed, message] of rows) {
    t.match(decodeWaypointService(withRule(changed)), {
      ok: false,
      error: { code: 'MESH_MESSAGE_INVALID', message },
    });
  }
  t.end();
});
