/** Objects of unknown origin: what is read, what is refused and where, and that nothing is ever thrown (T100). */

import fc from 'fast-check';
import t from 'tap';

import { authorizationView } from '../../src/controlplane/authorization.ts';
import { formatFieldPath } from '../../src/controlplane/manifest/fields.ts';
import { parseManifest } from '../../src/controlplane/manifest/manifest.ts';
import { decodeAuthorization, policyResource } from '../../src/discovery/codec-policy.ts';
import { World } from '../../src/controlplane/world.ts';
import type { Json } from './build.ts';

const own = (kind: string, spec: Json, extra: Json = {}): Json => ({
  apiVersion: 'nodemesh.dev/v1alpha1',
  kind,
  metadata: { name: 'p', namespace: 'shop' },
  spec,
  ...extra,
});
const core = (kind: string, fields: Json): Json => ({
  apiVersion: 'v1',
  kind,
  metadata: { name: 'p', namespace: 'shop' },
  ...fields,
});
const rule = (fields: Json): Json => own('AuthorizationPolicy', { rules: [fields] });
const source = (fields: Json): Json => rule({ from: [{ source: fields }] });

function problems(value: unknown): string[] {
  const result = parseManifest(value);
  if (result.status !== 'invalid') return [result.status];
  return result.problems.map(({ path, message }) => `${formatFieldPath(path)}: ${message}`);
}

t.test('what is refused, by field', (t) => {
  const rows: [unknown, RegExp][] = [
    [null, /^\(whole object\): must be an object, not null/],
    [[], /must be an object, not a list/],
    [{}, /^kind: is missing/],
    [{ kind: 'Pod' }, /^apiVersion: is missing/],
    [core('Pod', { metadata: { name: 'A_b' } }), /^metadata\.name: must be a name/],
    [core('Pod', { metadata: { name: 'a', namespace: 'a.b' } }), /^metadata\.namespace/],
    [core('Pod', { metadata: { name: 'a', uid: '../x' } }), /^metadata\.uid: must be letters/],
    [
      core('Pod', { metadata: { name: 'a', labels: { a: 1 } } }),
      /^metadata\.labels\.a: must be a string, not 1/,
    ],
    [core('Pod', { metadata: { name: 'a', labels: 'x' } }), /^metadata\.labels: must be an object/],
    [
      core('Pod', { metadata: { name: 'a', creationTimestamp: 'soon' } }),
      /creationTimestamp: must be a time/,
    ],
    [core('Pod', { spec: { serviceAccountName: 'A' } }), /^spec\.serviceAccountName/],
    [core('Pod', { spec: { hostNetwork: 'yes' } }), /^spec\.hostNetwork: must be true or false/],
    [core('Pod', { status: { podIP: 'fe80::1%eth0' } }), /^status\.podIP: Cannot read address/],
    [
      core('Pod', { status: { podIPs: [{ ip: '127.0.0.1' }] } }),
      /^status\.podIPs\[0\]\.ip: is not an address/,
    ],
    [core('Pod', { status: { podIP: '169.254.169.254' } }), /^status\.podIP: is not/],
    [core('Pod', { status: { podIP: 'ff02::1' } }), /^status\.podIP: is not/],
    [core('Pod', { status: { phase: 'Lost' } }), /^status\.phase: must be one of/],
    [
      core('Pod', { spec: { containers: [{ readinessProbe: { httpGet: { port: 0 } } }] } }),
      /^spec\.containers\[0\]\.readinessProbe\.httpGet\.port: must be/,
    ],
    [
      core('Service', { spec: { ports: [{ port: 70000 }] } }),
      /^spec\.ports\[0\]\.port: must be a whole/,
    ],
    [core('Service', { spec: { ports: [{ port: 1, targetPort: {} }] } }), /targetPort/],
    [core('Service', { spec: { clusterIP: 'x' } }), /^spec\.clusterIP: Cannot read/],
    [core('Service', { spec: { ports: { port: 1 } } }), /^spec\.ports: must be a list/],
    [
      {
        apiVersion: 'discovery.k8s.io/v1',
        kind: 'EndpointSlice',
        metadata: { name: 'x', labels: { 'kubernetes.io/service-name': 'y' } },
        endpoints: [{ addresses: ['127.0.0.1'] }],
      },
      /^endpoints\[0\]\.addresses\[0\]: .*loopback/,
    ],
    [
      { apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', metadata: { name: 'x' } },
      /needs the label/,
    ],
    [own('AuthorizationPolicy', { acton: 'DENY' }), /^spec\.acton: is not a field/],
    [own('AuthorizationPolicy', {}, { specs: {} }), /^specs: is not a field/],
    [
      own('AuthorizationPolicy', { action: 'CUSTOM' }),
      /^spec\.action: must be one of ALLOW, DENY, AUDIT/,
    ],
    [rule({ from: [] }), /^spec\.rules\[0\]\.from: must not be an empty list/],
    [rule({ form: [] }), /^spec\.rules\[0\]\.form: is not a field/],
    [rule({ from: [{}] }), /^spec\.rules\[0\]\.from\[0\]\.source: is missing/],
    [source({}), /^spec\.rules\[0\]\.from\[0\]\.source: must set at least one field/],
    [source({ principals: [] }), /principals: must not be an empty list/],
    [source({ principal: ['x'] }), /principal: is not a field/],
    [
      source({ principals: ['a*b'] }),
      /principals\[0\]: cannot match "a\*b": "\*" must be first or last/,
    ],
    [source({ principals: ['*a*'] }), /only one/],
    [source({ principals: ['spiffe://a/ns/b/sa/c'] }), /without "spiffe/],
    [source({ namespaces: [''] }), /it is empty/],
    [source({ serviceAccounts: ['a/b/c'] }), /write ACCOUNT/],
    [source({ ipBlocks: ['10.0.0.1/8'] }), /bits after the prefix/],
    [rule({ to: [{ operation: { ports: ['http'] } }] }), /ports: must hold port numbers/],
    [rule({ to: [{ operation: { ports: [0] } }] }), /ports: must hold port numbers/],
    [rule({ when: [{ key: 'source.pony', values: ['x'] }] }), /key: is not a known condition/],
    [rule({ when: [{ key: 'source.ip' }] }), /values: values or notValues is needed/],
    [rule({ when: [{ key: 'source.ip', values: ['x'] }] }), /values\[0\]: Cannot read address/],
    [
      own('AuthorizationPolicy', {
        selector: { matchLabels: { a: 'b' } },
        targetRefs: [{ kind: 'Service', name: 'x' }],
      }),
      /^spec\.selector: cannot be combined/,
    ],
    [own('PeerAuthentication', { mtls: { mode: 'MAYBE' } }), /^spec\.mtls\.mode: must be one of/],
    [own('PeerAuthentication', { portLevelMtls: { 80: { mode: 'STRICT' } } }), /needs a selector/],
    [
      own('PeerAuthentication', {
        selector: { matchLabels: { a: 'b' } },
        portLevelMtls: { http: { mode: 'STRICT' } },
      }),
      /^spec\.portLevelMtls\.http: must be a port number/,
    ],
    [own('MeshConfig', {}), /only "nodemesh-system\/default" is read/],
    [own('Nonsense', {}), /^kind: is not a kind of this apiVersion/],
    [{ ...own('AuthorizationPolicy', {}), apiVersion: 'nodemesh.dev/v9' }, /^kind: is not a kind/],
  ];
  for (const [value, expected] of rows)
    t.match(problems(value)[0], expected, JSON.stringify(value));
  t.end();
});

t.test('kinds we do not read are said to be unknown; CNIs’ own policies are not', (t) => {
  t.match(parseManifest({ apiVersion: 'apps/v1', kind: 'Deployment' }), { status: 'unknown' });
  const metadata = { name: 'x', namespace: 'shop' };
  for (const apiVersion of ['cilium.io/v2', 'projectcalico.org/v3', 'crd.antrea.io/v1beta1']) {
    const result = parseManifest({ apiVersion, kind: 'SomeNetworkPolicy', metadata });
    t.match(result, { status: 'object', object: { kind: 'NetworkPolicy' } }, apiVersion);
  }
  t.end();
});

t.test('the last good version of an invalid object can be found by its key', (t) => {
  t.match(parseManifest(own('AuthorizationPolicy', { acton: 1 })), {
    key: 'AuthorizationPolicy/shop/p',
  });
  t.match(parseManifest(core('Pod', { metadata: { name: 'A' } })), { key: undefined });
  t.end();
});

t.test('T100 a policy that would not fit the wire is refused', (t) => {
  const values = (count: number, length: number): string[] =>
    Array.from({ length: count }, (_, index) => `${index}`.padStart(length, 'a'));
  t.match(problems(source({ principals: values(9_000, 200) }))[0], /^spec\.rules: are too many/);
  t.match(problems(source({ principals: values(10_001, 6) }))[0], /at most 10000/);
  t.match(problems(source({ principals: ['x'.repeat(5_000)] }))[0], /at most 4096/);
  const widest: [string, Json][] = [
    ['long', source({ principals: values(9_000, 54) })],
    ['many', source({ principals: values(9_990, 5), namespaces: values(9_990, 5) })],
    ['ports', rule({ to: [{ operation: { ports: Array.from({ length: 10_000 }, () => 9) } }] })],
    ['blocks', source({ ipBlocks: Array.from({ length: 9_000 }, () => '2001:db8:1:2:3:4:5:6') })],
  ];
  for (const [what, value] of widest) {
    const result = parseManifest(value);
    t.equal(result.status, 'object', what);
    if (result.status !== 'object' || result.object.kind !== 'AuthorizationPolicy') continue;
    const { policy } = authorizationView(result.object, false);
    const resource = policy && policyResource(policy);
    t.equal(decodeAuthorization(resource?.body ?? Buffer.of()).ok, true, what);
  }
  t.end();
});

t.test('T100 at most sixteen problems of one object are kept', (t) => {
  const spec = Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`field${index}`, 1]));
  t.equal(problems(own('AuthorizationPolicy', spec)).length, 16);
  t.end();
});

/** Real field names with anything in them, so that readers get past the first check. */
const words = [
  'apiVersion',
  'kind',
  'metadata',
  'name',
  'namespace',
  'labels',
  'annotations',
  'spec',
  'status',
  'containers',
  'ports',
  'containerPort',
  'readinessProbe',
  'httpGet',
  'port',
  'podIPs',
  'ip',
  'selector',
  'matchLabels',
  'rules',
  'from',
  'source',
  'principals',
  'to',
  'operation',
  'when',
  'key',
  'values',
  'mtls',
  'mode',
  'portLevelMtls',
  'endpoints',
  'addresses',
  'conditions',
  '__proto__',
  'constructor',
  'hasOwnProperty',
  'ownerReferences',
  'clusterIPs',
  'podSelector',
];
const leaf = fc.oneof(
  fc.constantFrom<unknown>(
    'a',
    '',
    '10.0.0.1',
    'STRICT',
    '80',
    80,
    -1,
    1.5,
    NaN,
    null,
    true,
    '*',
    'Job',
  ),
  fc.string({ maxLength: 8 }),
  fc.integer(),
);
const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
  tree: fc.oneof(
    { maxDepth: 7, depthSize: 'large' },
    leaf,
    fc.array(tie('tree'), { maxLength: 3 }),
    fc.dictionary(fc.constantFrom(...words), tie('tree'), { maxKeys: 5, noNullPrototype: false }),
  ),
}));
const heads: Json[] = [
  ...['Pod', 'Service', 'Node', 'Namespace'].map((kind) => ({ apiVersion: 'v1', kind })),
  { apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice' },
  { apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy' },
  ...['MeshConfig', 'PeerAuthentication', 'AuthorizationPolicy'].map((kind) => ({
    apiVersion: 'nodemesh.dev/v1alpha1',
    kind,
  })),
];

t.test('T100 any object is read or refused, and what is read can be published', (t) => {
  const shape = fc
    .tuple(fc.constantFrom(...heads), tree, tree, tree)
    .map(([head, metadata, spec, rest]) => ({
      ...(typeof rest === 'object' && rest !== null ? rest : {}),
      ...head,
      metadata:
        typeof metadata === 'object' && metadata !== null ? { name: 'x', ...metadata } : metadata,
      spec,
    }));
  const property = fc.property(fc.oneof(tree, shape), (value) => {
    const result = parseManifest(value);
    if (result.status === 'invalid') {
      for (const { path } of result.problems) formatFieldPath(path);
      if (result.problems.length === 0) return false;
    }
    if (result.status !== 'object') return true;
    const world = new World({ istioLabels: true });
    world.apply({ type: 'put', object: result.object });
    const steps = world.collect();
    for (let step = steps.next(); step.done !== true; step = steps.next());
    return Object.getOwnPropertyNames(Object.prototype).length === 12;
  });
  t.equal(Object.getOwnPropertyNames(Object.prototype).length, 12);
  fc.assert(property, { numRuns: 2_000 });
  t.end();
});
