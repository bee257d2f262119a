/** Golden policies: our objects, converted, decided by the real evaluator (hbone 4.1 and 4.2). */

import t from 'tap';

import { authorizationView, parseStringMatch } from '../../src/controlplane/authorization.ts';
import type { AuthorizationPolicy } from '../../src/controlplane/objects.ts';
import { Model, namespace, own, pod, type Json } from './build.ts';

const WEB = 'cluster.local/ns/shop/sa/web';
const CART = 'cluster.local/ns/shop/sa/cart';
const OTHER = 'cluster.local/ns/other/sa/web';

/** A captured pod `shop/db` under the given objects; principals are written as in policies. */
function dbWith(...objects: ReturnType<typeof own>[]): Model {
  const model = new Model().put(
    namespace('shop', { 'nodemesh.dev/mesh': 'enabled' }),
    pod('shop/db', { uid: 'db', ip: '10.0.0.9', phase: 'Running', labels: { app: 'db' } }),
    ...objects,
  );
  return model.settleAll().captured('node-a', 'db').settleAll();
}

function authz(spec: Json, metadata: Json = {}, path = 'shop/p'): ReturnType<typeof own> {
  return own('AuthorizationPolicy', path, spec, metadata);
}

function outcomes(model: Model, asks: readonly [string | undefined, number][]): string {
  return asks
    .map(([from, port]) => {
      const source = from?.replace(/^cluster\.local\//, '');
      return model.decide('shop/db', source, port).allowed ? 'A' : 'D';
    })
    .join('');
}

t.test('one policy: who passes', (t) => {
  const asks: [string | undefined, number][] = [
    [WEB, 5432],
    [CART, 5432],
    [OTHER, 5432],
    [undefined, 5432],
    [WEB, 9000],
  ];
  const source = (fields: Json): Json => ({ from: [{ source: fields }] });
  const rows: [string, Json, string][] = [
    ['no rules, ALLOW: nobody', {}, 'DDDDD'],
    ['no rules, DENY: nobody is denied', { action: 'DENY' }, 'AAAAA'],
    ['an empty rule: everybody', { rules: [{}] }, 'AAAAA'],
    ['an empty rule, DENY: everybody', { action: 'DENY', rules: [{}] }, 'DDDDD'],
    ['a principal', { rules: [source({ principals: [WEB] })] }, 'ADDDA'],
    ['any principal', { rules: [source({ principals: ['*'] })] }, 'AAADA'],
    ['a prefix', { rules: [source({ principals: ['cluster.local/ns/shop/*'] })] }, 'AADDA'],
    ['a suffix', { rules: [source({ principals: ['*/sa/web'] })] }, 'ADADA'],
    ['not a principal: nobody has none', { rules: [source({ notPrincipals: [WEB] })] }, 'DAAAD'],
    ['not any principal', { action: 'DENY', rules: [source({ notPrincipals: ['*'] })] }, 'AAADA'],
    ['a namespace', { rules: [source({ namespaces: ['shop'] })] }, 'AADDA'],
    ['not a namespace', { rules: [source({ notNamespaces: ['shop'] })] }, 'DDAAD'],
    ['an account of ours', { rules: [source({ serviceAccounts: ['web'] })] }, 'ADDDA'],
    ['an account elsewhere', { rules: [source({ serviceAccounts: ['other/web'] })] }, 'DDADD'],
    ['not an account', { rules: [source({ notServiceAccounts: ['web'] })] }, 'DAAAD'],
    ['an address', { rules: [source({ ipBlocks: ['10.9.0.0/16'] })] }, 'AAAAA'],
    ['not an address', { rules: [source({ notIpBlocks: ['10.9.9.9'] })] }, 'DDDDD'],
    ['a port', { rules: [{ to: [{ operation: { ports: ['5432'] } }] }] }, 'AAAAD'],
    ['not a port', { rules: [{ to: [{ operation: { notPorts: [5432] } }] }] }, 'DDDDA'],
    [
      'fields of one source are AND',
      { rules: [source({ principals: [WEB], notNamespaces: ['shop'] })] },
      'DDDDD',
    ],
    [
      'sources are OR',
      {
        rules: [{ from: [{ source: { principals: [WEB] } }, { source: { principals: [CART] } }] }],
      },
      'AADDA',
    ],
    [
      'from and to are AND',
      { rules: [{ ...source({ principals: [WEB] }), to: [{ operation: { ports: ['9000'] } }] }] },
      'DDDDA',
    ],
    [
      'rules are OR',
      { rules: [source({ principals: [CART] }), { to: [{ operation: { ports: ['9000'] } }] }] },
      'DADDA',
    ],
    [
      'conditions are AND',
      {
        rules: [
          {
            when: [
              { key: 'source.namespace', values: ['shop'] },
              { key: 'source.principal', notValues: [CART] },
              { key: 'destination.port', values: ['5432'] },
              { key: 'destination.ip', values: ['10.0.0.0/24'] },
              { key: 'source.ip', notValues: ['192.168.0.0/16'] },
            ],
          },
        ],
      },
      'ADDDD',
    ],
  ];
  for (const [what, spec, expected] of rows) {
    t.equal(outcomes(dbWith(authz(spec)), asks), expected, what);
  }
  t.end();
});

t.test('what only L7 can see makes ALLOW and DENY stricter, and is said', (t) => {
  const asks: [string | undefined, number][] = [
    [WEB, 5432],
    [CART, 5432],
    [WEB, 9000],
  ];
  const l7 = { to: [{ operation: { paths: ['/admin'], ports: ['5432'] } }] };
  const only = { to: [{ operation: { methods: ['GET'] } }] };
  const from = { from: [{ source: { principals: [WEB] } }] };
  const rows: [string, Json, string][] = [
    ['ALLOW: the rule goes', { rules: [{ ...from, ...l7 }] }, 'DDD'],
    ['ALLOW: other rules stay', { rules: [{ ...from, ...l7 }, from] }, 'ADA'],
    ['DENY: the path goes', { action: 'DENY', rules: [{ ...from, ...l7 }] }, 'DAA'],
    [
      'DENY: an operation of L7 alone means any',
      { action: 'DENY', rules: [{ ...from, ...only }] },
      'DAD',
    ],
    [
      'DENY: any beside a port is any',
      { action: 'DENY', rules: [{ ...from, to: [...only.to, { operation: { ports: ['1'] } }] }] },
      'DAD',
    ],
    [
      'DENY: an L7 condition goes',
      {
        action: 'DENY',
        rules: [{ ...from, when: [{ key: 'request.headers[x]', values: ['1'] }] }],
      },
      'DAD',
    ],
    [
      'DENY: a source of L7 alone means any',
      { action: 'DENY', rules: [{ from: [{ source: { requestPrincipals: ['*'] } }] }] },
      'DDD',
    ],
  ];
  for (const [what, spec, expected] of rows) {
    const model = dbWith(authz(spec));
    t.equal(outcomes(model, asks), expected, what);
    t.match(
      [...model.world.conditions()],
      [{ reason: 'L7Ignored', key: 'AuthorizationPolicy/shop/p' }],
    );
  }
  t.end();
});

t.test('scope: selector, namespace, whole mesh; targetRefs go to waypoints', (t) => {
  const deny = { action: 'DENY', rules: [{}] };
  const selecting = (app: string): Json => ({ ...deny, selector: { matchLabels: { app } } });
  const keys = (model: Model): unknown => [
    [...model.policies.values()]
      .filter(({ name }) => name === 'p')
      .map(({ key, namespace: ns, scope }) => [key, ns, scope]),
    model.workload('shop/db').authorizationPolicies,
    model.decide('shop/db', 'ns/shop/sa/web', 1).allowed,
  ];
  t.same(keys(dbWith(authz(deny))), [[['shop/p', 'shop', 'NAMESPACE']], [], false]);
  t.same(keys(dbWith(authz(selecting('db')))), [
    [['shop/p', 'shop', 'WORKLOAD_SELECTOR']],
    ['shop/p'],
    false,
  ]);
  t.same(keys(dbWith(authz(selecting('web')))), [
    [['shop/p', 'shop', 'WORKLOAD_SELECTOR']],
    [],
    true,
  ]);
  t.same(keys(dbWith(authz(deny, {}, 'nodemesh-system/p'))), [[['/p', '', 'GLOBAL']], [], false]);
  t.same(keys(dbWith(authz(selecting('db'), {}, 'nodemesh-system/p'))), [
    [['nodemesh-system/p', 'nodemesh-system', 'WORKLOAD_SELECTOR']],
    ['nodemesh-system/p'],
    false,
  ]);
  t.same(keys(dbWith(authz(deny, {}, 'other/p'))), [[['other/p', 'other', 'NAMESPACE']], [], true]);
  const bound = dbWith(authz({ ...deny, targetRefs: [{ kind: 'Service', name: 'db' }] }));
  t.same(keys(bound), [[], [], true]);
  t.match([...bound.world.conditions()], [{ reason: 'TargetNotFound' }]);
  t.end();
});

t.test('dry-run and AUDIT change no decision', (t) => {
  const deny = { action: 'DENY', rules: [{}] };
  const dry = dbWith(authz(deny, { annotations: { 'nodemesh.dev/dry-run': 'true' } }));
  t.equal(outcomes(dry, [[WEB, 1]]), 'A');
  t.match(dry.decide('shop/db', 'ns/shop/sa/web', 1).dryRun, [
    { policy: 'shop/p', wouldDeny: true },
  ]);
  const istio = authz(deny, { annotations: { 'istio.io/dry-run': 'true' } }) as AuthorizationPolicy;
  t.equal(authorizationView(istio, false).policy?.dryRun, false);
  t.equal(authorizationView(istio, true).policy?.dryRun, true);
  const audit = dbWith(authz({ action: 'AUDIT', rules: [{}] }));
  t.equal(outcomes(audit, [[WEB, 1]]), 'A');
  t.same(audit.decide('shop/db', 'ns/shop/sa/web', 1).audited, ['shop/p']);
  t.end();
});

t.test('string patterns: exact, any, prefix, suffix', (t) => {
  t.same(parseStringMatch('*'), { kind: 'presence' });
  t.same(parseStringMatch('a*'), { kind: 'prefix', value: 'a' });
  t.same(parseStringMatch('*a'), { kind: 'suffix', value: 'a' });
  t.same(parseStringMatch('a'), { kind: 'exact', value: 'a' });
  t.end();
});

t.test('PeerAuthentication: mesh, namespace, workload, port (hbone 4.2)', (t) => {
  const peer = (path: string, spec: Json, metadata: Json = {}): ReturnType<typeof own> =>
    own('PeerAuthentication', path, spec, metadata);
  const mode = (value: string): Json => ({ mtls: { mode: value } });
  const db = { selector: { matchLabels: { app: 'db' } } };
  const ports = (value: Record<string, string>): Json => ({
    portLevelMtls: Object.fromEntries(Object.entries(value).map(([k, v]) => [k, { mode: v }])),
  });
  const mesh = own('MeshConfig', 'nodemesh-system/default', mode('STRICT'));
  const staticKey = 'nodemesh-system/istio_converted_static_strict';
  const converted = 'shop/converted_peer_authentication_db';
  // Plain text to port 80, to port 81; what the workload lists.
  const rows: [string, ReturnType<typeof own>[], string, string[]][] = [
    ['nothing', [], 'AA', []],
    ['MeshConfig', [mesh], 'DD', [staticKey]],
    ['mesh', [peer('nodemesh-system/all', mode('STRICT'))], 'DD', [staticKey]],
    ['mesh beats MeshConfig', [mesh, peer('nodemesh-system/all', mode('PERMISSIVE'))], 'AA', []],
    ['namespace', [peer('shop/all', mode('STRICT'))], 'DD', [staticKey]],
    ['another namespace', [peer('other/all', mode('STRICT'))], 'AA', []],
    ['namespace beats mesh', [mesh, peer('shop/all', mode('PERMISSIVE'))], 'AA', []],
    ['UNSET inherits', [mesh, peer('shop/all', mode('UNSET'))], 'DD', [staticKey]],
    ['DISABLE is PERMISSIVE', [mesh, peer('shop/all', mode('DISABLE'))], 'AA', []],
    ['workload', [peer('shop/db', { ...mode('STRICT'), ...db })], 'DD', [staticKey]],
    [
      'workload beats namespace',
      [mesh, peer('shop/db', { ...mode('PERMISSIVE'), ...db })],
      'AA',
      [],
    ],
    [
      'another workload',
      [peer('shop/x', { ...mode('STRICT'), selector: { matchLabels: { app: 'x' } } })],
      'AA',
      [],
    ],
    ['strict port', [peer('shop/db', { ...db, ...ports({ 80: 'STRICT' }) })], 'DA', [converted]],
    [
      'two strict ports',
      [peer('shop/db', { ...db, ...ports({ 80: 'STRICT', 81: 'STRICT' }) })],
      'DD',
      [converted],
    ],
    [
      'exempted port',
      [peer('shop/db', { ...mode('STRICT'), ...db, ...ports({ 80: 'PERMISSIVE' }) })],
      'AD',
      [converted],
    ],
    [
      'exempted port under an inherited mode',
      [mesh, peer('shop/db', { ...db, ...ports({ 80: 'PERMISSIVE' }) })],
      'AD',
      [converted],
    ],
    [
      'ports that say the same',
      [mesh, peer('shop/db', { ...db, ...ports({ 80: 'STRICT' }) })],
      'DD',
      [staticKey],
    ],
    [
      'the oldest of several counts',
      [
        peer('shop/a', mode('STRICT'), { creationTimestamp: '2026-02-01T00:00:00Z' }),
        peer('shop/b', mode('PERMISSIVE'), { creationTimestamp: '2026-01-01T00:00:00Z' }),
      ],
      'AA',
      [],
    ],
    [
      'then the first by name',
      [peer('shop/b', mode('PERMISSIVE')), peer('shop/a', mode('STRICT'))],
      'DD',
      [staticKey],
    ],
  ];
  for (const [what, objects, expected, listed] of rows) {
    const model = dbWith(...objects);
    const seen = [80, 81].map((port) =>
      model.decide('shop/db', undefined, port).allowed ? 'A' : 'D',
    );
    t.equal(seen.join(''), expected, what);
    t.same(model.workload('shop/db').authorizationPolicies, listed, what);
    t.equal(model.decide('shop/db', 'ns/shop/sa/web', 80).allowed, true, `${what}: mTLS passes`);
  }
  t.end();
});

t.test('changing an inherited mode changes the policies that were made from it', (t) => {
  const selector = { matchLabels: { app: 'db' } };
  const object = own('PeerAuthentication', 'shop/db', {
    selector,
    portLevelMtls: { 80: { mode: 'PERMISSIVE' } },
  });
  const model = dbWith(object);
  t.equal(model.decide('shop/db', undefined, 81).allowed, true);
  model.put(own('PeerAuthentication', 'nodemesh-system/all', { mtls: { mode: 'STRICT' } }));
  model.settleAll();
  t.equal(model.decide('shop/db', undefined, 81).allowed, false);
  t.equal(model.decide('shop/db', undefined, 80).allowed, true);
  model.remove('PeerAuthentication', 'nodemesh-system/all').settleAll();
  t.equal(model.decide('shop/db', undefined, 81).allowed, true);
  t.end();
});

t.test('a selector policy goes only after nobody names it any more (T103)', (t) => {
  const model = dbWith(authz({ selector: { matchLabels: { app: 'db' } }, rules: [{}] }));
  model.remove('AuthorizationPolicy', 'shop/p').publish();
  t.ok(model.policies.has('shop/p'), 'still there');
  t.same(model.workload('shop/db').authorizationPolicies, []);
  model.acknowledge();
  t.notOk(model.policies.has('shop/p'));
  t.end();
});

t.test('a namespace policy that narrows to a selector stays wide until it is named (T103)', (t) => {
  const deny = { action: 'DENY', rules: [{}] };
  const model = dbWith(authz(deny));
  model.put(authz({ ...deny, selector: { matchLabels: { app: 'db' } } })).publish();
  t.equal(model.policies.get('shop/p')?.scope, 'NAMESPACE');
  t.same(model.workload('shop/db').authorizationPolicies, ['shop/p']);
  t.equal(model.decide('shop/db', 'ns/shop/sa/web', 1).allowed, false);
  model.acknowledge();
  t.equal(model.policies.get('shop/p')?.scope, 'WORKLOAD_SELECTOR');
  t.equal(model.decide('shop/db', 'ns/shop/sa/web', 1).allowed, false);
  t.end();
});

t.test('a policy of the mesh that narrows to a selector stays until that is named (T103)', (t) => {
  const deny = { action: 'DENY', rules: [{}] };
  const object = (spec: Json) => authz({ ...deny, ...spec }, {}, 'nodemesh-system/p');
  const model = dbWith(object({}));
  t.equal(model.policies.get('/p')?.scope, 'GLOBAL');
  model.put(object({ selector: { matchLabels: { app: 'db' } } })).publish();
  t.ok(model.policies.has('/p'), 'nodes may not have heard yet that the workload names the other');
  t.equal(model.policies.get('nodemesh-system/p')?.scope, 'WORKLOAD_SELECTOR');
  t.same(model.workload('shop/db').authorizationPolicies, ['nodemesh-system/p']);
  model.acknowledge();
  t.notOk(model.policies.has('/p'));
  t.equal(model.decide('shop/db', 'ns/shop/sa/web', 1).allowed, false);
  model.put(object({})).publish();
  t.ok(model.policies.has('/p'), 'wide again at once');
  t.ok(model.policies.has('nodemesh-system/p'), 'while it is still named');
  model.settleAll();
  t.notOk(model.policies.has('nodemesh-system/p'));
  model.remove('AuthorizationPolicy', 'nodemesh-system/p').publish();
  t.notOk(model.policies.has('/p'), 'what is deleted goes at once');
  t.end();
});

t.test('a policy that comes back while it waits to go stays', (t) => {
  const object = authz({ selector: { matchLabels: { app: 'db' } }, rules: [{}] });
  const model = dbWith(object);
  model.remove('AuthorizationPolicy', 'shop/p').publish();
  model.put(object).publish();
  model.acknowledge();
  t.ok(model.policies.has('shop/p'));
  t.same(model.workload('shop/db').authorizationPolicies, ['shop/p']);
  t.end();
});
