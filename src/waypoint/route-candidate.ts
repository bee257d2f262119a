/**
 * One way in which a request can meet a rule: a rule × one of its matches × one of its host names, with its tests
 * compiled. The order among candidates is Gateway API's precedence, to the letter:
 *
 * host name (not a wildcard before a wildcard, then the longer) · exact path, then regular expression, then prefix ·
 * the longer path · a method · more headers · more query parameters · the older route · its `namespace/name` · the
 * rule's place, the match's place. Where regular expressions stand is left open by the specification. For a GRPCRoute
 * it is the characters of the service, then those of the method: a match on a method alone comes after all that name a
 * service, and before those that take every call.
 */

import { comparablePath } from '../http/request-path.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import { compileRegex } from '../base/regex.ts';
import {
  ANY_SERVICE,
  type HttpMatch,
  type HttpRule,
  type NamedMatch,
  type ValueMatch,
} from '../core/route.ts';

/** What routing looks at; the host and path of the normalised target. */
export interface RoutableRequest {
  readonly method: string;
  /** Lower case, without port. */
  readonly host: string;
  /** `RequestPath.compared`. */
  readonly path: string;
  /** With its question mark, or empty. */
  readonly query: string;
  /** Lower-case names. */
  readonly headers: HeaderList;
}

export interface CompiledNamed {
  readonly name: string;
  /** The only value that passes, or undefined for a regular expression. */
  readonly exact: string | undefined;
  readonly test: (value: string) => boolean;
}

export interface CandidatePath {
  readonly kind: 'exact' | 'regex' | 'prefix';
  /** Comparable; a prefix without its last slash, so that `/` is empty. */
  readonly value: string;
  /** Of lists of paths, which comes first. */
  readonly rank: PathRank;
  /** For `regex`: whether the path matches. */
  readonly test: (path: string) => boolean;
}

export interface Candidate {
  /** Lower case; empty for every host. */
  readonly hostname: string;
  readonly rule: HttpRule;
  readonly match: HttpMatch;
  /** Position of the match in its rule. */
  readonly matchIndex: number;
  readonly path: CandidatePath;
  readonly method: string;
  readonly headers: readonly CompiledNamed[];
  readonly queryParams: readonly CompiledNamed[];
}

export type PathRank = 'exact' | 'regex' | 'prefix' | 'any-service' | 'every-path';
const PATH_RANKS: readonly PathRank[] = ['exact', 'regex', 'prefix', 'any-service', 'every-path'];

const NEVER = (): boolean => false;

/** A regular expression that does not compile matches nothing; its route's status says so. */
function compileValue(match: ValueMatch): CompiledNamed['test'] {
  if (match.kind === 'exact') return (value) => value === match.value;
  const regex = compileRegex(match.value);
  return regex.ok ? (value) => regex.value.matches(value) : NEVER;
}

/** The first of equal names counts (Gateway API). */
function compileNamed(matches: readonly NamedMatch[]): CompiledNamed[] {
  const seen = new Set<string>();
  return matches.flatMap(({ name, match }) => {
    if (seen.has(name)) return [];
    seen.add(name);
    const exact = match.kind === 'exact' ? match.value : undefined;
    return [{ name, exact, test: compileValue(match) }];
  });
}

function compilePath(match: HttpMatch['path'], isGrpc: boolean): CandidatePath {
  if (match.kind !== 'regex') {
    const value = comparablePath(match.value);
    const trimmed = match.kind === 'prefix' ? value.replace(/\/+$/, '') : value;
    const rank = match.kind === 'prefix' && trimmed === '' ? 'every-path' : match.kind;
    return { kind: match.kind, value: trimmed, rank, test: NEVER };
  }
  const rank = isGrpc && match.value.startsWith(ANY_SERVICE) ? 'any-service' : 'regex';
  const regex = compileRegex(match.value);
  if (!regex.ok) return { kind: 'regex', value: match.value, rank, test: NEVER };
  const literal = literalStart(match.value);
  const test = (path: string): boolean => path.startsWith(literal) && regex.value.matches(path);
  return { kind: 'regex', value: match.value, rank, test };
}

/** What every match begins with: saves most evaluations. */
function literalStart(pattern: string): string {
  if (pattern.includes('|') || pattern.includes('(?')) return '';
  const literal = /^[A-Za-z0-9/_~-]*/.exec(pattern)?.[0] ?? '';
  // A quantifier makes the last character optional.
  return literal.length < pattern.length ? literal.slice(0, -1) : literal;
}

/** The candidates of one rule. */
export function candidatesOf(rule: HttpRule): Candidate[] {
  const hostnames = rule.hostnames.length === 0 ? [''] : rule.hostnames;
  return rule.matches.flatMap((match, matchIndex) => {
    const shared = {
      rule,
      match,
      matchIndex,
      path: compilePath(match.path, rule.route.kind === 'GRPCRoute'),
      method: match.method,
      headers: compileNamed(match.headers),
      queryParams: compileNamed(match.queryParams),
    };
    return hostnames.map((hostname) => ({ ...shared, hostname: hostname.toLowerCase() }));
  });
}

/** Negative: `a` comes first. */
export function compareCandidates(a: Candidate, b: Candidate): number {
  return (
    hostRank(a.hostname) - hostRank(b.hostname) ||
    b.hostname.length - a.hostname.length ||
    PATH_RANKS.indexOf(a.path.rank) - PATH_RANKS.indexOf(b.path.rank) ||
    b.path.value.length - a.path.value.length ||
    Number(a.method === '') - Number(b.method === '') ||
    b.headers.length - a.headers.length ||
    b.queryParams.length - a.queryParams.length ||
    a.rule.route.createdMs - b.rule.route.createdMs ||
    compareText(routeName(a), routeName(b)) ||
    a.rule.index - b.rule.index ||
    a.matchIndex - b.matchIndex
  );
}

function hostRank(hostname: string): number {
  if (hostname === '') return 2;
  return hostname.startsWith('*.') ? 1 : 0;
}

function routeName(candidate: Candidate): string {
  const { namespace, name } = candidate.rule.route;
  return `${namespace}/${name}`;
}

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** Everything but host and path. */
export function passes(candidate: Candidate, request: RoutableRequest): boolean {
  if (candidate.method !== '' && candidate.method !== request.method) return false;
  for (const { name, test } of candidate.headers) {
    const value = headerValue(request.headers, name);
    if (value === undefined || !test(value)) return false;
  }
  for (const { name, test } of candidate.queryParams) {
    const value = queryValue(request.query, name);
    if (value === undefined || !test(value)) return false;
  }
  return true;
}

/** Several fields of one name are one list (RFC 9110 section 5.2). */
export function headerValue(headers: HeaderList, name: string): string | undefined {
  let found: string | undefined;
  for (const [key, value] of headers) {
    if (key === name) found = found === undefined ? value : `${found},${value}`;
  }
  return found;
}

/** The first parameter of this name, decoded. */
export function queryValue(query: string, name: string): string | undefined {
  let start = 1;
  while (start < query.length) {
    const next = query.indexOf('&', start);
    const end = next < 0 ? query.length : next;
    const mark = query.indexOf('=', start);
    const nameEnd = mark < 0 || mark > end ? end : mark;
    if (decodeParameter(query.slice(start, nameEnd)) === name) {
      return decodeParameter(query.slice(Math.min(nameEnd + 1, end), end));
    }
    start = end + 1;
  }
  return undefined;
}

function decodeParameter(text: string): string {
  if (!text.includes('%') && !text.includes('+')) return text;
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    return text;
  }
}
