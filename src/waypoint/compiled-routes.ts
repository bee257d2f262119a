/**
 * What a set of routes makes of a request: which rule serves it, what the rule's filters do to it and to its answer,
 * and which backend gets it. Compiled once per version of the routes; pure and synchronous after that.
 */

import type { Random } from '../base/random.ts';
import { runAtOnce, type Steps } from '../base/steps.ts';
import type {
  Backend,
  Cors,
  HttpFilter,
  HttpRule,
  RouteSet,
  WeightedBackend,
} from '../core/route.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import type { RequestTarget } from '../http/request-target.ts';
import { markAnswer, preflightHeaders, preflightMethod } from './cors.ts';
import { changeHeaders } from './header-change.ts';
import { createLocalAnswer, isGrpcContent, type LocalAnswer } from './local-answer.ts';
import { redirectLocation, rewriteTarget } from './redirect.ts';
import type { CandidatePath } from './route-candidate.ts';
import { buildRouteIndex } from './route-index.ts';

/** A request after normalisation. */
export interface RoutedRequest {
  readonly method: string;
  readonly target: RequestTarget;
  /** Lower-case names, no pseudo headers, no `host`. */
  readonly headers: HeaderList;
}

export interface RouteChoice {
  readonly rule: HttpRule;
  /** The path of the match that was met. */
  readonly matched: CandidatePath;
}

export interface CompiledRoutes {
  /** No HTTPRoute or GRPCRoute: everything passes unrouted. */
  readonly isEmpty: boolean;
  /** The rule that serves the request; undefined: 404. */
  match(request: RoutedRequest): RouteChoice | undefined;
}

/** All of it at once. */
export function compileRoutes(set: RouteSet): CompiledRoutes {
  return runAtOnce(compileRoutesInSteps(set));
}

export function* compileRoutesInSteps(set: RouteSet): Steps<CompiledRoutes> {
  const index = yield* buildRouteIndex(set);
  const find = (request: RoutedRequest, method: string): RouteChoice | undefined => {
    const { host, compared, query } = request.target;
    const { headers } = request;
    const found = index.find({ method, host, path: compared, query, headers });
    return found === undefined ? undefined : { rule: found.rule, matched: found.path };
  };
  return {
    isEmpty: set.http.length === 0,
    match(request) {
      // A preflight asks on behalf of another method: the rule of that one answers, if it speaks CORS.
      const asked = preflightMethod(request.method, request.headers);
      const served = asked === undefined ? undefined : find(request, asked);
      if (served !== undefined && corsOf(served.rule) !== undefined) return served;
      return find(request, request.method);
    },
  };
}

/** What goes upstream. */
export interface UpstreamRequest {
  readonly authority: string;
  /** With query. */
  readonly path: string;
  readonly headers: HeaderList;
}

export type FilterOutcome =
  | { readonly kind: 'answer'; readonly answer: LocalAnswer }
  | { readonly kind: 'forward'; readonly request: UpstreamRequest };

/** Applies the rule's filters in order. `servicePort`: the one the client addressed. */
export function applyRequestFilters(
  choice: RouteChoice,
  request: RoutedRequest,
  servicePort: number,
): FilterOutcome {
  const { target } = request;
  const { rule, matched } = choice;
  if (rule.invalid !== '') return answer(request, 500, `The route is not valid: ${rule.invalid}`);
  let { headers } = request;
  let { authority, path } = { authority: target.authority, path: target.path + target.query };
  for (const filter of rule.filters) {
    switch (filter.kind) {
      case 'request-headers':
        headers = changeHeaders(headers, filter.change);
        break;
      case 'redirect': {
        const location = redirectLocation(filter.redirect, target, matched, servicePort);
        const { status } = filter.redirect;
        return {
          kind: 'answer',
          answer: createLocalAnswer(status, '', false, [['location', location]]),
        };
      }
      case 'rewrite':
        ({ authority, path } = rewriteTarget(filter.rewrite, target, matched));
        break;
      case 'cors':
        if (preflightMethod(request.method, request.headers) !== undefined) {
          const fields = preflightHeaders(filter.cors, request.headers);
          return { kind: 'answer', answer: createLocalAnswer(204, '', false, fields) };
        }
        break;
      case 'mirror':
      case 'response-headers':
        break;
    }
  }
  return { kind: 'forward', request: { authority, path, headers } };
}

/** The filters of the chosen backend, which come after the rule's. */
export function applyBackendFilters(
  backend: WeightedBackend,
  request: UpstreamRequest,
): UpstreamRequest {
  let { headers } = request;
  for (const filter of backend.filters) {
    if (filter.kind === 'request-headers') headers = changeHeaders(headers, filter.change);
  }
  return headers === request.headers ? request : { ...request, headers };
}

/** Headers of the answer: the backend's filters, then the rule's. */
export function applyResponseFilters(
  choice: RouteChoice,
  backend: WeightedBackend | undefined,
  request: RoutedRequest,
  answerHeaders: HeaderList,
): HeaderList {
  let headers = answerHeaders;
  const apply = (filters: readonly HttpFilter[]): void => {
    for (const filter of filters) {
      if (filter.kind === 'response-headers') headers = changeHeaders(headers, filter.change);
      else if (filter.kind === 'cors') headers = markAnswer(filter.cors, request.headers, headers);
    }
  };
  if (backend !== undefined) apply(backend.filters);
  apply(choice.rule.filters);
  return headers;
}

/**
 * By weight. Undefined: the rule has no backend with a weight, and the answer is 500; so it is when the chosen one
 * has `invalid` set.
 */
export function chooseBackend(rule: HttpRule, random: Random): WeightedBackend | undefined {
  const { backends } = rule;
  const [only] = backends;
  if (backends.length === 1) return only !== undefined && only.weight > 0 ? only : undefined;
  let total = 0;
  for (const { weight } of backends) total += weight;
  let left = random.next() * total;
  for (const backend of backends) {
    left -= backend.weight;
    if (left < 0) return backend;
  }
  return undefined;
}

/** Where a copy of this request goes: each mirror by its own share, of the rule and of the backend. */
export function chooseMirrors(
  rule: HttpRule,
  backend: WeightedBackend | undefined,
  random: Random,
): Backend[] {
  const chosen: Backend[] = [];
  for (const filter of [...rule.filters, ...(backend?.filters ?? [])]) {
    if (filter.kind !== 'mirror') continue;
    const { numerator, denominator, backend: to } = filter.mirror;
    if (to.invalid === '' && random.next() * denominator < numerator) chosen.push(to);
  }
  return chosen;
}

function corsOf(rule: HttpRule): Cors | undefined {
  for (const filter of rule.filters) if (filter.kind === 'cors') return filter.cors;
  return undefined;
}

function answer(request: RoutedRequest, status: number, message: string): FilterOutcome {
  const isGrpc = isGrpcContent(request.headers);
  return { kind: 'answer', answer: createLocalAnswer(status, message, isGrpc) };
}
