/** Traffic policies on the wire: they return as they were sent, and hostile bytes never throw (T100). */

import { isDeepStrictEqual } from 'node:util';

import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf';
import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import {
  BALANCING_ALGORITHMS,
  RETRY_CONDITIONS,
  STORE_FAILURES,
  ZONE_MODES,
  type Affinity,
  type ServiceTraffic,
  type TrafficLayer,
  type TrafficScope,
} from '../../src/core/traffic-policy.ts';
import { serviceKey } from '../../src/core/workload.ts';
import { decodeTraffic, trafficResource } from '../../src/discovery/codec-traffic.ts';
import {
  TrafficPolicySchema,
  type TrafficLayerSchema,
} from '../../src/discovery/gen/nodemesh/v1/traffic_policy_pb.ts';
import { label, record } from './arbitraries.ts';

const ms = fc.nat();
const positive = fc.integer({ min: 1, max: 1_000_000 });
const count = fc.nat({ max: 1_000_000 });
const percent = fc.nat({ max: 100 });
const port = fc.integer({ min: 1, max: 65_535 });
const statuses = fc.array(fc.integer({ min: 0, max: 599 }), { maxLength: 4 });
const key = fc.tuple(label, label).map(([namespace, hostname]) => serviceKey(namespace, hostname));
const maybe = <T>(one: fc.Arbitrary<T>) => fc.option(one, { nil: undefined });

const budget = record({ percent, intervalMs: positive, minPerSecond: count });
const affinity: fc.Arbitrary<Affinity> = fc.oneof(
  record({
    kind: fc.constant('cookie' as const),
    name: label,
    ttlMs: ms,
    path: fc.constantFrom('/', '/a'),
    sameSite: fc.constantFrom('' as const, 'Strict' as const, 'Lax' as const, 'None' as const),
    secure: fc.boolean(),
  }),
  record({ kind: fc.constant('header' as const), name: label, issued: fc.boolean() }),
  record({ kind: fc.constant('source-address' as const) }),
);
const route = {
  routeKind: fc.constantFrom('HTTPRoute' as const, 'GRPCRoute' as const),
  namespace: label,
  name: label,
};
const scope: fc.Arbitrary<TrafficScope> = fc.oneof(
  record({ kind: fc.constantFrom('namespace' as const, 'gateway' as const, 'service' as const) }),
  record({ kind: fc.constant('port' as const), port }),
  record({ kind: fc.constant('route' as const), ...route }),
  record({ kind: fc.constant('rule' as const), ...route, rule: label }),
);
const settings: fc.Arbitrary<TrafficLayer['settings']> = record({
  retries: maybe(
    record({
      attempts: count,
      conditions: fc.subarray([...RETRY_CONDITIONS]),
      statusCodes: statuses,
      grpcStatuses: statuses,
      perTryTimeoutMs: ms,
      backoffMinMs: ms,
      backoffBaseMs: ms,
      backoffMaxMs: ms,
      retryAfterMaxMs: ms,
      replayBytesMax: count,
      budget,
    }),
  ),
  budget: maybe(budget),
  timeouts: maybe(record({ requestMs: ms, idleMs: ms, connectMs: ms })),
  balancing: maybe(
    record({
      algorithm: fc.constantFrom(...BALANCING_ALGORITHMS),
      affinity: maybe(affinity),
      zone: fc.constantFrom(...ZONE_MODES),
      zoneUsablePercent: fc.integer({ min: 1, max: 100 }),
      failover: fc.array(record({ service: key, port }), { maxLength: 3 }),
      slowStartMs: ms,
    }),
  ),
  limits: maybe(
    record({
      connectionsMax: count,
      requestsMax: count,
      queueMax: count,
      queueTimeoutMs: positive,
    }),
  ),
  outliers: maybe(
    record({
      consecutiveFailures: count,
      successPercent: percent,
      successRequestsMin: count,
      intervalMs: positive,
      ejectionBaseMs: positive,
      ejectionMaxMs: positive,
      ejectedPercentMax: percent,
      grpcStatuses: statuses,
    }),
  ),
  rateLimits: maybe(
    fc.array(
      record({
        name: label,
        key: fc.oneof(
          record({ kind: fc.constantFrom('all' as const, 'identity' as const) }),
          record({ kind: fc.constant('header' as const), name: label }),
        ),
        requests: positive,
        intervalMs: positive,
        burst: positive,
        shared: fc.boolean(),
        onFailure: fc.constantFrom(...STORE_FAILURES),
      }),
      { maxLength: 3 },
    ),
  ),
  faults: maybe(
    fc.array(
      record({
        headers: fc.array(record({ name: label, value: fc.string({ maxLength: 9 }) }), {
          maxLength: 2,
        }),
        delay: maybe(record({ ms, percent })),
        abort: maybe(
          fc.oneof(
            record({ httpStatus: positive, grpcStatus: fc.constant(undefined), percent }),
            record({ httpStatus: fc.constant(undefined), grpcStatus: count, percent }),
          ),
        ),
      }),
      { maxLength: 3 },
    ),
  ),
});
const traffic: fc.Arbitrary<ServiceTraffic> = record({
  key,
  layers: fc.array(record({ scope, source: label, settings }), { maxLength: 4 }),
});

t.test('a policy returns as it was sent, under the name of its service', async () => {
  fc.assert(
    fc.property(traffic, (value) => {
      const { name, body } = trafficResource(value);
      return name === value.key && isDeepStrictEqual(unwrap(decodeTraffic(body)), value);
    }),
  );
});

t.test('bytes that are not ours are read or refused, never thrown', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      decodeTraffic(bytes);
    }),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(traffic, fc.nat(), fc.nat({ max: 255 }), (value, at, byte) => {
      const body = Uint8Array.from(trafficResource(value).body);
      body[at % body.length] = byte;
      decodeTraffic(body);
    }),
  );
});

t.test('what cannot be meant is refused, MESH_MESSAGE_INVALID', async (t) => {
  const layers: Record<string, MessageInitShape<typeof TrafficLayerSchema>> = {
    'an unknown scope': { scope: 99 as never },
    'a port of 0': { scope: 3, port: 0 },
    'a route without a name': { scope: 4, routeNamespace: 'a' },
    'retries without a budget': { retries: {} },
    'an unknown condition': { retries: { conditions: [99 as never], budget: { intervalMs: 1n } } },
    'a budget over no time': { budget: { percent: 1 } },
    'over 100 percent': { budget: { percent: 101, intervalMs: 1n } },
    'an unknown algorithm': { balancing: { algorithm: 99 as never, zoneUsablePercent: 1 } },
    'no share': { balancing: {} },
    'an affinity of nothing': { balancing: { zoneUsablePercent: 1, affinity: {} } },
    'a cookie that ends its line': {
      balancing: {
        zoneUsablePercent: 1,
        affinity: { by: { case: 'cookie', value: { name: 'a\r\nx', path: '/' } } },
      },
    },
    'a rate of nothing': { rateLimits: { limits: [{ name: 'a', intervalMs: 1n, burst: 1 }] } },
    'a limit without a wait': { limits: {} },
    'an abort without a status': { faults: { faults: [{ abort: { percent: 1 } }] } },
  };
  for (const [name, layer] of Object.entries(layers)) {
    const message = create(TrafficPolicySchema, {
      namespace: 'shop',
      hostname: 'cart',
      layers: [{ scope: 2, ...layer }],
    });
    const result = decodeTraffic(toBinary(TrafficPolicySchema, message));
    t.equal(result.ok, false, name);
    if (!result.ok) t.equal(result.error.code, 'MESH_MESSAGE_INVALID');
  }
});
