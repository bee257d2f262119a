/** Gateway API routes → what the waypoint of a service routes by: attachment, references, what is invalid. */

import fc from 'fast-check';
import t from 'tap';

import type { HttpRule, RouteSet, WaypointPort } from '../../src/core/route.ts';
import { parseManifest } from '../../src/controlplane/manifest/manifest.ts';
import { gatewayApi, Model, namespace, service, type Json } from './build.ts';

const ECHO = 'shop/echo.shop.svc.cluster.local';
const USE = { 'nodemesh.dev/waypoint': 'way' };
const PARENT = { group: '', kind: 'Service', name: 'echo' };
const V1 = { name: 'v1', port: 80 };

function model(...routes: ReturnType<typeof gatewayApi>[]): Model {
  const ports = [
    { name: 'http', port: 80 },
    { name: 'alt', port: 8_080, appProtocol: 'kubernetes.io/h2c' },
  ];
  const built = new Model().put(
    namespace('shop', USE),
    namespace('other'),
    gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }),
    service('shop/echo', { clusterIP: '10.96.0.1', ports }),
    service('shop/v1', { clusterIP: '10.96.0.2', ports: [{ port: 80 }] }),
    service('other/far', { clusterIP: '10.96.0.3', ports: [{ port: 80 }] }),
    ...routes,
  );
  built.publish();
  return built;
}

function http(path: string, spec: Json, metadata: Json = {}): ReturnType<typeof gatewayApi> {
  return gatewayApi('HTTPRoute', path, { parentRefs: [PARENT], ...spec }, metadata);
}

function port(built: Model, number = 80): WaypointPort {
  const ports = built.waypoints.get('shop/way')?.get(ECHO)?.ports ?? [];
  const found = ports.find((entry) => entry.port === number);
  if (found === undefined) throw new Error(`no port ${number}`);
  return found;
}

function rules(built: Model, number = 80): readonly HttpRule[] {
  return port(built, number).producer.http;
}

function backends(set: RouteSet | undefined): string[] {
  return (set?.http ?? []).flatMap((rule) =>
    rule.backends.map(({ backend, weight }) => `${backend.service} ${weight} ${backend.invalid}`),
  );
}

t.test('a bound service without routes is known to its waypoint, with its ports', (t) => {
  const built = model();
  t.match(port(built), { appProtocol: 'HTTP11', producer: { http: [], tls: [], tcp: [] } });
  t.equal(port(built, 8_080).appProtocol, 'HTTP2');
  t.equal(built.waypoints.get('shop/way')?.size, 2, 'and so is every service of the namespace');
  t.end();
});

t.test('a rule arrives whole and defaulted', (t) => {
  const spec = {
    hostnames: ['*.example.com'],
    rules: [
      {
        name: 'first',
        matches: [
          {
            path: { type: 'PathPrefix', value: '/v2/' },
            method: 'GET',
            headers: [
              { name: 'Version', value: 'two' },
              { name: 'version', value: 'three' },
            ],
            queryParams: [{ type: 'RegularExpression', name: 'Animal', value: 'wh.*' }],
          },
        ],
        filters: [
          { type: 'RequestHeaderModifier', requestHeaderModifier: { remove: ['X-Old'] } },
          {
            type: 'RequestMirror',
            requestMirror: { backendRef: V1, fraction: { numerator: 1, denominator: 8 } },
          },
        ],
        backendRefs: [{ ...V1, weight: 9 }, V1],
        timeouts: { request: '1m30s', backendRequest: '500ms' },
        retry: { codes: [503], attempts: 2, backoff: '25ms' },
        sessionPersistence: { sessionName: 's', idleTimeout: '1h' },
      },
      { backendRefs: [V1] },
    ],
  };
  const built = model(http('shop/r', spec, { creationTimestamp: '2026-01-31T12:00:00Z' }));
  const v1 = { service: 'shop/v1.shop.svc.cluster.local', port: 80, invalid: '' };
  t.strictSame(rules(built)[0], {
    route: {
      kind: 'HTTPRoute',
      namespace: 'shop',
      name: 'r',
      createdMs: Date.UTC(2026, 0, 31, 12),
    },
    index: 0,
    name: 'first',
    hostnames: ['*.example.com'],
    matches: [
      {
        path: { kind: 'prefix', value: '/v2' },
        method: 'GET',
        headers: [{ name: 'version', match: { kind: 'exact', value: 'two' } }],
        queryParams: [{ name: 'Animal', match: { kind: 'regex', value: 'wh.*' } }],
      },
    ],
    filters: [
      { kind: 'request-headers', change: { set: [], add: [], remove: ['x-old'] } },
      { kind: 'mirror', mirror: { backend: v1, numerator: 1, denominator: 8 } },
    ],
    backends: [
      { backend: v1, weight: 9, filters: [] },
      { backend: v1, weight: 1, filters: [] },
    ],
    requestTimeoutMs: 90_000,
    backendRequestTimeoutMs: 500,
    retry: { attempts: 2, codes: [503], backoffMs: 25 },
    sessionPersistence: {
      kind: 'cookie',
      name: 's',
      absoluteTimeoutMs: undefined,
      idleTimeoutMs: 3_600_000,
    },
    invalid: '',
  });
  t.match(rules(built)[1], {
    index: 1,
    matches: [{ path: { kind: 'prefix', value: '/' }, method: '' }],
    requestTimeoutMs: undefined,
  });
  t.end();
});

t.test('parents: by port, by name of the port, group core, and others left alone', (t) => {
  const rows: readonly [Json, number[]][] = [
    [PARENT, [80, 8_080]],
    [{ ...PARENT, group: 'core' }, [80, 8_080]],
    [{ ...PARENT, port: 8_080 }, [8_080]],
    [{ ...PARENT, sectionName: 'http' }, [80]],
    [{ ...PARENT, port: 9_999 }, []],
    [{ name: 'echo' }, []],
    [{ ...PARENT, namespace: 'other' }, []],
  ];
  for (const [parent, expected] of rows) {
    const built = model(http('shop/r', { parentRefs: [parent], rules: [{ backendRefs: [V1] }] }));
    const governed = [80, 8_080].filter((number) => rules(built, number).length > 0);
    t.strictSame(governed, expected, JSON.stringify(parent));
  }
  t.end();
});

t.test('consumer routes are for their own namespace, and lead home without a grant', (t) => {
  const parent = { ...PARENT, namespace: 'shop' };
  const refs = [
    { name: 'echo', namespace: 'shop', port: 80 },
    { name: 'far', port: 80 },
    { name: 'v1', namespace: 'shop', port: 80 },
  ];
  const built = model(http('other/c', { parentRefs: [parent], rules: [{ backendRefs: refs }] }));
  t.strictSame(rules(built), [], 'not for everybody');
  t.strictSame(backends(port(built).consumers.get('other')), [
    'shop/echo.shop.svc.cluster.local 1 ',
    'other/far.other.svc.cluster.local 1 ',
    'shop/v1.shop.svc.cluster.local 1 RefNotPermitted',
  ]);
  built.remove('HTTPRoute', 'other/c').publish();
  t.equal(port(built).consumers.size, 0);
  t.end();
});

t.test('ReferenceGrant: who may refer to what, from when it is there until it goes', (t) => {
  const far = { name: 'far', namespace: 'other', port: 80 };
  const built = model(http('shop/r', { rules: [{ backendRefs: [far] }] }));
  const state = (): string | undefined => rules(built)[0]?.backends[0]?.backend.invalid;
  t.equal(state(), 'RefNotPermitted');
  const from = { group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', namespace: 'shop' };
  const to = { group: '', kind: 'Service' };
  const rows: readonly [Json, Json, string][] = [
    [from, to, ''],
    [{ ...from, kind: 'GRPCRoute' }, to, 'RefNotPermitted'],
    [{ ...from, namespace: 'else' }, to, 'RefNotPermitted'],
    [from, { ...to, name: 'near' }, 'RefNotPermitted'],
    [from, { ...to, kind: 'Secret' }, 'RefNotPermitted'],
    [from, { ...to, group: 'core', name: 'far' }, ''],
  ];
  for (const [source, target, expected] of rows) {
    built.put(gatewayApi('ReferenceGrant', 'other/g', { from: [source], to: [target] })).publish();
    t.equal(state(), expected, JSON.stringify([source, target]));
  }
  built.remove('ReferenceGrant', 'other/g').publish();
  t.equal(state(), 'RefNotPermitted');
  t.end();
});

t.test('what cannot be resolved stays, named, and heals when it appears', (t) => {
  const refs = [
    { name: 'v9', port: 80, weight: 0 },
    { name: 'v1', port: 81 },
    { name: 'v1' },
    { group: 'example.com', kind: 'Bucket', name: 'b' },
  ];
  const built = model(http('shop/r', { rules: [{ backendRefs: refs }] }));
  const states = (): (string | undefined)[] =>
    rules(built)[0]?.backends.map(({ backend }) => backend.invalid) ?? [];
  t.strictSame(states(), ['BackendNotFound', 'BackendNotFound', 'BackendNotFound', 'InvalidKind']);
  built.put(service('shop/v9', { clusterIP: '10.96.0.9', ports: [{ port: 80 }] })).publish();
  t.equal(states()[0], '');
  built.remove('Service', 'shop/v9').publish();
  t.equal(states()[0], 'BackendNotFound');
  t.end();
});

t.test('a rule that cannot be followed is invalid as a whole; the others work', (t) => {
  const header = { type: 'RequestHeaderModifier', requestHeaderModifier: {} };
  const redirect = { type: 'RequestRedirect', requestRedirect: { port: 8_080 } };
  const strip = { type: 'ReplacePrefixMatch', replacePrefixMatch: '/' };
  const rewrite = { type: 'URLRewrite', urlRewrite: { path: strip } };
  const rows: readonly [Json, RegExp][] = [
    [{ filters: [header], backendRefs: [V1] }, /^$/],
    [{ filters: [{ type: 'ExtensionRef', extensionRef: {} }], backendRefs: [V1] }, /ExtensionRef/],
    [{ backendRefs: [{ ...V1, filters: [{ type: 'New' }] }] }, /"New"/],
    [{ backendRefs: [{ ...V1, filters: [header] }] }, /^$/],
    [{ backendRefs: [{ ...V1, filters: [rewrite] }] }, /"rewrite" is not supported at a backend/],
    [{ backendRefs: [{ ...V1, filters: [redirect] }] }, /"redirect" is not supported at a backend/],
    [{ filters: [redirect, rewrite] }, /contradict/],
    [{ filters: [redirect, redirect] }, /more than one/],
    [{ matches: [{ path: { type: 'Exact', value: '/' } }], filters: [rewrite] }, /PathPrefix/],
  ];
  const built = model(http('shop/r', { rules: rows.map(([rule]) => rule) }));
  for (const [index, [, expected]] of rows.entries()) {
    t.match(rules(built)[index]?.invalid, expected);
  }
  t.end();
});

t.test('GRPCRoute methods become paths; TLS and TCP routes keep their kind', (t) => {
  const grpc = (method: Json): Json => ({ matches: [{ method }], backendRefs: [V1] });
  const built = model(
    gatewayApi('GRPCRoute', 'shop/g', {
      parentRefs: [PARENT],
      rules: [
        grpc({ service: 'a.B', method: 'C' }),
        grpc({ service: 'a.B' }),
        grpc({ method: 'C' }),
        grpc({ type: 'RegularExpression', service: 'a|b' }),
        { backendRefs: [V1] },
      ],
    }),
    gatewayApi('TLSRoute', 'shop/t', {
      parentRefs: [PARENT],
      hostnames: ['a.example.com'],
      rules: [{ backendRefs: [V1] }],
    }),
    gatewayApi('TCPRoute', 'shop/c', { parentRefs: [PARENT], rules: [{ backendRefs: [V1] }] }),
  );
  t.strictSame(
    rules(built).map(({ matches }) => matches[0]?.path),
    [
      { kind: 'exact', value: '/a.B/C' },
      { kind: 'prefix', value: '/a.B' },
      { kind: 'regex', value: '/[^/]+/C' },
      { kind: 'regex', value: '/(?:a|b)/[^/]+' },
      { kind: 'prefix', value: '/' },
    ],
  );
  t.match(port(built).producer.tls, [{ route: { name: 't' }, hostnames: ['a.example.com'] }]);
  t.match(port(built).producer.tcp, [{ route: { name: 'c' }, hostnames: [] }]);
  t.end();
});

t.test('what a schema would refuse is refused by field', (t) => {
  const rule = (fields: Json): Json => ({ parentRefs: [PARENT], rules: [fields] });
  const rows: readonly [Json, RegExp][] = [
    [rule({ matches: [{ path: { value: 'x' } }] }), /must begin with/],
    [rule({ timeouts: { request: '1x' } }), /duration/],
    [rule({ timeouts: { request: '1s', backendRequest: '2s' } }), /longer/],
    [rule({ retry: { codes: [200] } }), /400 to 599/],
    [rule({ filters: [{ type: 'URLRewrite' }] }), /is needed/],
    [rule({ backendRefs: [{ ...V1, weight: -1 }] }), /whole number/],
    [rule({ filters: [{ type: 'RequestRedirect', requestRedirect: { statusCode: 304 } }] }), /301/],
    [{ ...rule({}), hostnames: ['a*b'] }, /host name/],
    [
      rule({
        filters: [
          {
            type: 'RequestHeaderModifier',
            requestHeaderModifier: { set: [{ name: 'a', value: 'b\r\nc: d' }] },
          },
        ],
      }),
      /control character/,
    ],
  ];
  for (const [spec, message] of rows) {
    const result = parseManifest({
      apiVersion: 'gateway.networking.k8s.io/v1',
      kind: 'HTTPRoute',
      metadata: { name: 'r', namespace: 'shop' },
      spec,
    });
    t.equal(result.status, 'invalid');
    if (result.status === 'invalid') t.match(result.problems[0]?.message, message);
  }
  t.end();
});

t.test('no route of whatever content throws', (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(
        'HTTPRoute',
        'GRPCRoute',
        'TLSRoute',
        'TCPRoute',
        'Gateway',
        'ReferenceGrant',
      ),
      fc.jsonValue({ maxDepth: 4 }),
      fc.array(fc.jsonValue({ maxDepth: 4 }), { maxLength: 3 }),
      (kind, spec, list) => {
        const all = { rules: list, matches: list, filters: list, backendRefs: list, from: list };
        for (const value of [spec, all, { ...all, rules: [all], listeners: list, to: list }]) {
          const metadata = { name: 'r', namespace: 'shop' };
          const apiVersion = 'gateway.networking.k8s.io/v1';
          const result = parseManifest({ apiVersion, kind, metadata, spec: value });
          if (result.status === 'object') new Model().put(result.object).publish();
        }
      },
    ),
    { numRuns: 300 },
  );
  t.end();
});
