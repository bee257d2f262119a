/** L7 policies and requests for tests: every field has a default. */

import { unwrap } from '../../src/base/result.ts';
import { parseAddress } from '../../src/core/address.ts';
import type { HttpPolicy, HttpPolicyClause, HttpPolicyMatch } from '../../src/core/http-policy.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { StringMatch } from '../../src/core/policy.ts';
import type { HeaderList } from '../../src/http/h2/contract.ts';
import { normaliseTarget } from '../../src/http/request-target.ts';
import { decideHttp, selectHttpPolicies, type HttpDecision } from '../../src/policy/decide-http.ts';
import type { HttpFacts, RequestPrincipal } from '../../src/policy/http-match.ts';
import { match } from './build.ts';

/** `*` any, `a*` prefix, `*a` suffix, else exact. */
export function texts(...values: readonly string[]): StringMatch[] {
  return values.map((value) => {
    if (value === '*') return { kind: 'presence' };
    if (value.endsWith('*')) return { kind: 'prefix', value: value.slice(0, -1) };
    if (value.startsWith('*')) return { kind: 'suffix', value: value.slice(1) };
    return { kind: 'exact', value };
  });
}

export function buildHttpMatch(change: Partial<HttpPolicyMatch> = {}): HttpPolicyMatch {
  return {
    ...match({}),
    methods: [],
    notMethods: [],
    paths: [],
    notPaths: [],
    hosts: [],
    notHosts: [],
    requestPrincipals: [],
    notRequestPrincipals: [],
    remoteIps: [],
    notRemoteIps: [],
    headers: [],
    claims: [],
    ...change,
  };
}

export function clause(
  label: string,
  ...matches: readonly Partial<HttpPolicyMatch>[]
): HttpPolicyClause {
  return { label, matches: matches.map(buildHttpMatch) };
}

export function buildHttpPolicy(
  action: HttpPolicy['action'],
  clauses: readonly HttpPolicyClause[],
  change: Partial<HttpPolicy> = {},
): HttpPolicy {
  return {
    key: 'shop/p',
    name: 'p',
    namespace: 'shop',
    action,
    rules: [{ clauses }],
    services: [],
    dryRun: false,
    explain: false,
    unknown: '',
    ...change,
  };
}

export interface RequestParts {
  readonly method?: string;
  readonly host?: string;
  readonly path?: string;
  readonly headers?: HeaderList;
  readonly source?: string;
  readonly principal?: RequestPrincipal;
  readonly remoteIp?: string;
}

export function buildFacts(parts: RequestParts = {}): HttpFacts {
  const { method = 'GET', host = 'cart', path = '/', headers = [] } = parts;
  const target = normaliseTarget({
    method,
    scheme: 'http',
    target: path,
    authority: host,
    hosts: [],
  });
  const ip = unwrap(parseAddress('10.0.1.2'));
  return {
    source: (parts.source ?? 'spiffe://cluster.local/ns/shop/sa/web') as SpiffeId,
    sourceIp: ip,
    destination: { ip: unwrap(parseAddress('10.96.0.1')), port: 80 },
    method,
    target: unwrap(target),
    headers,
    remoteIp: parts.remoteIp === undefined ? ip : unwrap(parseAddress(parts.remoteIp)),
    principal: parts.principal,
  };
}

export function decideFor(
  policies: HttpPolicy | readonly HttpPolicy[],
  parts: RequestParts = {},
): HttpDecision {
  const list = 'action' in policies ? [policies] : policies;
  return decideHttp(selectHttpPolicies(list, undefined, true), buildFacts(parts));
}
