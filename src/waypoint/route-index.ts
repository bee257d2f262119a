/**
 * A set of routes, compiled once per version: which rule serves a request. The answer is that of walking all
 * candidates in the order of `compareCandidates`; the cost does not depend on how many there are. Host names and
 * exact paths are looked up, prefixes by as many segments as they have, the rest is tested in order (`route-list.ts`); only
 * regular expressions on paths are tried one by one, those last whose first characters do not fit.
 *
 * Made in steps (`base/steps.ts`): thousands of routes take tens of milliseconds.
 */

import { paced, runAtOnce, sortInSteps, type Steps } from '../base/steps.ts';
import type { RouteSet } from '../core/route.ts';
import {
  candidatesOf,
  compareCandidates,
  type Candidate,
  type PathRank,
  type RoutableRequest,
} from './route-candidate.ts';
import { buildRouteList, type Ranked, type RouteList } from './route-list.ts';

/** Compiling a rule may mean regular expressions. */
const RULES_PER_STEP = 16;
const ENTRIES_PER_STEP = 512;

export interface RouteIndex {
  /** The candidate that wins; undefined when none matches. */
  find(request: RoutableRequest): Candidate | undefined;
}

/** All of it at once. */
export function createRouteIndex(set: RouteSet): RouteIndex {
  return runAtOnce(buildRouteIndex(set));
}

export function* buildRouteIndex(set: RouteSet): Steps<RouteIndex> {
  const candidates: Candidate[] = [];
  yield* paced(set.http, RULES_PER_STEP, (rule) => void candidates.push(...candidatesOf(rule)));
  const sorted = yield* sortInSteps(candidates, compareCandidates);
  const ranked: Ranked[] = [];
  yield* paced(sorted, ENTRIES_PER_STEP, (candidate) => {
    ranked.push({ rank: ranked.length, candidate });
  });
  const byHost = yield* groupBy(ranked, ({ candidate }) => candidate.hostname);
  const hosts = new Map<string, RouteIndex>();
  for (const [hostname, list] of byHost) hosts.set(hostname, yield* buildPathIndex(list));
  const anyHost = hosts.get('');
  const hasNames = hosts.size > (anyHost === undefined ? 0 : 1);
  const hasWildcards = [...hosts.keys()].some((hostname) => hostname.startsWith('*.'));
  return {
    find(request) {
      const { host } = request;
      if (hasNames) {
        const found = hosts.get(host)?.find(request);
        if (found !== undefined) return found;
      }
      // The longest suffix first: it begins at the first dot.
      for (let dot = hasWildcards ? host.indexOf('.') : -1; dot > 0;) {
        const found = hosts.get(`*${host.slice(dot)}`)?.find(request);
        if (found !== undefined) return found;
        dot = host.indexOf('.', dot + 1);
      }
      return anyHost?.find(request);
    },
  };
}

function* groupBy<T>(items: readonly T[], key: (item: T) => string): Steps<Map<string, T[]>> {
  const groups = new Map<string, T[]>();
  yield* paced(items, ENTRIES_PER_STEP, (item) => {
    const group = groups.get(key(item));
    if (group === undefined) groups.set(key(item), [item]);
    else group.push(item);
  });
  return groups;
}

function* buildLists(entries: readonly Ranked[]): Steps<Map<string, RouteList>> {
  const lists = new Map<string, RouteList>();
  for (const [path, list] of yield* groupBy(entries, pathOf)) {
    lists.set(path, yield* buildRouteList(list));
  }
  return lists;
}

/** The rules of one host name. `entries` in order of rank. */
function* buildPathIndex(entries: readonly Ranked[]): Steps<RouteIndex> {
  const ofRank = (rank: PathRank): Ranked[] =>
    entries.filter(({ candidate }) => candidate.path.rank === rank);
  const exact = yield* buildLists(ofRank('exact'));
  const regexes = yield* buildRegexes(ofRank('regex'));
  const prefixes = yield* buildPrefixIndex(ofRank('prefix'));
  const anyService = yield* buildRegexes(ofRank('any-service'));
  const everyPath = yield* buildRouteList(ofRank('every-path'));
  return {
    find(request) {
      const { path } = request;
      const found = exact.get(path)?.find(request);
      if (found !== undefined) return found.candidate;
      return (
        firstOf(regexes, request) ??
        prefixes.find(request) ??
        firstOf(anyService, request) ??
        everyPath.find(request)?.candidate
      );
    },
  };
}

interface RegexPath {
  readonly entry: Ranked;
  readonly list: RouteList;
}

function* buildRegexes(entries: readonly Ranked[]): Steps<RegexPath[]> {
  const regexes: RegexPath[] = [];
  for (const entry of entries) regexes.push({ entry, list: yield* buildRouteList([entry]) });
  return regexes;
}

function firstOf(regexes: readonly RegexPath[], request: RoutableRequest): Candidate | undefined {
  for (const { entry, list } of regexes) {
    // What costs least is asked first.
    if (list.find(request) !== undefined && entry.candidate.path.test(request.path)) {
      return entry.candidate;
    }
  }
  return undefined;
}

function pathOf({ candidate }: Ranked): string {
  return candidate.path.value;
}

/** Prefixes by their text; of a request's path only the beginnings that some prefix is as deep as are looked up. */
function* buildPrefixIndex(entries: readonly Ranked[]): Steps<RouteIndex> {
  const lists = yield* buildLists(entries);
  // A prefix of n segments has n slashes.
  const found = new Set<number>();
  yield* paced(
    lists.keys(),
    ENTRIES_PER_STEP,
    (path) => void found.add(path.split('/').length - 1),
  );
  const depths = [...found];
  depths.sort((a, b) => b - a);
  const deepest = depths[0] ?? 0;
  /** Where the first n segments of the path at hand end. */
  const ends = new Uint32Array(deepest + 1);
  return {
    find(request) {
      const { path } = request;
      const available = markEnds(path, ends);
      for (const depth of depths) {
        if (depth > available) continue;
        const entry = lists.get(path.slice(0, ends[depth]))?.find(request);
        if (entry !== undefined) return entry.candidate;
      }
      return undefined;
    },
  };
}

/** Fills `ends[1…]` and returns how many segments there are, at most as many as fit. */
function markEnds(path: string, ends: Uint32Array): number {
  let count = 0;
  for (let start = 1; count + 1 < ends.length && start <= path.length;) {
    const slash = path.indexOf('/', start);
    const end = slash < 0 ? path.length : slash;
    count++;
    ends[count] = end;
    start = end + 1;
  }
  return count;
}
