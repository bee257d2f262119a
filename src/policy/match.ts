/**
 * One policy, compiled: which of its rules does a connection match. The order of AND and OR, and what an
 * empty list means on each level, are Istio's to the letter (`core/policy.ts`):
 *
 * - no rules: matches nothing; a rule without clauses: everything; a clause without matches: true;
 *   a match with no field set: skipped, so a clause of only such matches is false;
 * - a source without identity has no principal at all (no principal value fits, not even an empty prefix)
 *   and the empty namespace; `not` values do not hit it;
 * - strings are compared as strings; nothing from a policy ever becomes a pattern (T94).
 */

import type { IpAddress, SocketAddress } from '../core/address.ts';
import { parseIdentity, type Identity, type SpiffeId } from '../core/identity.ts';
import type {
  Policy,
  PolicyClause,
  PolicyMatch,
  ServiceAccountMatch,
  StringMatch,
} from '../core/policy.ts';
import {
  addressWords,
  compileMask,
  maskContains,
  type AddressMask,
  type AddressWords,
} from './address-mask.ts';

/** What a decision is made from. How the connection came (tunnel, same node) is no part of it (T24). */
export interface ConnectionFacts {
  /** From the peer's certificate, never from an address (T34). Undefined: plain text, nobody. */
  readonly source: SpiffeId | undefined;
  readonly sourceIp: IpAddress;
  /** The pod's own address and the target port, never the service's. */
  readonly destination: SocketAddress;
}

/** The facts, parsed once per decision. */
export interface Subject {
  readonly identity: Identity | undefined;
  /** The identity without `spiffe://`; undefined for nobody. */
  readonly principal: string | undefined;
  readonly namespace: string;
  readonly sourceIp: AddressWords;
  readonly destinationIp: AddressWords;
  readonly destinationPort: number;
}

/** Undefined when the source has an identity that the strict parser refuses: nobody may act on that. */
export function subjectOf(facts: ConnectionFacts): Subject | undefined {
  const identity = facts.source === undefined ? undefined : parseIdentity(facts.source);
  if (identity !== undefined && !identity.ok) return undefined;
  return {
    identity: identity?.value,
    principal: facts.source?.slice('spiffe://'.length),
    namespace: identity?.value.namespace ?? '',
    sourceIp: addressWords(facts.sourceIp),
    destinationIp: addressWords(facts.destination.ip),
    destinationPort: facts.destination.port,
  };
}

export type Test = (subject: Subject) => boolean;

export interface CompiledPolicy {
  readonly policy: Policy;
  /** Why the policy cannot be applied as it stands; empty when it can (T104). */
  readonly unknown: string;
  /** Index of the first rule that matches, -1 for none. */
  matchingRule(subject: Subject): number;
}

export function compilePolicy(policy: Policy): CompiledPolicy {
  const problems: string[] = policy.unknown === '' ? [] : [policy.unknown];
  const rules = policy.rules.map((rule) =>
    rule.clauses.map((clause) => compileClause(clause, problems)),
  );
  return {
    policy,
    unknown: problems[0] ?? '',
    matchingRule: (subject) =>
      rules.findIndex((clauses) => clauses.every((clause) => clause(subject))),
  };
}

function compileClause(clause: PolicyClause, problems: string[]): Test {
  if (clause.matches.length === 0) return () => true;
  const matches = clause.matches
    .map((match) => compileMatch(match, problems))
    .filter((tests) => tests.length > 0);
  return (subject) => matches.some((tests) => tests.every((test) => test(subject)));
}

/** The tests that must all pass; none when no field is set. What is wrong is added to `problems`. */
export function compileMatch(match: PolicyMatch, problems: string[]): Test[] {
  const tests: Test[] = [];
  const add = <V>(wanted: readonly V[], unwanted: readonly V[], hits: Hits<V>): void => {
    if (wanted.length > 0) tests.push((subject) => wanted.some((value) => hits(value, subject)));
    if (unwanted.length > 0) {
      tests.push((subject) => !unwanted.some((value) => hits(value, subject)));
    }
  };
  const masks = (cidrs: PolicyMatch['sourceIps']): AddressMask[] =>
    cidrs.flatMap((cidr) => {
      const mask = compileMask(cidr);
      if (mask !== undefined) return [mask];
      problems.push(`address block "${cidr.ip}/${cidr.prefixLength}"`);
      return [];
    });
  add(match.destinationPorts, match.notDestinationPorts, hitsPort);
  add(match.principals, match.notPrincipals, hitsPrincipal);
  add(match.namespaces, match.notNamespaces, hitsNamespace);
  add(match.serviceAccounts, match.notServiceAccounts, hitsServiceAccount);
  add(masks(match.sourceIps), masks(match.notSourceIps), hitsSource);
  add(masks(match.destinationIps), masks(match.notDestinationIps), hitsDestination);
  return tests;
}

type Hits<V> = (value: V, subject: Subject) => boolean;

const hitsPort: Hits<number> = (port, subject) => port === subject.destinationPort;
const hitsPrincipal: Hits<StringMatch> = (match, subject) =>
  subject.principal !== undefined && matchesText(match, subject.principal);
const hitsNamespace: Hits<StringMatch> = (match, subject) => matchesText(match, subject.namespace);
const hitsServiceAccount: Hits<ServiceAccountMatch> = (match, subject) =>
  subject.identity !== undefined &&
  match.namespace === subject.identity.namespace &&
  match.serviceAccount === subject.identity.serviceAccount;
const hitsSource: Hits<AddressMask> = (mask, subject) => maskContains(mask, subject.sourceIp);
const hitsDestination: Hits<AddressMask> = (mask, subject) =>
  maskContains(mask, subject.destinationIp);

export function matchesText(match: StringMatch, text: string): boolean {
  switch (match.kind) {
    case 'exact':
      return text === match.value;
    case 'prefix':
      return text.startsWith(match.value);
    case 'suffix':
      return text.endsWith(match.value);
    case 'presence':
      return text !== '';
  }
}
