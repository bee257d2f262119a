/**
 * AuthorizationPolicy → the L4 policy that node proxies evaluate, by Istio's rules: `from`, `to` and every
 * condition of `when` become one clause each (AND), their entries the matches of the clause (OR).
 *
 * What only L7 can evaluate makes a policy stricter, never weaker: an ALLOW rule with such a part is dropped
 * whole; DENY and AUDIT lose the part and so match more. A condition on the object says so.
 */

import { unwrap } from '../base/result.ts';
import { parseCidr, parsePort } from '../core/address.ts';
import type {
  Policy,
  PolicyClause,
  PolicyMatch,
  PolicyRule,
  ServiceAccountMatch,
  StringMatch,
} from '../core/policy.ts';
import {
  objectKey,
  ROOT_NAMESPACE,
  type AuthorizationPolicy,
  type AuthorizationRule,
  type ObjectCondition,
  type OperationMatch,
  type SourceMatch,
  type WhenCondition,
} from './objects.ts';

export const EMPTY_MATCH: PolicyMatch = {
  namespaces: [],
  notNamespaces: [],
  principals: [],
  notPrincipals: [],
  serviceAccounts: [],
  notServiceAccounts: [],
  sourceIps: [],
  notSourceIps: [],
  destinationIps: [],
  notDestinationIps: [],
  destinationPorts: [],
  notDestinationPorts: [],
};

export interface AuthorizationView {
  /** Undefined: nothing for node proxies; `http-policy-views.ts` has what is for waypoints. */
  readonly policy: Policy | undefined;
  readonly condition: ObjectCondition | undefined;
}

/** `*` any, `abc*` prefix, `*abc` suffix, else exact. */
export function parseStringMatch(text: string): StringMatch {
  if (text === '*') return { kind: 'presence' };
  if (text.endsWith('*')) return { kind: 'prefix', value: text.slice(0, -1) };
  if (text.startsWith('*')) return { kind: 'suffix', value: text.slice(1) };
  return { kind: 'exact', value: text };
}

/** Key of the policy on the wire: policies of the root namespace without a selector are global. */
export function authorizationKey(object: AuthorizationPolicy): string {
  const { name, namespace } = object.meta;
  return namespace === ROOT_NAMESPACE && object.selector === undefined
    ? `/${name}`
    : `${namespace}/${name}`;
}

export function isDryRun(object: AuthorizationPolicy, istioLabels: boolean): boolean {
  const { annotations } = object.meta;
  if (annotations.get('nodemesh.dev/dry-run') === 'true') return true;
  return istioLabels && annotations.get('istio.io/dry-run') === 'true';
}

export function authorizationView(
  object: AuthorizationPolicy,
  istioLabels: boolean,
): AuthorizationView {
  if (object.targetsWaypoint) return { policy: undefined, condition: undefined };
  const { name, namespace } = object.meta;
  const global = namespace === ROOT_NAMESPACE && object.selector === undefined;
  const l7 = new Set<string>();
  const rules: PolicyRule[] = [];
  for (const rule of object.rules) {
    const fields = l7Fields(rule);
    for (const field of fields) l7.add(field);
    if (object.action === 'ALLOW' && fields.length > 0) continue;
    rules.push({ clauses: clausesOf(rule, namespace) });
  }
  const policy: Policy = {
    key: authorizationKey(object),
    name,
    namespace: global ? '' : namespace,
    scope: global ? 'GLOBAL' : object.selector === undefined ? 'NAMESPACE' : 'WORKLOAD_SELECTOR',
    action: object.action,
    rules,
    dryRun: isDryRun(object, istioLabels),
    unknown: '',
  };
  return { policy, condition: l7.size === 0 ? undefined : l7Condition(object, l7) };
}

function condition(object: AuthorizationPolicy, reason: string, message: string): ObjectCondition {
  return { key: objectKey(object), reason, message };
}

function l7Condition(object: AuthorizationPolicy, fields: ReadonlySet<string>): ObjectCondition {
  const names = [...fields].map((name) => JSON.stringify(name.slice(0, 64))).join(', ');
  const effect =
    object.action === 'ALLOW'
      ? 'the rules that use them are dropped, so less is allowed'
      : `they are left out, so ${object.action} matches more`;
  const message = `Node proxies cannot evaluate ${names} of HTTP requests: ${effect}; a waypoint can`;
  return condition(object, 'L7Ignored', message);
}

function l7Fields(rule: AuthorizationRule): string[] {
  return [
    ...rule.from.flatMap((source) => source.l7Fields),
    ...rule.to.flatMap((operation) => operation.l7Fields),
    ...rule.when.flatMap((when) => ('l7Key' in when ? [when.l7Key] : [])),
  ];
}

function clausesOf(rule: AuthorizationRule, namespace: string): PolicyClause[] {
  const clauses: PolicyClause[] = [];
  const add = (matches: readonly PolicyMatch[]): void => {
    // An entry of which nothing is left (only L7 fields) is true for everybody, and with it the clause.
    // As a match it would be skipped, which is false: in a DENY that would be the weaker reading.
    if (matches.length > 0 && !matches.some(isEmptyMatch)) clauses.push({ matches });
  };
  add(rule.from.map((source) => sourceMatch(source, namespace)));
  add(rule.to.map(operationMatch));
  for (const when of rule.when) if (!('l7Key' in when)) add([whenMatch(when)]);
  return clauses;
}

function isEmptyMatch(match: PolicyMatch): boolean {
  return Object.values(match).every((list: readonly unknown[]) => list.length === 0);
}

export function sourceMatch(source: SourceMatch, namespace: string): PolicyMatch {
  const account = (text: string): ServiceAccountMatch => {
    const [first = '', second] = text.split('/');
    return second === undefined
      ? { namespace, serviceAccount: first }
      : { namespace: first, serviceAccount: second };
  };
  return {
    ...EMPTY_MATCH,
    principals: source.principals.map(parseStringMatch),
    notPrincipals: source.notPrincipals.map(parseStringMatch),
    namespaces: source.namespaces.map(parseStringMatch),
    notNamespaces: source.notNamespaces.map(parseStringMatch),
    serviceAccounts: source.serviceAccounts.map(account),
    notServiceAccounts: source.notServiceAccounts.map(account),
    sourceIps: source.ipBlocks,
    notSourceIps: source.notIpBlocks,
  };
}

export function operationMatch(operation: OperationMatch): PolicyMatch {
  return {
    ...EMPTY_MATCH,
    destinationPorts: operation.ports,
    notDestinationPorts: operation.notPorts,
  };
}

type L4Condition = Exclude<WhenCondition, { readonly l7Key: string }>;

/** The values were checked when the object was read, so reading them again cannot fail. */
export function whenMatch({ key, values, notValues }: L4Condition): PolicyMatch {
  const cidrs = (texts: readonly string[]): PolicyMatch['sourceIps'] =>
    texts.map((text) => unwrap(parseCidr(text)));
  const ports = (texts: readonly string[]): number[] =>
    texts.map((text) => unwrap(parsePort(text)));
  const words = (texts: readonly string[]): StringMatch[] => texts.map(parseStringMatch);
  switch (key) {
    case 'source.ip':
      return { ...EMPTY_MATCH, sourceIps: cidrs(values), notSourceIps: cidrs(notValues) };
    case 'source.namespace':
      return { ...EMPTY_MATCH, namespaces: words(values), notNamespaces: words(notValues) };
    case 'source.principal':
      return { ...EMPTY_MATCH, principals: words(values), notPrincipals: words(notValues) };
    case 'destination.ip':
      return { ...EMPTY_MATCH, destinationIps: cidrs(values), notDestinationIps: cidrs(notValues) };
    case 'destination.port':
      return {
        ...EMPTY_MATCH,
        destinationPorts: ports(values),
        notDestinationPorts: ports(notValues),
      };
  }
}
