/** Objects of ours that cannot be read and never could: policy fails closed, kind by kind, where its target is known. */

import t from 'tap';

import { parseManifest } from '../../src/controlplane/manifest/manifest.ts';
import type { MeshObject } from '../../src/controlplane/objects.ts';
import { gatewayApi, Model, namespace, own, pod, service, type Json } from './build.ts';

/** What counts in the place of a mistake; undefined: nothing does. */
function stead(kind: string, spec: unknown, metadata: Json = {}): MeshObject | undefined {
  const result = parseManifest({
    apiVersion: 'nodemesh.dev/v1alpha1',
    kind,
    metadata: { name: 'p', namespace: 'shop', ...metadata },
    spec,
  });
  if (result.status !== 'invalid') throw new Error(`It is ${result.status}`);
  return result.stead?.object;
}

/** Who reaches `shop/db` and `shop/web`, as "web from its own account, web from nobody": A or D each. */
function outcomes(...objects: readonly (MeshObject | undefined)[]): string {
  const model = new Model().put(
    namespace('shop', { 'nodemesh.dev/mesh': 'enabled' }),
    pod('shop/db', { uid: 'db', ip: '10.0.0.9', phase: 'Running', labels: { app: 'db' } }),
    pod('shop/web', { uid: 'web', ip: '10.0.0.8', phase: 'Running', labels: { app: 'web' } }),
    ...objects.filter((object) => object !== undefined),
  );
  model.settleAll().captured('node-a', 'db', 'web').settleAll();
  return ['shop/db', 'shop/web']
    .flatMap((path) => ['ns/shop/sa/web', undefined].map((from) => model.decide(path, from, 80)))
    .map(({ allowed }) => (allowed ? 'A' : 'D'))
    .join('');
}

const db = { selector: { matchLabels: { app: 'db' } } };
const badRules = { rules: [{ from: [{ source: { principals: ['a*b'] } }] }] };
const allowWeb = {
  rules: [{ from: [{ source: { principals: ['cluster.local/ns/shop/sa/web'] } }] }],
};

t.test('a policy that cannot be read denies what it may have denied', (t) => {
  const rows: [what: string, kind: string, spec: unknown, expected: string][] = [
    ['ALLOW allows nothing', 'AuthorizationPolicy', { ...db, ...badRules }, 'DDAA'],
    ['a misspelt field beside a selector', 'AuthorizationPolicy', { ...db, rulez: [] }, 'DDAA'],
    ['without a selector: the namespace', 'AuthorizationPolicy', badRules, 'DDDD'],
    [
      'DENY denies everything',
      'AuthorizationPolicy',
      { ...db, ...badRules, action: 'DENY' },
      'DDAA',
    ],
    ['an unknown action may be one', 'AuthorizationPolicy', { ...db, action: 'DENI' }, 'DDAA'],
    ['PeerAuthentication is STRICT', 'PeerAuthentication', { ...db, mtls: { mode: 'X' } }, 'ADAA'],
    [
      'on every port',
      'PeerAuthentication',
      { ...db, portLevelMtls: { 80: { mode: 'X' } } },
      'ADAA',
    ],
    ['in all of its namespace', 'PeerAuthentication', { mtls: { mode: 'STRIKT' } }, 'ADAD'],
  ];
  t.equal(outcomes(), 'AAAA');
  for (const [what, kind, spec, expected] of rows)
    t.equal(outcomes(stead(kind, spec)), expected, what);
  t.end();
});

t.test('an ALLOW that cannot be read takes nothing from one that can; a DENY does', (t) => {
  const other = own('AuthorizationPolicy', 'shop/other', { ...db, ...allowWeb });
  t.equal(outcomes(other), 'ADAA');
  t.equal(outcomes(other, stead('AuthorizationPolicy', { ...db, ...badRules })), 'ADAA');
  const deny = stead('AuthorizationPolicy', { ...db, ...badRules, action: 'DENY' });
  t.equal(outcomes(other, deny), 'DDAA');
  t.end();
});

t.test('nobody is denied by guessing', (t) => {
  const dryRun = { annotations: { 'nodemesh.dev/dry-run': 'true' } };
  const ref = { targetRefs: [{ kind: 'Service', name: 'Not A Name' }] };
  const rows: [what: string, kind: string, spec: unknown, metadata?: Json][] = [
    ['AUDIT', 'AuthorizationPolicy', { ...badRules, action: 'AUDIT' }],
    ['a dry run', 'AuthorizationPolicy', badRules, dryRun],
    ['its selector cannot be read', 'AuthorizationPolicy', { selector: { matchLabels: [] } }],
    ['it may have been a selector', 'AuthorizationPolicy', { selektor: db.selector, ...allowWeb }],
    ['it may have been the spec', 'PeerAuthentication', 'STRICT'],
    ['its target cannot be read', 'RequestAuthentication', ref],
    ['it has no target', 'RequestAuthentication', { jwtRules: [] }],
    ['TrafficPolicy', 'TrafficPolicy', { targetRefs: [{ kind: 'Service', name: 'a' }], retry: {} }],
  ];
  for (const [what, kind, spec, metadata] of rows)
    t.equal(stead(kind, spec, metadata), undefined, what);
  const mesh = (spec: Json): MeshObject | undefined =>
    stead('MeshConfig', spec, { name: 'default', namespace: 'nodemesh-system' });
  t.equal(mesh({ clusterId: '/', mtls: { mode: 'PERMISSIVE' } }), undefined);
  t.match(mesh({ clusterId: '/', mtls: { mode: 'STRICT' } }), { mtlsMode: 'STRICT' });
  t.match(mesh({ mtls: { mode: 'STRIKT' } }), { mtlsMode: 'STRICT', clusterId: 'Kubernetes' });
  t.end();
});

t.test('at a waypoint, too: it lets nobody in, and authenticates nobody', (t) => {
  const targetRefs = [{ kind: 'Service', name: 'cart' }];
  const model = new Model().put(
    namespace('shop', { 'nodemesh.dev/waypoint': 'wp' }),
    service('shop/cart', { ports: [{ port: 80 }] }),
    gatewayApi('Gateway', 'shop/wp', { gatewayClassName: 'nodemesh-waypoint', listeners: [] }),
  );
  for (const object of [
    stead('AuthorizationPolicy', { targetRefs, ...badRules }),
    stead('RequestAuthentication', { targetRefs, jwtRules: [{ issuer: '' }] }),
  ]) {
    if (object !== undefined) model.put(object);
  }
  model.settleAll();
  const [policy] = model.httpPolicies.get('shop/wp')?.values() ?? [];
  t.match(policy, { action: 'ALLOW', rules: [], services: ['shop/cart.shop.svc.cluster.local'] });
  const [tokens] = model.authentications.get('shop/wp')?.values() ?? [];
  t.match(tokens, { rules: [], unknown: 'the object cannot be read' });
  t.end();
});
