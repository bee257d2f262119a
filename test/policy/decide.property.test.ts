import fc from 'fast-check';
import t from 'tap';

import { cidrContains, type Cidr } from '../../src/core/address.ts';
import type { Policy, PolicyMatch, StringMatch } from '../../src/core/policy.ts';
import { createAuthorizer } from '../../src/policy/authorizer.ts';
import { decide } from '../../src/policy/decide.ts';
import type { ConnectionFacts } from '../../src/policy/match.ts';
import { selectPolicies, type PolicyTarget } from '../../src/policy/policy-set.ts';
import { cidr, facts, match, policy, policySource } from './build.ts';

// Small vocabularies, so that policies and connections meet often.
const identities = ['web', 'cart', 'db'].flatMap((account) =>
  ['shop', 'bank'].map((namespace) => `spiffe://cluster.local/ns/${namespace}/sa/${account}`),
);
const texts = ['', 'shop', 'bank', 'cluster.local/ns/shop/sa/web', 'cluster.local/', '/sa/db'];
const text: fc.Arbitrary<StringMatch> = fc.oneof(
  fc.record({
    kind: fc.constantFrom('exact' as const, 'prefix' as const, 'suffix' as const),
    value: fc.constantFrom(...texts),
  }),
  fc.constant({ kind: 'presence' as const }),
);
const block: fc.Arbitrary<Cidr> = fc
  .constantFrom('10.1.0.5', '10.1.0.0/24', '10.2.0.0/16', '0.0.0.0/0', 'fd00::/8', '10.1.0.9')
  .map((value) => cidr(value));
const port = fc.constantFrom(80, 443, 8080);
const account = fc.record({
  namespace: fc.constantFrom('shop', 'bank'),
  serviceAccount: fc.constantFrom('web', 'cart', 'db'),
});
const list = <T>(values: fc.Arbitrary<T>): fc.Arbitrary<T[]> =>
  fc.oneof(
    { weight: 3, arbitrary: fc.constant<T[]>([]) },
    { weight: 1, arbitrary: fc.array(values, { minLength: 1, maxLength: 2 }) },
  );
const matches: fc.Arbitrary<PolicyMatch> = fc
  .record({
    namespaces: list(text),
    notNamespaces: list(text),
    principals: list(text),
    notPrincipals: list(text),
    serviceAccounts: list(account),
    notServiceAccounts: list(account),
    sourceIps: list(block),
    notSourceIps: list(block),
    destinationIps: list(block),
    notDestinationIps: list(block),
    destinationPorts: list(port),
    notDestinationPorts: list(port),
  })
  .map((fields) => match(fields));
const some = <T>(values: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(values, { maxLength: 2 });
const rules = some(fc.record({ clauses: some(fc.record({ matches: some(matches) })) }));
const anyPolicy: fc.Arbitrary<Policy> = fc
  .record({
    key: fc.constantFrom('shop/a', 'shop/b', 'bank/a', 'bank/b', 'other/a', '/m', '/n'),
    action: fc.constantFrom('ALLOW' as const, 'DENY' as const, 'AUDIT' as const),
    selector: fc.boolean(),
    dryRun: fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, fc.constant(true)),
    unknown: fc.oneof({ weight: 8, arbitrary: fc.constant('') }, fc.constant('extension "x"')),
    rules,
  })
  .map(({ key, selector, ...fields }) => {
    const scope = key.startsWith('/') ? 'GLOBAL' : selector ? 'WORKLOAD_SELECTOR' : 'NAMESPACE';
    return policy(key, { ...fields, scope });
  });
const policies = fc.uniqueArray(anyPolicy, { maxLength: 6, selector: (entry) => entry.key });
const target: fc.Arbitrary<PolicyTarget> = fc.record({
  namespace: fc.constantFrom('shop', 'bank'),
  authorizationPolicies: fc.uniqueArray(fc.constantFrom('shop/a', 'shop/b', 'bank/a', 'other/a'), {
    maxLength: 2,
  }),
});
const connection: fc.Arbitrary<ConnectionFacts> = fc
  .tuple(
    fc.option(fc.constantFrom(...identities), { nil: undefined }),
    fc.constantFrom('10.1.0.5', '10.2.3.4', '192.168.0.1', 'fd00::5'),
    port,
  )
  .map(([who, ip, number]) => facts(who, ip, number));

/** The second evaluator: no compiling, no sorting, no sharing with the first beyond the plain types. */
function slowDecision(conn: ConnectionFacts, all: readonly Policy[], to: PolicyTarget): boolean {
  const who = conn.source === undefined ? undefined : conn.source.replace('spiffe://', '');
  const parts = who === undefined ? [] : who.split('/');
  const namespace = parts[2] ?? '';
  const fits = (value: StringMatch, given: string): boolean => {
    if (value.kind === 'presence') return given.length > 0;
    if (value.kind === 'exact') return given === value.value;
    if (value.kind === 'prefix') return given.slice(0, value.value.length) === value.value;
    return value.value === '' || given.slice(-value.value.length) === value.value;
  };
  const field = <V>(yes: readonly V[], no: readonly V[], hit: (value: V) => boolean): boolean => {
    let good = yes.length === 0;
    for (const value of yes) if (hit(value)) good = true;
    for (const value of no) if (hit(value)) good = false;
    return good;
  };
  const matchFits = (m: PolicyMatch): boolean => {
    if (Object.values(m).every((values) => (values as unknown[]).length === 0)) return false;
    return (
      field(m.namespaces, m.notNamespaces, (v) => fits(v, namespace)) &&
      field(m.principals, m.notPrincipals, (v) => who !== undefined && fits(v, who)) &&
      field(
        m.serviceAccounts,
        m.notServiceAccounts,
        (v) => who !== undefined && v.namespace === parts[2] && v.serviceAccount === parts[4],
      ) &&
      field(m.sourceIps, m.notSourceIps, (v) => cidrContains(v, conn.sourceIp)) &&
      field(m.destinationIps, m.notDestinationIps, (v) => cidrContains(v, conn.destination.ip)) &&
      field(m.destinationPorts, m.notDestinationPorts, (v) => v === conn.destination.port)
    );
  };
  const applies = (p: Policy): boolean => {
    if (p.scope === 'GLOBAL') return true;
    if (to.authorizationPolicies.includes(p.key)) return true;
    return p.scope === 'NAMESPACE' && p.namespace === to.namespace;
  };
  const hits = (p: Policy): boolean =>
    p.rules.some((r) =>
      r.clauses.every((c) => c.matches.length === 0 || c.matches.some((m) => matchFits(m))),
    );
  for (const key of to.authorizationPolicies) {
    if (!all.some((p) => p.key === key)) return false;
  }
  const enforced = all.filter((p) => applies(p) && !p.dryRun);
  if (enforced.some((p) => p.unknown !== '')) return false;
  if (enforced.some((p) => p.action === 'DENY' && hits(p))) return false;
  const allow = enforced.filter((p) => p.action === 'ALLOW');
  return allow.length === 0 || allow.some((p) => hits(p));
}

const verdict = (conn: ConnectionFacts, all: readonly Policy[], to: PolicyTarget) =>
  decide(conn, selectPolicies(policySource(all), to));

void t.test('decide agrees with a slow and obvious evaluator', async () => {
  let allowed = 0;
  fc.assert(
    fc.property(connection, policies, target, (conn, all, to) => {
      const fast = verdict(conn, all, to).allowed;
      if (fast) allowed++;
      return fast === slowDecision(conn, all, to);
    }),
    { numRuns: 2000 },
  );
  if (allowed < 200)
    throw new Error(`only ${allowed} of 2000 cases were allowed: a dull generator`);
});

void t.test('decide never depends on the order in which policies arrived', async () => {
  fc.assert(
    fc.property(connection, policies, target, (conn, all, to) => {
      const one = JSON.stringify(verdict(conn, all, to));
      const reversed = { ...to, authorizationPolicies: to.authorizationPolicies.toReversed() };
      return one === JSON.stringify(verdict(conn, all.toReversed(), reversed));
    }),
    { numRuns: 500 },
  );
});

void t.test(
  'decide: adding a DENY, AUDIT or dry-run policy never allows what was denied',
  async () => {
    fc.assert(
      fc.property(connection, policies, anyPolicy, target, (conn, all, extra, to) => {
        const added = { ...extra, key: `${extra.namespace}/added`, name: 'added' };
        if (added.action === 'ALLOW' && !added.dryRun) return true;
        const before = verdict(conn, all, to).allowed;
        return before || !verdict(conn, [...all, added], to).allowed;
      }),
      { numRuns: 1000 },
    );
  },
);

void t.test('decide: AUDIT and dry-run policies change nothing but the report', async () => {
  fc.assert(
    fc.property(connection, policies, target, (conn, all, to) => {
      const silent = all.filter((p) => !p.dryRun && (p.action !== 'AUDIT' || p.unknown !== ''));
      const keys = silent.map((p) => p.key);
      const missing = to.authorizationPolicies.filter((key) => !all.some((p) => p.key === key));
      const kept = to.authorizationPolicies.filter((key) => keys.includes(key));
      const slim = { ...to, authorizationPolicies: [...kept, ...missing] };
      const { audited: _a, dryRun: _d, ...one } = verdict(conn, all, to);
      const { audited: _b, dryRun: _e, ...two } = verdict(conn, silent, slim);
      return JSON.stringify(one) === JSON.stringify(two);
    }),
    { numRuns: 1000 },
  );
});

void t.test(
  'decide: what names an unknown policy is denied whatever else holds (T103)',
  async () => {
    fc.assert(
      fc.property(connection, policies, target, (conn, all, to) => {
        const named = { ...to, authorizationPolicies: [...to.authorizationPolicies, 'shop/late'] };
        return !verdict(conn, all, named).allowed;
      }),
    );
  },
);

void t.test(
  'createAuthorizer with its memory answers as decide does, local or remote (T23, T24)',
  async () => {
    fc.assert(
      fc.property(
        policies,
        policies,
        fc.array(connection, { maxLength: 5 }),
        target,
        (a, b, conns, to) => {
          const source = policySource(a);
          const authorizer = createAuthorizer(source);
          const same = (all: readonly Policy[]): boolean =>
            conns.every(
              (conn) =>
                JSON.stringify(authorizer.decide(conn, to)) ===
                JSON.stringify(verdict(conn, all, to)),
            );
          if (!same(a) || !same(a)) return false;
          for (const entry of a) source.remove(entry.key);
          for (const entry of b) source.put(entry);
          return same(b);
        },
      ),
      { numRuns: 300 },
    );
  },
);
