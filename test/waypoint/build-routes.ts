/** Routes for tests: every field has a default, so that a test says only what it is about. */

import type {
  HeaderChange,
  HttpFilter,
  HttpMatch,
  HttpRule,
  NamedMatch,
  RouteRef,
  RouteSet,
  WeightedBackend,
} from '../../src/core/route.ts';
import { serviceKey } from '../../src/core/workload.ts';
import type { HeaderList } from '../../src/http/h2/contract.ts';
import { normaliseTarget } from '../../src/http/request-target.ts';
import { unwrap } from '../../src/base/result.ts';
import type { RoutedRequest } from '../../src/waypoint/compiled-routes.ts';

export const exactly = (name: string, value: string): NamedMatch => ({
  name,
  match: { kind: 'exact', value },
});

export function buildMatch(change: Partial<HttpMatch> = {}): HttpMatch {
  return {
    path: { kind: 'prefix', value: '/' },
    method: '',
    headers: [],
    queryParams: [],
    ...change,
  };
}

export function buildRef(change: Partial<RouteRef> = {}): RouteRef {
  return { kind: 'HTTPRoute', namespace: 'shop', name: 'web', createdMs: 0, ...change };
}

export function buildBackend(
  name: string,
  weight: number = 1,
  change: Partial<WeightedBackend> = {},
): WeightedBackend {
  const service = serviceKey('shop', `${name}.shop.svc.cluster.local`);
  return { backend: { service, port: 80, invalid: '' }, weight, filters: [], ...change };
}

export function buildRule(change: Partial<HttpRule> = {}): HttpRule {
  return {
    route: buildRef(),
    index: 0,
    name: '',
    hostnames: [],
    matches: [buildMatch()],
    filters: [],
    backends: [buildBackend('v1')],
    requestTimeoutMs: undefined,
    backendRequestTimeoutMs: undefined,
    retry: undefined,
    sessionPersistence: undefined,
    invalid: '',
    ...change,
  };
}

export function buildSet(http: readonly HttpRule[]): RouteSet {
  return { http, tls: [], tcp: [] };
}

export function buildChange(change: Partial<HeaderChange>): HeaderChange {
  return { set: [], add: [], remove: [], ...change };
}

export function requestHeaders(change: Partial<HeaderChange>): HttpFilter {
  return { kind: 'request-headers', change: buildChange(change) };
}

export function buildRequest(
  url: string,
  headers: HeaderList = [],
  method: string = 'GET',
): RoutedRequest {
  const [, scheme = 'http', host = 'echo', path = '/'] =
    /^(https?):\/\/([^/?]*)(.*)$/.exec(url) ?? [];
  const target = normaliseTarget({
    method,
    scheme,
    target: path === '' ? '/' : path,
    authority: host,
    hosts: [],
  });
  return { method, target: unwrap(target), headers };
}
