/**
 * Candidates that share a host and path, found by what tells them apart. A long list is split by the method, header or
 * query parameter that most of its members demand with one value; so a thousand rules on one path that differ in a
 * header cost a lookup, not a thousand comparisons. Short lists are walked.
 */

import { paced, type Steps } from '../base/steps.ts';
import {
  headerValue,
  passes,
  queryValue,
  type Candidate,
  type RoutableRequest,
} from './route-candidate.ts';

/** A candidate with its place in the order of all: the lower one wins. */
export interface Ranked {
  readonly rank: number;
  readonly candidate: Candidate;
}

export interface RouteList {
  /** The first that matches; host and path have been seen to. */
  find(request: RoutableRequest): Ranked | undefined;
}

const WALKED_MAX = 8;
const ENTRIES_PER_STEP = 512;

interface Key {
  /** For messages and for remembering what was split by. */
  readonly id: string;
  /** The value that a candidate demands, or undefined when it takes several. */
  demanded(candidate: Candidate): string | undefined;
  /** The value that a request has. */
  given(request: RoutableRequest): string | undefined;
}

/** `entries` in order of rank. */
export function buildRouteList(entries: readonly Ranked[]): Steps<RouteList> {
  return build(entries, new Set());
}

function* build(entries: readonly Ranked[], used: ReadonlySet<string>): Steps<RouteList> {
  yield;
  const key = entries.length <= WALKED_MAX ? undefined : yield* bestKey(entries, used);
  if (key === undefined) return walk(entries);
  const nowUsed = new Set([...used, key.id]);
  const byValue = new Map<string, Ranked[]>();
  const others: Ranked[] = [];
  yield* paced(entries, ENTRIES_PER_STEP, (entry) => {
    const value = key.demanded(entry.candidate);
    const list = value === undefined ? others : byValue.get(value);
    if (list !== undefined) list.push(entry);
    else if (value !== undefined) byValue.set(value, [entry]);
  });
  const lists = new Map<string, RouteList>();
  for (const [value, list] of byValue) lists.set(value, yield* build(list, nowUsed));
  const rest = yield* build(others, nowUsed);
  return {
    find(request) {
      const value = key.given(request);
      const one = value === undefined ? undefined : lists.get(value)?.find(request);
      const other = rest.find(request);
      if (one === undefined || other === undefined) return one ?? other;
      return one.rank < other.rank ? one : other;
    },
  };
}

function walk(entries: readonly Ranked[]): RouteList {
  return { find: (request) => entries.find(({ candidate }) => passes(candidate, request)) };
}

/** What most entries demand with one value, if at least half of them do and more than one value is demanded. */
function* bestKey(entries: readonly Ranked[], used: ReadonlySet<string>): Steps<Key | undefined> {
  const counts = new Map<string, { key: Key; count: number; values: Set<string> }>();
  const note = (key: Key, value: string | undefined): void => {
    if (value === undefined || used.has(key.id)) return;
    const entry = counts.get(key.id) ?? { key, count: 0, values: new Set() };
    entry.count++;
    entry.values.add(value);
    counts.set(key.id, entry);
  };
  yield* paced(entries, ENTRIES_PER_STEP, ({ candidate }) => {
    note(METHOD, METHOD.demanded(candidate));
    for (const { name, exact } of candidate.headers) note(headerKey(name), exact);
    for (const { name, exact } of candidate.queryParams) note(queryKey(name), exact);
  });
  const useful = [...counts.values()].filter(
    ({ count, values }) => count * 2 >= entries.length && values.size > 1,
  );
  return useful.toSorted((a, b) => b.values.size - a.values.size)[0]?.key;
}

const METHOD: Key = {
  id: 'method',
  demanded: (candidate) => (candidate.method === '' ? undefined : candidate.method),
  given: (request) => request.method,
};

function headerKey(name: string): Key {
  return {
    id: `header ${name}`,
    demanded: (candidate) => candidate.headers.find((header) => header.name === name)?.exact,
    given: (request) => headerValue(request.headers, name),
  };
}

function queryKey(name: string): Key {
  return {
    id: `query ${name}`,
    demanded: (candidate) => candidate.queryParams.find((param) => param.name === name)?.exact,
    given: (request) => queryValue(request.query, name),
  };
}
