/** TrafficPolicy and XBackendTrafficPolicy as written: what they become, what is refused and where. */

import fc from 'fast-check';
import t from 'tap';

import { formatFieldPath } from '../../src/controlplane/manifest/fields.ts';
import { parseManifest } from '../../src/controlplane/manifest/manifest.ts';
import type { TrafficPolicyObject } from '../../src/controlplane/objects.ts';
import {
  DEFAULT_BUDGET,
  DEFAULT_RETRIES,
  NO_TRAFFIC_SETTINGS,
} from '../../src/core/traffic-policy.ts';
import type { Json } from './build.ts';

const cart = { kind: 'Service', name: 'cart' };
const manifest = (spec: Json): Json => ({
  apiVersion: 'nodemesh.dev/v1alpha1',
  kind: 'TrafficPolicy',
  metadata: { name: 'p', namespace: 'shop' },
  spec: { targetRefs: [cart], ...spec },
});
const backendPolicy = (spec: Json): Json => ({
  apiVersion: 'gateway.networking.x-k8s.io/v1alpha1',
  kind: 'XBackendTrafficPolicy',
  metadata: { name: 'p', namespace: 'shop' },
  spec: { targetRefs: [{ group: '', kind: 'Service', name: 'cart' }], ...spec },
});

function read(value: Json): TrafficPolicyObject {
  const result = parseManifest(value);
  if (result.status !== 'object' || result.object.kind !== 'TrafficPolicy') {
    throw new Error(JSON.stringify(result));
  }
  return result.object;
}

function problems(value: unknown): string[] {
  const result = parseManifest(value);
  if (result.status !== 'invalid') return [result.status];
  return result.problems.map(({ path, message }) => `${formatFieldPath(path)}: ${message}`);
}

t.test('sections that are not written stay out; those that are come complete', async (t) => {
  const { settings, targets } = read(manifest({ retries: {} }));
  t.strictSame(settings.retries, DEFAULT_RETRIES);
  t.equal(settings.timeouts, undefined);
  t.equal(settings.faults, undefined);
  t.strictSame(targets, [{ ...cart, sectionName: '' }]);
});

t.test('every field arrives', async (t) => {
  const { settings, failover } = read(
    manifest({
      retries: {
        attempts: 3,
        on: ['5xx', 'reset'],
        statusCodes: [429],
        grpcStatuses: ['unavailable'],
        perTryTimeout: '1s',
        backoff: { base: '10ms' },
        retryAfterMax: '2s',
        replayBytes: 1024,
        budget: { percent: 50, interval: '5s', minPerSecond: 1 },
      },
      timeouts: { request: '10s', idle: '1m', connect: '500ms' },
      balancing: {
        affinity: { cookie: { name: 'sid', ttl: '1h', sameSite: 'None', secure: true } },
        zone: 'prefer',
        zoneUsablePercent: 50,
        failover: [{ name: 'cart-b', port: 80 }],
        slowStart: '30s',
      },
      limits: { connections: 10, requests: 20, queue: 30, queueTimeout: '100ms' },
      outliers: {
        consecutiveFailures: 3,
        successRate: { percent: 80, requests: 10, interval: '5s' },
        ejection: { base: '2s', max: '30s' },
        ejectedPercent: 34,
        grpcStatuses: [],
      },
      rateLimits: [
        { name: 'all', requests: 100 },
        { requests: 10, interval: '1m', burst: 5, per: 'identity', shared: true },
        { name: 'key', requests: 1, per: 'header', header: 'X-Key' },
      ],
      faults: [
        {
          headers: [{ name: 'X-Fault', value: 'on' }],
          delay: { duration: '1s', percent: 10 },
          abort: { grpcStatus: 'unavailable' },
        },
      ],
    }),
  );
  t.strictSame(settings.retries, {
    attempts: 3,
    conditions: ['5xx', 'reset'],
    statusCodes: [429],
    grpcStatuses: [14],
    perTryTimeoutMs: 1_000,
    backoffMinMs: 0,
    backoffBaseMs: 10,
    backoffMaxMs: 100,
    retryAfterMaxMs: 2_000,
    replayBytesMax: 1024,
    budget: { percent: 50, intervalMs: 5_000, minPerSecond: 1 },
  });
  t.strictSame(settings.timeouts, { requestMs: 10_000, idleMs: 60_000, connectMs: 500 });
  t.strictSame(settings.balancing, {
    algorithm: 'consistent-hash',
    affinity: {
      kind: 'cookie',
      name: 'sid',
      ttlMs: 3_600_000,
      path: '/',
      sameSite: 'None',
      secure: true,
    },
    zone: 'prefer',
    zoneUsablePercent: 50,
    failover: [],
    slowStartMs: 30_000,
  });
  t.strictSame(failover, [{ name: 'cart-b', port: 80 }]);
  t.strictSame(settings.limits, {
    connectionsMax: 10,
    requestsMax: 20,
    queueMax: 30,
    queueTimeoutMs: 100,
  });
  t.strictSame(settings.outliers, {
    consecutiveFailures: 3,
    successPercent: 80,
    successRequestsMin: 10,
    intervalMs: 5_000,
    ejectionBaseMs: 2_000,
    ejectionMaxMs: 30_000,
    ejectedPercentMax: 34,
    grpcStatuses: [],
  });
  const limit = { shared: false, onFailure: 'local' };
  t.strictSame(settings.rateLimits, [
    { name: 'all', key: { kind: 'all' }, requests: 100, intervalMs: 1_000, burst: 100, ...limit },
    {
      name: 'limit-1',
      key: { kind: 'identity' },
      requests: 10,
      intervalMs: 60_000,
      burst: 5,
      shared: true,
      onFailure: 'local',
    },
    {
      name: 'key',
      key: { kind: 'header', name: 'x-key' },
      requests: 1,
      intervalMs: 1_000,
      burst: 1,
      ...limit,
    },
  ]);
  t.strictSame(settings.faults, [
    {
      headers: [{ name: 'x-fault', value: 'on' }],
      delay: { ms: 1_000, percent: 10 },
      abort: { httpStatus: undefined, grpcStatus: 14, percent: 100 },
    },
  ]);
});

t.test('what is refused, by field', async (t) => {
  const route = { kind: 'HTTPRoute', name: 'r' };
  const rows: [Json, RegExp][] = [
    [manifest({ targetRefs: [] }), /^spec\.targetRefs: must name at least one/],
    [manifest({ targetRefs: [{ kind: 'Pod', name: 'a' }] }), /targetRefs\[0\]\.kind/],
    [manifest({ targetRefs: [{ kind: 'Service', name: '' }] }), /targetRefs\[0\]\.name/],
    [manifest({ targetRefs: [{ ...cart, group: 'apps' }] }), /targetRefs\[0\]\.group/],
    [manifest({ targetRefs: [{ ...cart, namespace: 'x' }] }), /namespace: is not a field/],
    [manifest({ targetRefs: [{ kind: 'Namespace', name: 'other' }] }), /namespace of the policy/],
    [
      manifest({ targetRefs: [{ kind: 'Namespace', name: 'shop', sectionName: 'a' }] }),
      /sectionName/,
    ],
    [manifest({ retires: {} }), /^spec\.retires: is not a field/],
    [manifest({ retries: { attempts: 11 } }), /from 0 to 10/],
    [manifest({ retries: { on: ['4xx'] } }), /spec\.retries\.on\[0\]: must be one of 5xx/],
    [manifest({ retries: { statusCodes: [200] } }), /from 400 to 599/],
    [manifest({ retries: { grpcStatuses: ['ok'] } }), /must be one of cancelled/],
    [manifest({ retries: { backoff: { base: '1s', max: '10ms' } } }), /must not be below base/],
    [manifest({ retries: { replayBytes: 65_537 } }), /from 0 to 65536/],
    [manifest({ retries: { budget: { percent: 101 } } }), /budget\.percent/],
    [
      manifest({ retries: { perTryTimeout: '2s' }, timeouts: { request: '1s' } }),
      /perTryTimeout must not exceed/,
    ],
    [manifest({ targetRefs: [route], balancing: {} }), /^spec\.balancing: belongs to a Service/],
    [manifest({ targetRefs: [route], limits: {} }), /^spec\.limits: belongs to a Service/],
    [manifest({ balancing: { algorithm: 'consistent-hash' } }), /affinity: is needed/],
    [
      manifest({ balancing: { algorithm: 'random', affinity: { header: 'a' } } }),
      /needs algorithm consistent-hash/,
    ],
    [manifest({ balancing: { affinity: {} } }), /exactly one of/],
    [manifest({ balancing: { affinity: { header: 'a', sourceAddress: true } } }), /exactly one of/],
    [manifest({ balancing: { affinity: { header: 'a b' } } }), /not the name of a header/],
    [manifest({ balancing: { affinity: { cookie: { name: 'a=b' } } } }), /not the name of a cook/],
    [
      manifest({ balancing: { affinity: { cookie: { name: 'a', path: '/;x' } } } }),
      /must begin with/,
    ],
    [
      manifest({ balancing: { affinity: { cookie: { name: 'a', sameSite: 'None' } } } }),
      /needs secure/,
    ],
    [manifest({ limits: { queue: 5 } }), /needs requests/],
    [manifest({ outliers: { successRate: {} } }), /percent: is missing/],
    [manifest({ outliers: { ejectedPercent: 0 } }), /from 1 to 100/],
    [manifest({ rateLimits: [{}] }), /requests: is missing/],
    [manifest({ rateLimits: [{ requests: 1, onFailure: 'deny' }] }), /needs shared/],
    [manifest({ rateLimits: [{ requests: 1, per: 'header' }] }), /name of a header/],
    [
      manifest({
        rateLimits: [
          { name: 'a', requests: 1 },
          { name: 'a', requests: 1 },
        ],
      }),
      /used twice/,
    ],
    [manifest({ faults: [{}] }), /must have a delay/],
    [
      manifest({ faults: [{ abort: { httpStatus: 500, grpcStatus: 'internal' } }] }),
      /either httpStatus or/,
    ],
    [manifest({ faults: [{ delay: { duration: '1h' } }] }), /from 1 ms to 60000 ms/],
    [backendPolicy({ targetRefs: [{ kind: 'Pod', name: 'a' }] }), /only a Service/],
    [
      backendPolicy({ sessionPersistence: { cookieConfig: { lifetimeType: 'Permanent' } } }),
      /absoluteTimeout: is needed/,
    ],
  ];
  for (const [value, complaint] of rows) {
    const found = problems(value);
    t.ok(
      found.some((problem) => complaint.test(problem)),
      `${complaint} in ${found.join('; ')}`,
    );
  }
});

t.test('XBackendTrafficPolicy becomes a budget and an affinity', async (t) => {
  const object = read(
    backendPolicy({
      retryConstraint: {
        budget: { percent: 30, interval: '20s' },
        minRetryRate: { count: 30, interval: '2s' },
      },
      sessionPersistence: {
        sessionName: 'sid',
        absoluteTimeout: '1h',
        cookieConfig: { lifetimeType: 'Permanent' },
      },
    }),
  );
  t.equal(object.meta.name, 'XBackendTrafficPolicy:p');
  t.strictSame(object.settings.budget, { percent: 30, intervalMs: 20_000, minPerSecond: 15 });
  t.match(object.settings.balancing?.affinity, { kind: 'cookie', name: 'sid', ttlMs: 3_600_000 });
  t.strictSame(read(backendPolicy({ retryConstraint: {} })).settings.budget, DEFAULT_BUDGET);
  const header = read(backendPolicy({ sessionPersistence: { type: 'Header' } }));
  t.match(header.settings.balancing?.affinity, {
    kind: 'header',
    name: /^nodemesh-session-[0-9a-f]{8}$/,
    issued: true,
  });
});

t.test(
  'in the stead of a bad XBackendTrafficPolicy is one that sets nothing and says why',
  async (t) => {
    const result = parseManifest(
      backendPolicy({ sessionPersistence: {}, retryConstraint: { budget: { percent: 120 } } }),
    );
    t.match(result, {
      status: 'invalid',
      key: 'TrafficPolicy/shop/XBackendTrafficPolicy:p',
      stead: {
        replaces: true,
        object: {
          invalid: /^spec.retryConstraint.budget.percent /,
          targets: [{ kind: 'Service', name: 'cart' }],
          settings: NO_TRAFFIC_SETTINGS,
        },
      },
    });
    t.equal(
      'stead' in parseManifest(manifest({ retries: 1 })),
      false,
      'of ours the last good stays',
    );
  },
);

t.test('any JSON as a spec is read or refused, never thrown (T100)', async () => {
  const keys = ['retries', 'timeouts', 'balancing', 'limits', 'outliers', 'rateLimits', 'faults'];
  fc.assert(
    fc.property(fc.constantFrom(...keys), fc.jsonValue(), (key, value) => {
      parseManifest(manifest({ [key]: value }));
      parseManifest(backendPolicy({ sessionPersistence: value, retryConstraint: value }));
    }),
  );
});
