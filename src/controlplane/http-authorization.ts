/**
 * AuthorizationPolicy → the L7 policy that waypoints evaluate, by Istio's rules: `from`, `to` and every condition of
 * `when` become one clause each (AND), their entries the matches of the clause (OR).
 */

import { unwrap } from '../base/result.ts';
import { parseCidr } from '../core/address.ts';
import type { HttpPolicy, HttpPolicyClause, HttpPolicyMatch } from '../core/http-policy.ts';
import type { PolicyMatch } from '../core/policy.ts';
import type { ServiceKey } from '../core/workload.ts';
import {
  EMPTY_MATCH,
  isDryRun,
  operationMatch,
  parseStringMatch,
  sourceMatch,
  whenMatch,
} from './authorization.ts';
import type { AuthorizationPolicy, AuthorizationRule, WhenCondition } from './objects.ts';

const EMPTY_HTTP: Omit<HttpPolicyMatch, keyof PolicyMatch> = {
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
};

const EXPLAIN_ANNOTATION = 'nodemesh.dev/explain-refusals';

/** What a key of `when` means at L7. */
export type HttpCondition =
  | { readonly kind: 'header'; readonly name: string }
  | { readonly kind: 'claim'; readonly path: readonly string[] }
  | { readonly kind: 'principal' }
  | { readonly kind: 'remote-ip' };

/** Undefined: not a condition of ours. */
export function parseHttpCondition(key: string): HttpCondition | undefined {
  const header = /^request\.headers\[([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256})\]$/.exec(key)?.[1];
  if (header !== undefined) return { kind: 'header', name: header.toLowerCase() };
  const claims = /^request\.auth\.claims((?:\[[^\][]{1,256}\]){1,16})$/.exec(key)?.[1];
  if (claims !== undefined) return { kind: 'claim', path: claims.slice(1, -1).split('][') };
  switch (key) {
    case 'request.auth.principal':
      return { kind: 'principal' };
    case 'request.auth.audiences':
      return { kind: 'claim', path: ['aud'] };
    case 'request.auth.presenter':
      return { kind: 'claim', path: ['azp'] };
    case 'remote.ip':
      return { kind: 'remote-ip' };
    default:
      return undefined;
  }
}

/** `services`: of the waypoint that it is for; empty: all of them. */
export function httpPolicyView(
  object: AuthorizationPolicy,
  services: readonly ServiceKey[],
  istioLabels: boolean,
): HttpPolicy {
  const { name, namespace, annotations } = object.meta;
  return {
    key: `${namespace}/${name}`,
    name,
    namespace,
    action: object.action,
    rules: object.rules.map((rule) => ({ clauses: clausesOf(rule, namespace) })),
    services,
    dryRun: isDryRun(object, istioLabels),
    explain: annotations.get(EXPLAIN_ANNOTATION) === 'true',
    unknown: '',
  };
}

function clausesOf(rule: AuthorizationRule, namespace: string): HttpPolicyClause[] {
  const clauses: HttpPolicyClause[] = [];
  if (rule.from.length > 0) {
    const matches = rule.from.map((source) => ({
      ...sourceMatch(source, namespace),
      ...EMPTY_HTTP,
      requestPrincipals: source.requestPrincipals.map(parseStringMatch),
      notRequestPrincipals: source.notRequestPrincipals.map(parseStringMatch),
      remoteIps: source.remoteIpBlocks,
      notRemoteIps: source.notRemoteIpBlocks,
    }));
    clauses.push({ label: 'from', matches });
  }
  if (rule.to.length > 0) {
    const matches = rule.to.map((operation) => ({
      ...operationMatch(operation),
      ...EMPTY_HTTP,
      methods: operation.methods.map(parseStringMatch),
      notMethods: operation.notMethods.map(parseStringMatch),
      paths: operation.paths.map(parseStringMatch),
      notPaths: operation.notPaths.map(parseStringMatch),
      hosts: operation.hosts.map(parseStringMatch),
      notHosts: operation.notHosts.map(parseStringMatch),
    }));
    clauses.push({ label: 'to', matches });
  }
  for (const when of rule.when) clauses.push(conditionClause(when));
  return clauses;
}

/** The values were checked when the object was read. */
function conditionClause(when: WhenCondition): HttpPolicyClause {
  if (!('l7Key' in when)) {
    return { label: when.key, matches: [{ ...whenMatch(when), ...EMPTY_HTTP }] };
  }
  const label = when.l7Key;
  const texts = when.values.map(parseStringMatch);
  const notTexts = when.notValues.map(parseStringMatch);
  const condition = parseHttpCondition(label);
  const match = (fields: Partial<HttpPolicyMatch>): HttpPolicyClause => {
    return { label, matches: [{ ...EMPTY_MATCH, ...EMPTY_HTTP, ...fields }] };
  };
  const blocks = (values: readonly string[]) => values.map((text) => unwrap(parseCidr(text)));
  switch (condition?.kind) {
    case 'header':
      return match({ headers: [{ name: condition.name, values: texts, notValues: notTexts }] });
    case 'claim':
      return match({ claims: [{ path: condition.path, values: texts, notValues: notTexts }] });
    case 'principal':
      return match({ requestPrincipals: texts, notRequestPrincipals: notTexts });
    case 'remote-ip':
      return match({ remoteIps: blocks(when.values), notRemoteIps: blocks(when.notValues) });
    case undefined:
      // Refused where the object is read; a match without a field is false for everybody.
      return match({});
  }
}
