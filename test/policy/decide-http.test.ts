/** L7 decisions: order, fields, and readings of what a client says twice. */

import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { parseCidr } from '../../src/core/address.ts';
import type { HttpPolicy, HttpPolicyMatch } from '../../src/core/http-policy.ts';
import { serviceKey } from '../../src/core/workload.ts';
import type { HeaderField } from '../../src/http/h2/contract.ts';
import { decideHttp, selectHttpPolicies } from '../../src/policy/decide-http.ts';
import { createHttpPolicyBook } from '../../src/policy/http-policy-book.ts';
import {
  buildFacts,
  buildHttpPolicy,
  clause,
  decideFor,
  texts,
  type RequestParts,
} from './build-http.ts';

const deny = (match: Partial<HttpPolicyMatch>): HttpPolicy =>
  buildHttpPolicy('DENY', [clause('to', match)], { key: 'shop/deny' });
const allow = (match: Partial<HttpPolicyMatch>): HttpPolicy =>
  buildHttpPolicy('ALLOW', [clause('to', match)], { key: 'shop/allow' });

void t.test('order: DENY, then what is not understood, then ALLOW', (t) => {
  const everything = buildHttpPolicy('ALLOW', []);
  t.ok(decideFor([]).allowed, 'no policy allows');
  t.ok(decideFor(everything).allowed);
  t.notOk(decideFor([everything, deny({ methods: texts('GET') })]).allowed);
  t.notOk(decideFor(allow({ methods: texts('POST') })).allowed, 'an ALLOW that does not match');
  t.notOk(decideFor(buildHttpPolicy('ALLOW', [], { rules: [] })).allowed, 'no rules allow nothing');
  const unknown = buildHttpPolicy('ALLOW', [], { unknown: 'field 99', key: 'shop/new' });
  t.match(decideFor([everything, unknown]), {
    allowed: false,
    code: 'MESH_POLICY_UNKNOWN',
    flag: 'CONFIG',
    policy: 'shop/new',
  });
  t.match(decideHttp(selectHttpPolicies([everything], undefined, false), buildFacts()), {
    allowed: false,
    code: 'MESH_CONFIG_UNAVAILABLE',
  });
  t.match(decideFor(everything, { source: 'spiffe://x' }), { code: 'MESH_IDENTITY_INVALID' });
  t.end();
});

void t.test('a refusal says which policy and which clause', (t) => {
  const denying = buildHttpPolicy(
    'DENY',
    [clause('from', {}), clause('to', { paths: texts('/admin*') })].slice(1),
    { key: 'shop/no-admin', explain: true },
  );
  t.match(decideFor(denying, { path: '/admin/x' }), {
    policy: 'shop/no-admin',
    reason: 'denied by AuthorizationPolicy shop/no-admin (rule 0: to)',
    explain: true,
    flag: 'DENY',
    code: 'MESH_POLICY_DENIED',
  });
  const allowing = buildHttpPolicy('ALLOW', [
    clause('from', { namespaces: texts('shop') }),
    clause('to', { methods: texts('GET') }),
    clause('request.headers[x-env]', {
      headers: [{ name: 'x-env', values: texts('test'), notValues: [] }],
    }),
  ]);
  t.match(decideFor(allowing), {
    policy: 'shop/p',
    reason:
      'no ALLOW policy matched; tried AuthorizationPolicy shop/p (rule 0 at "request.headers[x-env]")',
    explain: false,
  });
  const many = ['a', 'b', 'c', 'd', 'e'].map((name) => ({ ...allowing, key: `shop/${name}` }));
  t.match(decideFor(many), { policy: '', reason: /and 2 more$/ });
  t.end();
});

void t.test('fields', (t) => {
  const cases: readonly (readonly [string, Partial<HttpPolicyMatch>, RequestParts, boolean])[] = [
    ['method', { methods: texts('GET') }, {}, true],
    ['method by case', { methods: texts('get') }, {}, false],
    ['not method', { notMethods: texts('GET') }, {}, false],
    ['exact path', { paths: texts('/a') }, { path: '/a' }, true],
    ['exact path by case', { paths: texts('/a') }, { path: '/A' }, false],
    ['prefix is of text', { paths: texts('/a*') }, { path: '/ab/c' }, true],
    ['suffix', { paths: texts('*.jpg') }, { path: '/a/b.jpg' }, true],
    ['any path', { paths: texts('*') }, { path: '/' }, true],
    ['without its query', { paths: texts('/a') }, { path: '/a?b' }, true],
    ['escapes in the policy', { paths: texts('/a b(é)') }, { path: '/a%20b%28%C3%A9%29' }, true],
    ['not path', { notPaths: texts('/a*') }, { path: '/b' }, true],
    ['host', { hosts: texts('cart') }, { host: 'CART.' }, true],
    ['host by any case', { hosts: texts('*.Shop.Test') }, { host: 'a.shop.test' }, true],
    ['host with its port', { hosts: texts('cart:8080') }, { host: 'cart:8080' }, true],
    ['host without its port', { hosts: texts('cart') }, { host: 'cart:8080' }, true],
    ['host prefix', { hosts: texts('cart:*') }, { host: 'cart:8080' }, true],
    ['not host', { notHosts: texts('cart') }, { host: 'cart:8080' }, false],
    ['namespace', { namespaces: texts('shop') }, {}, true],
    ['principal', { principals: texts('cluster.local/ns/shop/sa/*') }, {}, true],
    ['port of the service', { destinationPorts: [80] }, {}, true],
    [
      'remote address',
      { remoteIps: [unwrap(parseCidr('192.0.2.0/24'))] },
      { remoteIp: '192.0.2.7' },
      true,
    ],
    [
      'not remote address',
      { notRemoteIps: [unwrap(parseCidr('192.0.2.0/24'))] },
      { remoteIp: '192.0.2.7' },
      false,
    ],
    [
      'source and not remote address',
      { sourceIps: [unwrap(parseCidr('192.0.2.0/24'))] },
      { remoteIp: '192.0.2.7' },
      false,
    ],
    [
      'header',
      { headers: [{ name: 'x', values: texts('1'), notValues: [] }] },
      { headers: [['x', '1']] },
      true,
    ],
    [
      'header presence',
      { headers: [{ name: 'x', values: texts('*'), notValues: [] }] },
      { headers: [['x', '1']] },
      true,
    ],
    ['header absent', { headers: [{ name: 'x', values: texts('*'), notValues: [] }] }, {}, false],
    [
      'not header, absent',
      { headers: [{ name: 'x', values: [], notValues: texts('1') }] },
      {},
      true,
    ],
    [
      'not header',
      { headers: [{ name: 'x', values: [], notValues: texts('1') }] },
      { headers: [['x', '1']] },
      false,
    ],
    ['no token', { requestPrincipals: texts('*') }, {}, false],
    ['not a token', { notRequestPrincipals: texts('*') }, {}, true],
  ];
  for (const [name, match, parts, wanted] of cases) {
    t.equal(decideFor(allow(match), parts).allowed, wanted, `ALLOW ${name}`);
    t.equal(!decideFor(deny(match), parts).allowed, wanted, `DENY ${name}`);
  }
  t.end();
});

void t.test('claims of a verified token', (t) => {
  const principal = {
    principal: 'https://issuer/alice',
    claims: {
      groups: ['dev', 'ops'],
      scope: 'read write',
      realm: { roles: ['admin'], level: 3 },
      constructor: 'x',
    },
  };
  const claim = (path: readonly string[], values: string[], notValues: string[] = []): boolean => {
    const claims = [{ path, values: texts(...values), notValues: texts(...notValues) }];
    return decideFor(allow({ claims }), { principal }).allowed;
  };
  t.ok(claim(['groups'], ['ops']));
  t.notOk(claim(['groups'], ['sales']));
  t.notOk(claim(['groups'], ['ops'], ['dev']), 'a "not" value of any entry');
  t.ok(claim(['scope'], ['write']));
  t.ok(claim(['realm', 'roles'], ['adm*']));
  t.ok(claim(['realm', 'level'], ['3']));
  t.notOk(claim(['realm'], ['*']), 'an object has no text');
  t.notOk(claim(['toString'], ['*']), 'prototypes have no claims (T90)');
  t.notOk(claim(['realm', '__proto__'], ['*']));
  t.ok(claim(['nothing'], [], ['x']));
  t.ok(decideFor(allow({ requestPrincipals: texts('https://issuer/*') }), { principal }).allowed);
  t.end();
});

void t.test('T88 each value on its own; whatever is denied in one reading is denied', (t) => {
  const rule = { headers: [{ name: 'x-role', values: texts('admin'), notValues: [] }] };
  const role = (...values: string[]): RequestParts => ({
    headers: values.map((value): HeaderField => ['x-role', value]),
  });
  for (const parts of [
    role('admin'),
    role('user', 'admin'),
    role('user,admin'),
    role('admin, user'),
  ]) {
    t.notOk(decideFor(deny(rule), parts).allowed, JSON.stringify(parts));
  }
  t.ok(decideFor(deny(rule), role('administrator')).allowed);
  t.ok(decideFor(allow(rule), role('admin')).allowed);
  t.notOk(decideFor(allow(rule), role('admin', 'user')).allowed);
  t.notOk(decideFor(allow(rule), role('admin,user')).allowed);
  const unless = { headers: [{ name: 'x-role', values: [], notValues: texts('user') }] };
  t.notOk(decideFor(deny(unless), role('user', 'admin')).allowed);
  t.ok(decideFor(deny(unless), role('user')).allowed);
  t.ok(decideFor(allow(unless), role('guest')).allowed);
  t.notOk(decideFor(allow(unless), role('guest', 'user')).allowed);
  t.end();
});

void t.test('T86 parameters and slashes do not lead around a DENY, nor into an ALLOW', (t) => {
  const no = deny({ paths: texts('/admin', '/secret/*') });
  for (const path of [
    '/admin',
    '/admin/',
    '/admin;x=1',
    '/admin;x/',
    '/;y/admin',
    '/admin%3Bx',
    '/secret;a/b',
    '//admin',
    '/./admin',
    '/x/../admin',
    '/%61dmin',
  ]) {
    t.notOk(decideFor(no, { path }).allowed, path);
  }
  t.ok(decideFor(no, { path: '/administrator' }).allowed);
  const only = allow({ paths: texts('/public') });
  for (const path of ['/public/', '/public;x', '/Public'])
    t.notOk(decideFor(only, { path }).allowed, path);
  const unless = deny({ notPaths: texts('/public/') });
  t.ok(decideFor(unless, { path: '/public/' }).allowed);
  t.notOk(decideFor(unless, { path: '/public/;x' }).allowed);
  t.end();
});

void t.test('AUDIT and dry run are reported and change nothing', (t) => {
  const audit = buildHttpPolicy('AUDIT', [], { key: 'shop/audit' });
  const tried = { ...deny({ methods: texts('GET') }), key: 'shop/try', dryRun: true };
  t.match(decideFor([audit, tried]), {
    allowed: true,
    audited: ['shop/audit'],
    dryRun: [{ policy: 'shop/try', action: 'DENY', matched: true, wouldDeny: true }],
  });
  const triedAllow = { ...allow({ methods: texts('POST') }), dryRun: true };
  t.match(decideFor(triedAllow), { allowed: true, dryRun: [{ matched: false, wouldDeny: true }] });
  t.end();
});

void t.test('the book: by service, by version, closed until complete', (t) => {
  const book = createHttpPolicyBook();
  const cart = serviceKey('shop', 'cart.shop.svc.cluster.local');
  const web = serviceKey('shop', 'web.shop.svc.cluster.local');
  const facts = buildFacts();
  t.equal(book.decide(cart, facts).code, 'MESH_CONFIG_UNAVAILABLE');
  book.apply([{ ...deny({ methods: texts('GET') }), services: [cart] }], [], true);
  t.notOk(book.decide(cart, facts).allowed);
  t.ok(book.decide(web, facts).allowed);
  t.ok(book.decide(undefined, facts).allowed, 'a pod that was addressed itself');
  book.apply([], ['shop/deny'], false);
  t.ok(book.decide(cart, facts).allowed);
  t.equal(book.size, 0);
  t.end();
});

void t.test('T88 property: nothing added to a request makes a DENY go away', (t) => {
  const value = fc.constantFrom('admin', 'user', 'a,b', '', 'admin;x', ' admin');
  const lines = fc.array(value, { minLength: 1, maxLength: 4 });
  const policy = deny({ headers: [{ name: 'x', values: texts('admin', 'us*'), notValues: [] }] });
  fc.assert(
    fc.property(lines, lines, (some, more) => {
      const headers = (list: readonly string[]): HeaderField[] => list.map((text) => ['x', text]);
      const before = decideFor(policy, { headers: headers(some) }).allowed;
      const after = decideFor(policy, { headers: headers([...some, ...more]) }).allowed;
      if (!before && after) throw new Error(`${some.join('|')} then ${more.join('|')}`);
    }),
    { numRuns: 2_000 },
  );
  t.pass('held for 2,000 lists');
  t.end();
});
