import t from 'tap';

import { parseCidr } from '../../src/core/address.ts';
import type { Policy } from '../../src/core/policy.ts';
import { decide, decisionError, type Decision } from '../../src/policy/decide.ts';
import type { ConnectionFacts } from '../../src/policy/match.ts';
import { selectPolicies } from '../../src/policy/policy-set.ts';
import {
  CART,
  cidr,
  exact,
  facts,
  match,
  policy,
  policySource,
  prefix,
  presence,
  rule,
  strictPolicy,
  suffix,
  WEB,
} from './build.ts';

const ANYONE = [{ clauses: [] }];

function ask(
  connection: ConnectionFacts,
  policies: readonly Policy[],
  authorizationPolicies: readonly string[] = [],
): Decision {
  const target = { namespace: 'shop', authorizationPolicies };
  return decide(connection, selectPolicies(policySource(policies), target));
}

void t.test('decide without policies allows anyone', async (t) => {
  t.match(ask(facts(WEB), []), { allowed: true, flag: '-', policy: '', audited: [], dryRun: [] });
  t.equal(ask(facts(undefined), []).allowed, true);
});

void t.test('decide denies everything before the first policy snapshot', async (t) => {
  const source = policySource([policy('shop/all', { rules: ANYONE })]);
  source.synced = false;
  const target = { namespace: 'shop', authorizationPolicies: [] };
  const decision = decide(facts(WEB), selectPolicies(source, target));
  t.match(decision, { allowed: false, code: 'MESH_CONFIG_UNAVAILABLE', flag: 'CONFIG' });
});

void t.test('decide follows the order of DENY, ALLOW and the default', async (t) => {
  const allowWeb = policy('shop/web', { rules: [rule({ principals: [exact(WEB.slice(9))] })] });
  const denyWeb = policy('shop/no-web', { action: 'DENY', rules: allowWeb.rules });
  const allowed = ask(facts(WEB), [allowWeb]);
  t.match(allowed, {
    allowed: true,
    policy: 'shop/web',
    reason: 'allowed by AuthorizationPolicy shop/web (rule 0)',
  });
  const other = ask(facts(CART), [allowWeb]);
  t.match(other, {
    allowed: false,
    policy: '',
    code: 'MESH_POLICY_DENIED',
    flag: 'DENY',
    reason: 'no ALLOW policy matched; tried AuthorizationPolicy shop/web',
  });
  t.match(ask(facts(WEB), [allowWeb, denyWeb]), {
    allowed: false,
    policy: 'shop/no-web',
    reason: 'denied by AuthorizationPolicy shop/no-web (rule 0)',
  });
  t.match(ask(facts(CART), [denyWeb]), { allowed: true, reason: 'no ALLOW policy applies' });
});

void t.test('decide names the rule that denied', async (t) => {
  const deny = policy('shop/two', {
    action: 'DENY',
    rules: [rule({ destinationPorts: [81] }), rule({ destinationPorts: [80] })],
  });
  t.equal(ask(facts(WEB), [deny]).reason, 'denied by AuthorizationPolicy shop/two (rule 1)');
});

void t.test('decide names at most five ALLOW policies that were tried', async (t) => {
  const policies = [1, 2, 3, 4, 5, 6, 7].map((index) => policy(`shop/p${index}`));
  t.match(ask(facts(WEB), policies).reason, /shop\/p5 and 2 more$/);
});

void t.test(
  'decide considers GLOBAL, the namespace, and what the workload lists; nothing else',
  async (t) => {
    const deny = { action: 'DENY', rules: ANYONE } as const;
    const cases: [Policy, string[], boolean][] = [
      [policy('/mesh', { ...deny, scope: 'GLOBAL' }), [], false],
      [policy('shop/ns', { ...deny }), [], false],
      [policy('other/ns', { ...deny }), [], true],
      [policy('other/ns', { ...deny }), ['other/ns'], false],
      [policy('shop/sel', { ...deny, scope: 'WORKLOAD_SELECTOR' }), [], true],
      [policy('shop/sel', { ...deny, scope: 'WORKLOAD_SELECTOR' }), ['shop/sel'], false],
    ];
    for (const [entry, listed, allowed] of cases) {
      t.equal(
        ask(facts(WEB), [entry], listed).allowed,
        allowed,
        `${entry.key} listed [${listed.join()}]`,
      );
    }
    t.equal(
      ask(facts(WEB), [cases[0]![0]]).reason,
      'denied by mesh-wide AuthorizationPolicy mesh (rule 0)',
    );
  },
);

void t.test('decide treats what is empty as Istio does', async (t) => {
  const deny = (rules: Policy['rules']): boolean =>
    !ask(facts(WEB), [policy('shop/p', { action: 'DENY', rules })]).allowed;
  t.equal(deny([]), false, 'no rules: nothing');
  t.equal(deny([{ clauses: [] }]), true, 'a rule without clauses: everything');
  t.equal(deny([{ clauses: [{ matches: [] }] }]), true, 'a clause without matches: true');
  t.equal(
    deny([{ clauses: [{ matches: [match({})] }] }]),
    false,
    'a match without fields: skipped',
  );
  t.equal(
    deny([{ clauses: [{ matches: [match({}), match({ destinationPorts: [80] })] }] }]),
    true,
    'skipped beside one that fits',
  );
  t.equal(
    deny([{ clauses: [{ matches: [] }, { matches: [match({ destinationPorts: [81] })] }] }]),
    false,
    'clauses are AND',
  );
});

void t.test('decide compares every field, wanted and unwanted', async (t) => {
  const fits = (fields: Parameters<typeof match>[0], who: string | undefined = WEB): boolean =>
    ask(facts(who), [policy('shop/p', { rules: [rule(fields)] })]).allowed;
  const sa = { namespace: 'shop', serviceAccount: 'web' };
  const cases: [Parameters<typeof match>[0], boolean][] = [
    [{ principals: [exact('cluster.local/ns/shop/sa/web')] }, true],
    [{ principals: [exact(WEB)] }, false],
    [{ principals: [prefix('cluster.local/ns/shop/')] }, true],
    [{ principals: [suffix('/sa/web')] }, true],
    [{ principals: [presence] }, true],
    [{ principals: [exact('x'), suffix('/web')] }, true],
    [{ principals: [presence], notPrincipals: [suffix('/sa/web')] }, false],
    [{ notPrincipals: [suffix('/sa/cart')] }, true],
    [{ namespaces: [exact('shop')] }, true],
    [{ namespaces: [exact('sho')] }, false],
    [{ namespaces: [prefix('sh')] }, true],
    [{ namespaces: [suffix('op')] }, true],
    [{ notNamespaces: [exact('shop')] }, false],
    [{ serviceAccounts: [sa] }, true],
    [{ serviceAccounts: [{ ...sa, namespace: 'bank' }] }, false],
    [{ notServiceAccounts: [sa] }, false],
    [{ sourceIps: [cidr('10.1.0.0/24')] }, true],
    [{ sourceIps: [cidr('10.1.1.0/24'), cidr('10.1.0.5')] }, true],
    [{ sourceIps: [cidr('0.0.0.0/0')] }, true],
    [{ sourceIps: [cidr('::/0')] }, false],
    [{ notSourceIps: [cidr('10.1.0.4/31')] }, false],
    [{ notSourceIps: [cidr('10.1.0.6/31')] }, true],
    [{ destinationIps: [cidr('10.1.0.9/32')] }, true],
    [{ destinationIps: [cidr('10.1.0.8/32')] }, false],
    [{ notDestinationIps: [cidr('10.1.0.9')] }, false],
    [{ destinationPorts: [443, 80] }, true],
    [{ destinationPorts: [443] }, false],
    [{ notDestinationPorts: [80] }, false],
    [{ notDestinationPorts: [443], namespaces: [exact('shop')] }, true],
    [{ notDestinationPorts: [443], namespaces: [exact('bank')] }, false],
  ];
  for (const [fields, expected] of cases) t.equal(fits(fields), expected, JSON.stringify(fields));
});

void t.test(
  'decide gives a source without identity no principal and the empty namespace',
  async (t) => {
    const fits = (fields: Parameters<typeof match>[0]): boolean =>
      ask(facts(undefined), [policy('shop/p', { rules: [rule(fields)] })]).allowed;
    t.equal(fits({ principals: [presence] }), false);
    t.equal(fits({ principals: [exact('')] }), false);
    t.equal(fits({ principals: [prefix('')] }), false);
    t.equal(fits({ principals: [suffix('')] }), false);
    t.equal(fits({ namespaces: [presence] }), false);
    t.equal(fits({ namespaces: [exact('shop')] }), false);
    t.equal(fits({ serviceAccounts: [{ namespace: '', serviceAccount: '' }] }), false);
    t.equal(fits({ notPrincipals: [exact('cluster.local/ns/shop/sa/web')] }), true);
    t.equal(fits({ notPrincipals: [presence] }), true);
    t.equal(fits({ notNamespaces: [exact('shop')] }), true);
    t.equal(fits({ principals: [presence], notPrincipals: [exact('x')] }), false);
  },
);

void t.test('decide applies STRICT as the DENY that the control plane sends', async (t) => {
  t.match(ask(facts(undefined), [strictPolicy()]), {
    allowed: false,
    reason: 'denied by mesh-wide AuthorizationPolicy istio_converted_static_strict (rule 0)',
  });
  t.equal(ask(facts(WEB), [strictPolicy()]).allowed, true);
  const exceptPort = policy('shop/converted_peer_authentication_p', {
    scope: 'WORKLOAD_SELECTOR',
    action: 'DENY',
    rules: [rule({ notPrincipals: [presence] }, { notDestinationPorts: [8080] })],
  });
  const listed = ['shop/converted_peer_authentication_p'];
  t.equal(ask(facts(undefined, '10.1.0.5', 8080), [exceptPort], listed).allowed, true);
  t.equal(ask(facts(undefined, '10.1.0.5', 80), [exceptPort], listed).allowed, false);
});

void t.test('decide denies a workload that names a policy nobody sent (T103)', async (t) => {
  const allowAll = policy('shop/all', { rules: ANYONE });
  const decision = ask(facts(WEB), [allowAll], ['shop/late']);
  t.match(decision, {
    allowed: false,
    policy: 'shop/late',
    code: 'MESH_POLICY_UNKNOWN',
    flag: 'CONFIG',
  });
  t.match(decision.reason, /shop\/late, which is not known here yet/);
});

void t.test(
  'decide denies the targets of a policy with unknown content, and only those (T104)',
  async (t) => {
    const odd = policy('shop/odd', { action: 'ALLOW', rules: ANYONE, unknown: 'extension "x.y"' });
    const decision = ask(facts(WEB), [odd]);
    t.match(decision, { allowed: false, policy: 'shop/odd', code: 'MESH_POLICY_UNKNOWN' });
    t.match(decision.reason, /not understood here: extension "x.y"/);
    t.equal(ask(facts(WEB), [{ ...odd, key: 'bank/odd', namespace: 'bank' }]).allowed, true);
    t.equal(ask(facts(WEB), [{ ...odd, action: 'AUDIT' }]).allowed, false);
    const dry = ask(facts(WEB), [{ ...odd, dryRun: true }]);
    t.equal(dry.allowed, true);
    t.same(dry.dryRun, [{ policy: 'shop/odd', action: 'ALLOW', matched: false, wouldDeny: true }]);
  },
);

void t.test(
  'decide treats an impossible address block as content it does not understand (T104)',
  async (t) => {
    const block = { ...cidr('10.0.0.0/8'), prefixLength: 40 };
    t.equal(parseCidr('10.0.0.0/40').ok, false);
    for (const field of ['sourceIps', 'notSourceIps', 'destinationIps', 'notDestinationIps']) {
      const entry = policy('shop/p', { rules: [rule({ [field]: [block] })] });
      t.equal(ask(facts(WEB), [entry]).code, 'MESH_POLICY_UNKNOWN', field);
    }
  },
);

void t.test('decide lists matching AUDIT policies and lets them change nothing', async (t) => {
  const audit = policy('shop/audit', {
    action: 'AUDIT',
    rules: [rule({ namespaces: [exact('shop')] })],
  });
  const deny = policy('shop/deny', { action: 'DENY', rules: ANYONE });
  t.match(ask(facts(WEB), [audit]), { allowed: true, audited: ['shop/audit'] });
  t.match(ask(facts(undefined), [audit]), { allowed: true, audited: [] });
  t.match(ask(facts(WEB), [audit, deny]), { allowed: false, audited: ['shop/audit'] });
});

void t.test('decide reports dry-run policies and enforces none', async (t) => {
  const deny = policy('shop/deny', { action: 'DENY', rules: ANYONE, dryRun: true });
  const allow = policy('shop/allow', {
    rules: [rule({ namespaces: [exact('bank')] })],
    dryRun: true,
  });
  const decision = ask(facts(WEB), [deny, allow]);
  t.equal(decision.allowed, true);
  t.same(decision.dryRun, [
    { policy: 'shop/allow', action: 'ALLOW', matched: false, wouldDeny: true },
    { policy: 'shop/deny', action: 'DENY', matched: true, wouldDeny: true },
  ]);
  const enforced = policy('shop/real', { rules: ANYONE });
  t.equal(ask(facts(WEB), [allow, enforced]).dryRun[0]?.wouldDeny, false);
});

void t.test(
  'decide takes identity from the certificate alone, not from the address (T34)',
  async (t) => {
    const allowWeb = policy('shop/web', { rules: [rule({ principals: [suffix('/sa/web')] })] });
    for (const ip of ['10.1.0.5', '10.1.0.9', '127.0.0.1', '169.254.7.127', 'fd00::5']) {
      t.equal(ask(facts(CART, ip), [allowWeb]).allowed, false, ip);
      t.equal(ask(facts(WEB, ip), [allowWeb]).allowed, true, ip);
    }
  },
);

void t.test(
  'decide gives one answer for IPv4, IPv4-mapped and IPv6 forms of one source (T25)',
  async (t) => {
    const deny = (text: string): Policy =>
      policy('shop/p', { action: 'DENY', rules: [rule({ sourceIps: [cidr(text)] })] });
    t.equal(ask(facts(WEB, '::ffff:10.1.0.5'), [deny('10.1.0.5')]).allowed, false);
    t.equal(ask(facts(WEB, 'FD00:0:0::0005'), [deny('fd00::/64')]).allowed, false);
    t.equal(ask(facts(WEB, 'fd00:0:0:1::5'), [deny('fd00::/64')]).allowed, true);
    t.equal(ask(facts(WEB, 'fd00::8000:0:0:5'), [deny('fd00::8000:0:0:0/65')]).allowed, false);
  },
);

void t.test('decide compares names as text, never as patterns (T94)', async (t) => {
  const values = ['cluster.local/ns/shop/sa/w.b', '.*', 'cluster.local/ns/*', '^', '$', '[a-z]+'];
  for (const value of values) {
    for (const kind of [exact, prefix, suffix]) {
      const entry = policy('shop/p', { rules: [rule({ principals: [kind(value)] })] });
      t.equal(ask(facts(WEB), [entry]).allowed, false, `${kind(value).kind} ${value}`);
    }
  }
});

void t.test('decide refuses an identity that the strict parser refuses', async (t) => {
  const decision = ask(facts('spiffe://cluster.local/ns/shop/sa/web/../db'), []);
  t.match(decision, { allowed: false, code: 'MESH_IDENTITY_INVALID', flag: 'DENY' });
});

void t.test('decisionError carries code, flag, policy and the reason as a sentence', async (t) => {
  const deny = policy('shop/db-only', { action: 'DENY', rules: ANYONE });
  t.match(decisionError(ask(facts(WEB), [deny])), {
    code: 'MESH_POLICY_DENIED',
    flag: 'DENY',
    message: 'Denied by AuthorizationPolicy shop/db-only (rule 0)',
    details: { policy: 'shop/db-only' },
  });
});
