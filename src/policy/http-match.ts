/**
 * One L7 policy, compiled: which of its rules does a request match, and where did the others fail. L4 fields are
 * `match.ts`'s. What a request says more than once, or what can be read in two ways, is read against the client (T88):
 *
 * - DENY and AUDIT match if any reading does: each field line of a header, each item of it, all lines together; the
 *   path with and without `;parameters`, and without a slash at its end.
 * - ALLOW matches only if every field line of the header does, and the path as it stands.
 * - `not` values hold when no (ALLOW) or not every (DENY, AUDIT) reading hits. A header that is absent hits nothing.
 * - Hosts are compared with and without port and without case; paths and methods with case.
 */

import type { IpAddress } from '../core/address.ts';
import type { ClaimMatch, HeaderMatch, HttpPolicy, HttpPolicyMatch } from '../core/http-policy.ts';
import type { StringMatch } from '../core/policy.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import { comparablePath } from '../http/request-path.ts';
import type { RequestTarget } from '../http/request-target.ts';
import { addressWords, compileMask, maskContains, type AddressWords } from './address-mask.ts';
import {
  compileMatch,
  matchesText,
  subjectOf,
  type ConnectionFacts,
  type Subject,
} from './match.ts';

/** A verified token. */
export interface RequestPrincipal {
  /** `iss/sub`. */
  readonly principal: string;
  readonly claims: Readonly<Record<string, unknown>>;
}

/** What a decision is made from; `destination` is the service's address and port. */
export interface HttpFacts extends ConnectionFacts {
  readonly method: string;
  readonly target: Pick<RequestTarget, 'host' | 'authority' | 'compared' | 'plain'>;
  /** Lower-case names. */
  readonly headers: HeaderList;
  /** The client as trusted hops say; the source itself without such. */
  readonly remoteIp: IpAddress;
  readonly principal: RequestPrincipal | undefined;
}

export interface HttpSubject extends Subject {
  readonly facts: HttpFacts;
  readonly remoteIpWords: AddressWords;
}

/** Undefined when the source's identity is malformed. `known`: what `subjectOf` made of the same connection. */
export function httpSubjectOf(
  facts: HttpFacts,
  known: Subject | undefined = subjectOf(facts),
): HttpSubject | undefined {
  if (known === undefined) return undefined;
  const { identity, principal, namespace, sourceIp, destinationIp, destinationPort } = known;
  const remoteIpWords = facts.remoteIp === facts.sourceIp ? sourceIp : addressWords(facts.remoteIp);
  return {
    identity,
    principal,
    namespace,
    sourceIp,
    destinationIp,
    destinationPort,
    facts,
    remoteIpWords,
  };
}

export interface CompiledHttpPolicy {
  readonly policy: HttpPolicy;
  /** Why it cannot be applied as it stands; empty when it can. */
  readonly unknown: string;
  /** Index of the first rule that matches, -1 for none. */
  matchingRule(subject: HttpSubject): number;
  /** Labels of the rule's clauses, for reasons. */
  describeRule(rule: number): string;
  /** `rule 0 at "to"`: where the rule that came farthest failed; empty without rules. */
  describeMiss(subject: HttpSubject): string;
}

type HttpTest = (subject: HttpSubject) => boolean;

interface CompiledClause {
  readonly label: string;
  readonly test: HttpTest;
}

export function compileHttpPolicy(policy: HttpPolicy): CompiledHttpPolicy {
  const problems: string[] = policy.unknown === '' ? [] : [policy.unknown];
  const strict = policy.action === 'ALLOW';
  const rules = policy.rules.map(({ clauses }) =>
    clauses.map(({ label, matches }): CompiledClause => {
      return { label, test: compileClause(matches, strict, problems) };
    }),
  );
  return {
    policy,
    unknown: problems[0] ?? '',
    matchingRule: (subject) =>
      rules.findIndex((clauses) => clauses.every(({ test }) => test(subject))),
    describeRule: (rule) => (rules[rule] ?? []).map(({ label }) => label).join(', ') || 'any',
    describeMiss(subject) {
      let [best, passed] = [-1, -1];
      for (const [index, clauses] of rules.entries()) {
        const count = clauses.findIndex(({ test }) => !test(subject));
        if (count > passed) [best, passed] = [index, count];
      }
      const label = rules[best]?.[passed]?.label;
      return label === undefined ? '' : `rule ${best} at "${label}"`;
    },
  };
}

function compileClause(
  matches: readonly HttpPolicyMatch[],
  strict: boolean,
  problems: string[],
): HttpTest {
  if (matches.length === 0) return () => true;
  const compiled = matches
    .map((match) => compileHttpMatch(match, strict, problems))
    .filter((tests) => tests.length > 0);
  return (subject) => compiled.some((tests) => tests.every((test) => test(subject)));
}

function compileHttpMatch(match: HttpPolicyMatch, strict: boolean, problems: string[]): HttpTest[] {
  const tests: HttpTest[] = [...compileMatch(match, problems)];
  /** `readings`: what the request can be read as. */
  const add = (
    wanted: readonly StringMatch[],
    unwanted: readonly StringMatch[],
    readings: (subject: HttpSubject) => readonly string[],
  ): void => {
    if (wanted.length > 0)
      tests.push((subject) => readings(subject).some((text) => hitsAny(wanted, text)));
    if (unwanted.length > 0) {
      tests.push((subject) => {
        const texts = readings(subject);
        if (texts.length === 0) return true;
        return strict
          ? !texts.some((text) => hitsAny(unwanted, text))
          : !texts.every((text) => hitsAny(unwanted, text));
      });
    }
  };
  add(match.methods, match.notMethods, ({ facts }) => [facts.method]);
  const paths = match.paths.map(comparable);
  const notPaths = match.notPaths.map(comparable);
  add(paths, [], strict ? pathAsIs : deniedReadings);
  add([], notPaths, strict ? pathAsIs : pathReadings);
  addHosts(tests, match);
  add(match.requestPrincipals, match.notRequestPrincipals, ({ facts }) =>
    facts.principal === undefined ? [] : [facts.principal.principal],
  );
  addRemoteIps(tests, match, problems);
  for (const header of match.headers) tests.push(headerTest(header, strict));
  for (const claim of match.claims) tests.push(claimTest(claim));
  return tests;
}

const pathAsIs = ({ facts }: HttpSubject): readonly string[] => [facts.target.compared];
const pathReadings = ({ facts: { target } }: HttpSubject): readonly string[] =>
  target.compared === target.plain ? [target.compared] : [target.compared, target.plain];

/** Many frameworks serve `/a/` as `/a`. */
function deniedReadings(subject: HttpSubject): readonly string[] {
  const readings = pathReadings(subject);
  if (!readings.some((path) => path.length > 1 && path.endsWith('/'))) return readings;
  return [...readings, ...readings.map((path) => path.replace(/(?<=.)\/$/, ''))];
}

function comparable(match: StringMatch): StringMatch {
  return match.kind === 'presence' ? match : { ...match, value: comparablePath(match.value) };
}

function hitsAny(matches: readonly StringMatch[], text: string): boolean {
  return matches.some((match) => matchesText(match, text));
}

/** A host without a port in the policy means every port; both forms are the same host. */
function addHosts(tests: HttpTest[], match: HttpPolicyMatch): void {
  const lower = (list: readonly StringMatch[]): StringMatch[] =>
    list.map((one) => (one.kind === 'presence' ? one : { ...one, value: one.value.toLowerCase() }));
  const hits = (list: readonly StringMatch[], { facts: { target } }: HttpSubject): boolean =>
    hitsAny(list, target.host) || hitsAny(list, target.authority);
  const hosts = lower(match.hosts);
  const notHosts = lower(match.notHosts);
  if (hosts.length > 0) tests.push((subject) => hits(hosts, subject));
  if (notHosts.length > 0) tests.push((subject) => !hits(notHosts, subject));
}

function addRemoteIps(tests: HttpTest[], match: HttpPolicyMatch, problems: string[]): void {
  const masks = (cidrs: HttpPolicyMatch['remoteIps']) =>
    cidrs.flatMap((cidr) => {
      const mask = compileMask(cidr);
      if (mask !== undefined) return [mask];
      problems.push(`address block "${cidr.ip}/${cidr.prefixLength}"`);
      return [];
    });
  const wanted = masks(match.remoteIps);
  const unwanted = masks(match.notRemoteIps);
  if (match.remoteIps.length > 0) {
    tests.push(({ remoteIpWords }) => wanted.some((mask) => maskContains(mask, remoteIpWords)));
  }
  if (match.notRemoteIps.length > 0) {
    tests.push(({ remoteIpWords }) => !unwanted.some((mask) => maskContains(mask, remoteIpWords)));
  }
}

function headerTest(match: HeaderMatch, strict: boolean): HttpTest {
  const { name, values, notValues } = match;
  return ({ facts }) => {
    const lines: string[] = [];
    for (const [key, value] of facts.headers) if (key === name) lines.push(value);
    if (values.length > 0) {
      if (lines.length === 0) return false;
      const hit = strict
        ? lines.every((line) => hitsAny(values, line))
        : itemsOf(lines).some((item) => hitsAny(values, item));
      if (!hit) return false;
    }
    if (notValues.length === 0 || lines.length === 0) return true;
    return strict
      ? !lines.some((line) => hitsAny(notValues, line))
      : !lines.every((line) => hitsAny(notValues, line));
  };
}

/** All that an application may take for the value: lines, the items of each, and all of them as one. */
function itemsOf(lines: readonly string[]): readonly string[] {
  const [only = ''] = lines;
  if (lines.length === 1 && !only.includes(',')) return lines;
  const items = lines.flatMap((line) => line.split(',').map((item) => item.trim()));
  return [...lines, ...items, lines.join(','), lines.join(', ')];
}

/** A claim that is a list matches by any of its entries; a text with spaces is a list, too (RFC 8693 `scope`). */
function claimTest(match: ClaimMatch): HttpTest {
  const { path, values, notValues } = match;
  return ({ facts }) => {
    const texts = claimTexts(facts.principal?.claims, path);
    if (values.length > 0 && !texts.some((text) => hitsAny(values, text))) return false;
    return !texts.some((text) => hitsAny(notValues, text));
  };
}

export function claimTexts(
  claims: Readonly<Record<string, unknown>> | undefined,
  path: readonly string[],
): readonly string[] {
  let value: unknown = claims;
  for (const key of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return [];
    value = (value as Readonly<Record<string, unknown>>)[key];
  }
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  return list.flatMap((entry) => {
    if (typeof entry === 'number' || typeof entry === 'boolean') return [String(entry)];
    if (typeof entry !== 'string') return [];
    return entry.includes(' ') ? [entry, ...entry.split(' ')] : [entry];
  });
}
