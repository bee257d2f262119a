/** AuthorizationPolicy and RequestAuthentication with targets → what waypoints get of them, and what they decide. */

import t from 'tap';

import { formatFieldPath } from '../../src/controlplane/manifest/fields.ts';
import { parseManifest } from '../../src/controlplane/manifest/manifest.ts';
import type { MeshObject } from '../../src/controlplane/objects.ts';
import { decideHttp, selectHttpPolicies } from '../../src/policy/decide-http.ts';
import { buildFacts, type RequestParts } from '../policy/build-http.ts';
import { gatewayApi, Model, namespace, own, read, service, type Json } from './build.ts';

const BASE: readonly MeshObject[] = [
  namespace('shop', { 'nodemesh.dev/waypoint': 'way' }),
  gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }),
  gatewayApi('Gateway', 'shop/other', { gatewayClassName: 'nodemesh-waypoint' }),
  service('shop/cart', { clusterIP: '10.96.0.1', ports: [{ port: 80 }] }),
  service('shop/web', { clusterIP: '10.96.0.2', ports: [{ port: 80 }] }),
];
const CART = 'shop/cart.shop.svc.cluster.local';
const onCart = { kind: 'Service', name: 'cart' };
const onWay = { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'way' };

function modelWith(...objects: readonly MeshObject[]): Model {
  const model = new Model().put(...BASE, ...objects);
  model.publish();
  return model;
}

const policy = (targets: readonly Json[], spec: Json, annotations: Json = {}): MeshObject =>
  own('AuthorizationPolicy', 'shop/p', { targetRefs: targets, ...spec }, { annotations });

/** Where the policy is, with which services. */
function places(model: Model): Json {
  const found = [...model.httpPolicies].map(([waypoint, policies]) => [
    waypoint,
    [...policies.values()].map(({ services }) => services),
  ]);
  return Object.fromEntries(found) as Json;
}

function allowed(spec: Json, parts: RequestParts): boolean {
  const model = modelWith(policy([onCart], spec));
  const policies = model.httpPolicies.get('shop/way')?.values() ?? [];
  return decideHttp(selectHttpPolicies(policies, CART as never, true), buildFacts(parts)).allowed;
}

t.test('a policy goes to the waypoint of its targets, and follows them', (t) => {
  const model = modelWith(policy([onCart, { kind: 'Service', name: 'web' }], { rules: [{}] }));
  const both = [CART, 'shop/web.shop.svc.cluster.local'];
  t.same(places(model), { 'shop/way': [both] });
  t.same(
    [...model.policies.values()].filter(({ name }) => name === 'p'),
    [],
    'nothing for nodes',
  );
  model.put(
    read({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'web', namespace: 'shop', labels: { 'nodemesh.dev/waypoint': 'other' } },
      spec: { clusterIP: '10.96.0.2', ports: [{ port: 80 }] },
    }),
  );
  model.publish();
  t.same(places(model), { 'shop/way': [[CART]], 'shop/other': [[both[1]]] });
  model.put(policy([onWay], { rules: [{}] }));
  model.publish();
  t.same(places(model), { 'shop/way': [[]], 'shop/other': [] }, 'a Gateway means all its services');
  model.remove('AuthorizationPolicy', 'shop/p');
  model.publish();
  t.same(places(model), { 'shop/way': [], 'shop/other': [] });
  t.end();
});

t.test('who has no waypoint is told that nothing is enforced', (t) => {
  const conditions = (model: Model): unknown =>
    [...model.world.conditions()]
      .filter(({ key }) => key === 'AuthorizationPolicy/shop/p')
      .map(({ reason, message }) => `${reason}: ${message}`);
  const bare = modelWith(policy([{ kind: 'Service', name: 'nothing' }], { rules: [{}] }));
  t.same(conditions(bare), [
    'TargetNotFound: Not enforced for Service "nothing", which does not exist',
  ]);
  const model = modelWith(policy([onCart], { rules: [{}] }));
  t.same(conditions(model), []);
  model.put(namespace('shop'));
  model.publish();
  t.same(conditions(model), [
    'TargetNotFound: Not enforced for Service "cart", which has no waypoint',
  ]);
  t.same(places(model), { 'shop/way': [] });
  model.put(namespace('shop', { 'nodemesh.dev/waypoint': 'way' }));
  model.publish();
  t.same(conditions(model), []);
  t.same(places(model), { 'shop/way': [[CART]] });
  t.end();
});

t.test('every L7 field reaches the decision', (t) => {
  const rule = (part: Json): Json => ({ action: 'ALLOW', rules: [part] });
  const to = (operation: Json): Json => rule({ to: [{ operation }] });
  const from = (source: Json): Json => rule({ from: [{ source }] });
  const when = (key: string, values: string[], notValues?: string[]): Json =>
    rule({
      when: [
        { key, ...(values.length > 0 ? { values } : {}), ...(notValues ? { notValues } : {}) },
      ],
    });
  const alice = {
    principal: 'https://i/alice',
    claims: { aud: ['shop'], azp: 'app', realm: { roles: ['ops'] } },
  };
  const cases: readonly (readonly [Json, RequestParts, RequestParts])[] = [
    [to({ methods: ['GET'] }), {}, { method: 'POST' }],
    [to({ notMethods: ['POST'] }), {}, { method: 'POST' }],
    [to({ paths: ['/a/*'] }), { path: '/a/b' }, { path: '/b' }],
    [to({ notPaths: ['/admin*'] }), { path: '/a' }, { path: '/admin' }],
    [to({ hosts: ['cart', '*.test'] }), { host: 'x.test' }, { host: 'evil' }],
    [to({ notHosts: ['evil'] }), {}, { host: 'evil' }],
    [to({ ports: ['80'], paths: ['/a'] }), { path: '/a' }, { path: '/b' }],
    [from({ requestPrincipals: ['https://i/*'] }), { principal: alice }, {}],
    [from({ notRequestPrincipals: ['*'] }), {}, { principal: alice }],
    [from({ remoteIpBlocks: ['192.0.2.0/24'] }), { remoteIp: '192.0.2.1' }, {}],
    [from({ notRemoteIpBlocks: ['192.0.2.0/24'] }), {}, { remoteIp: '192.0.2.1' }],
    [from({ namespaces: ['shop'] }), {}, { source: 'spiffe://cluster.local/ns/bank/sa/web' }],
    [when('request.headers[X-Env]', ['test']), { headers: [['x-env', 'test']] }, {}],
    [when('request.headers[x-env]', [], ['test']), {}, { headers: [['x-env', 'test']] }],
    [when('request.auth.claims[realm][roles]', ['ops']), { principal: alice }, {}],
    [when('request.auth.audiences', ['shop']), { principal: alice }, {}],
    [when('request.auth.presenter', ['app']), { principal: alice }, {}],
    [when('request.auth.principal', ['https://i/alice']), { principal: alice }, {}],
    [when('remote.ip', ['192.0.2.1']), { remoteIp: '192.0.2.1' }, {}],
    [when('destination.port', ['80']), {}, { source: 'spiffe://x' }],
  ];
  for (const [spec, yes, no] of cases) {
    const text = JSON.stringify(spec);
    t.ok(allowed(spec, yes), text);
    t.notOk(allowed(spec, no), `${text} not`);
  }
  t.end();
});

t.test('dry run and explanations are annotations', (t) => {
  const annotations = {
    'nodemesh.dev/dry-run': 'true',
    'nodemesh.dev/explain-refusals': 'true',
  };
  const model = modelWith(policy([onCart], { action: 'DENY', rules: [{}] }, annotations));
  t.match(
    [...(model.httpPolicies.get('shop/way')?.values() ?? [])],
    [{ dryRun: true, explain: true }],
  );
  t.end();
});

const jwt = (rule: Json): Json => ({ targetRefs: [onCart], jwtRules: [rule] });

t.test('RequestAuthentication reaches the waypoint', (t) => {
  const spec = jwt({
    issuer: 'https://i',
    audiences: ['shop'],
    jwksUri: 'https://i/keys',
    fromHeaders: [{ name: 'X-Jwt', prefix: 'Bearer ' }],
    fromParams: ['t'],
    fromCookies: ['c'],
    outputPayloadToHeader: 'X-Payload',
    outputClaimToHeaders: [{ header: 'X-User', claim: 'user.name' }],
    forwardOriginalToken: true,
    timeout: '500ms',
  });
  const model = modelWith(own('RequestAuthentication', 'shop/j', spec));
  t.same(
    [...(model.authentications.get('shop/way')?.values() ?? [])],
    [
      {
        key: 'shop/j',
        name: 'j',
        namespace: 'shop',
        services: [CART],
        unknown: '',
        rules: [
          {
            issuer: 'https://i',
            audiences: ['shop'],
            jwks: '',
            jwksUri: 'https://i/keys',
            fromHeaders: [{ name: 'x-jwt', prefix: 'Bearer ' }],
            fromParams: ['t'],
            fromCookies: ['c'],
            outputPayloadHeader: 'x-payload',
            outputClaims: [{ header: 'x-user', path: ['user', 'name'] }],
            forwardToken: true,
            timeoutMs: 500,
          },
        ],
      },
    ],
  );
  model.remove('RequestAuthentication', 'shop/j');
  model.publish();
  t.equal(model.authentications.get('shop/way')?.size, 0);
  t.end();
});

t.test('what is refused, by field', (t) => {
  const spec = (kind: string, value: Json): Json => ({
    apiVersion: 'nodemesh.dev/v1alpha1',
    kind,
    metadata: { name: 'p', namespace: 'shop' },
    spec: value,
  });
  const authz = (value: Json): Json =>
    spec('AuthorizationPolicy', { targetRefs: [onCart], ...value });
  const when = (key: string): Json => authz({ rules: [{ when: [{ key, values: ['x'] }] }] });
  const jwks = { issuer: 'i', jwks: '{"keys":[]}' };
  const cases: readonly (readonly [Json, RegExp])[] = [
    [spec('AuthorizationPolicy', { targetRefs: [] }), /targetRefs: must not be an empty list/],
    [
      spec('AuthorizationPolicy', { targetRefs: [{ kind: 'Pod', name: 'x' }] }),
      /kind: must be one of/,
    ],
    [
      spec('AuthorizationPolicy', { targetRefs: [{ kind: 'Gateway', name: 'x' }] }),
      /group: of a Gateway/,
    ],
    [spec('AuthorizationPolicy', { targetRefs: [{ ...onCart, port: 1 }] }), /port: is not a field/],
    [authz({ rules: [{ to: [{ operation: { paths: ['/a/{*}'] } }] }] }), /path templates/],
    [authz({ rules: [{ to: [{ operation: { methods: ['G*T'] } }] }] }), /first or last/],
    [when('connection.sni'), /"connection.sni" is not supported/],
    [when('request.headers[:path]'), /not supported/],
    [when('remote.ip'), /Cannot read address/],
    [spec('RequestAuthentication', { jwtRules: [] }), /needs targetRefs/],
    [spec('RequestAuthentication', jwt({ issuer: 'i' })), /needs one of jwks and jwksUri/],
    [spec('RequestAuthentication', jwt({ ...jwks, jwksUri: 'https://i' })), /needs one of/],
    [spec('RequestAuthentication', jwt({ issuer: 'i', jwksUri: 'file:///x' })), /not an HTTP URL/],
    [spec('RequestAuthentication', jwt({ issuer: 'i', jwks: '[]' })), /not a JSON Web Key Set/],
    [spec('RequestAuthentication', jwt({ jwks: '{"keys":[]}' })), /issuer: is missing/],
    [
      spec('RequestAuthentication', jwt({ ...jwks, outputPayloadToHeader: 'x-nodemesh-client' })),
      /cannot carry a claim/,
    ],
    [
      spec('RequestAuthentication', jwt({ ...jwks, fromHeaders: [{ name: 'a b' }] })),
      /not the name of a header/,
    ],
    [spec('RequestAuthentication', jwt({ ...jwks, timeout: '1h' })), /from 1ms to 30s/],
    [spec('RequestAuthentication', jwt({ ...jwks, algorithm: 'none' })), /not a field/],
  ];
  for (const [manifest, problem] of cases) {
    const result = parseManifest(manifest);
    const problems = result.status === 'invalid' ? result.problems : [];
    const text = problems.map(({ path, message }) => `${formatFieldPath(path)}: ${message}`);
    t.match(text.join('; '), problem, JSON.stringify(manifest['spec']));
  }
  t.doesNotThrow(() => read(spec('RequestAuthentication', jwt(jwks))));
  t.end();
});
