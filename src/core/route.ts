/**
 * What a waypoint must know to route, as plain values: one `WaypointService` per service bound to it. Made by the
 * control plane from Gateway API routes (`controlplane/`), carried by `discovery/`, compiled and applied by
 * `waypoint/`. Everything is resolved: no Kubernetes reference is left, names are defaulted, durations are ms.
 *
 * Gateway API semantics that the values already contain: a backend that cannot be resolved (missing, not permitted
 * by a ReferenceGrant, unknown kind) stays in the list with `invalid` set, so that its share gets 500; a rule with
 * a filter nobody knows has `invalid` set, so that all of it gets 500. Precedence is *not* applied here: rules
 * carry what it needs (`RouteRef`, `index`), `waypoint/` sorts once per version.
 */

import type { AppProtocol, ServiceKey } from './workload.ts';

/** Where a rule comes from: for precedence (older first, then name), logs and metrics. */
export interface RouteRef {
  readonly kind: 'HTTPRoute' | 'GRPCRoute' | 'TLSRoute' | 'TCPRoute';
  readonly namespace: string;
  readonly name: string;
  /** Milliseconds since the Unix epoch. */
  readonly createdMs: number;
}

export type ValueMatch =
  | { readonly kind: 'exact'; readonly value: string }
  /** RE2 syntax, must match the whole value. */
  | { readonly kind: 'regex'; readonly value: string };

export type PathMatch =
  | { readonly kind: 'exact'; readonly value: string }
  /** By segments: `/v2` matches `/v2` and `/v2/x`, never `/v2x`. */
  | { readonly kind: 'prefix'; readonly value: string }
  | { readonly kind: 'regex'; readonly value: string };

/** What the path of a GRPCRoute's match on a method alone begins with. */
export const ANY_SERVICE = '/[^/]+/';

/** Header names are lower case. */
export interface NamedMatch {
  readonly name: string;
  readonly match: ValueMatch;
}

/** All of its parts must hold. A GRPCRoute's method match arrives as a path match (`/service/method`). */
export interface HttpMatch {
  readonly path: PathMatch;
  /** Empty: any. */
  readonly method: string;
  readonly headers: readonly NamedMatch[];
  readonly queryParams: readonly NamedMatch[];
}

export interface HeaderChange {
  readonly set: readonly (readonly [name: string, value: string])[];
  readonly add: readonly (readonly [name: string, value: string])[];
  readonly remove: readonly string[];
}

export type PathChange =
  | { readonly kind: 'full'; readonly value: string }
  /** Replaces the matched prefix. */
  | { readonly kind: 'prefix'; readonly value: string };

export interface Redirect {
  /** Undefined parts stay as in the request. */
  readonly scheme: 'http' | 'https' | undefined;
  readonly hostname: string | undefined;
  readonly port: number | undefined;
  readonly path: PathChange | undefined;
  readonly status: 301 | 302 | 303 | 307 | 308;
}

export interface Rewrite {
  readonly hostname: string | undefined;
  readonly path: PathChange | undefined;
}

export interface Mirror {
  readonly backend: Backend;
  /** Of `denominator`; both 100 by default. */
  readonly numerator: number;
  readonly denominator: number;
}

export interface Cors {
  readonly allowOrigins: readonly string[];
  readonly allowCredentials: boolean;
  readonly allowMethods: readonly string[];
  readonly allowHeaders: readonly string[];
  readonly exposeHeaders: readonly string[];
  readonly maxAgeS: number;
}

export type HttpFilter =
  | { readonly kind: 'request-headers'; readonly change: HeaderChange }
  | { readonly kind: 'response-headers'; readonly change: HeaderChange }
  | { readonly kind: 'redirect'; readonly redirect: Redirect }
  | { readonly kind: 'rewrite'; readonly rewrite: Rewrite }
  | { readonly kind: 'mirror'; readonly mirror: Mirror }
  | { readonly kind: 'cors'; readonly cors: Cors };

/** One service and port to send to. */
export interface Backend {
  readonly service: ServiceKey;
  readonly port: number;
  /** Why it cannot be used (`BackendNotFound`, `RefNotPermitted`, `InvalidKind`, …); empty: it can. */
  readonly invalid: string;
}

export interface WeightedBackend {
  readonly backend: Backend;
  /** 0: never chosen. */
  readonly weight: number;
  readonly filters: readonly HttpFilter[];
}

/** `HTTPRoute.rules[].retry` of the experimental channel. */
export interface RouteRetry {
  /** Retries, not tries. */
  readonly attempts: number;
  readonly codes: readonly number[];
  readonly backoffMs: number | undefined;
}

export interface SessionPersistence {
  readonly kind: 'cookie' | 'header';
  readonly name: string;
  readonly absoluteTimeoutMs: number | undefined;
  readonly idleTimeoutMs: number | undefined;
}

export interface HttpRule {
  readonly route: RouteRef;
  /** Position in its route. */
  readonly index: number;
  /** `rules[].name`; empty when it has none. */
  readonly name: string;
  /** Of the route; empty: every host. A leading `*.` matches one label or more. */
  readonly hostnames: readonly string[];
  /** Never empty: without any, the source has put `prefix /`. */
  readonly matches: readonly HttpMatch[];
  /** In order. */
  readonly filters: readonly HttpFilter[];
  /** Empty without a redirect: 500 (404 for GRPC as UNIMPLEMENTED). */
  readonly backends: readonly WeightedBackend[];
  /** 0: none. Undefined: not said. */
  readonly requestTimeoutMs: number | undefined;
  readonly backendRequestTimeoutMs: number | undefined;
  readonly retry: RouteRetry | undefined;
  readonly sessionPersistence: SessionPersistence | undefined;
  /** Why the whole rule answers 500; empty: it works. */
  readonly invalid: string;
}

export interface ConnectionRule {
  readonly route: RouteRef;
  readonly index: number;
  /** SNI names of a TLSRoute; empty for a TCPRoute. */
  readonly hostnames: readonly string[];
  readonly backends: readonly WeightedBackend[];
}

/** Routes of one kind of client. Undefined lists do not exist: empty means no route of that kind. */
export interface RouteSet {
  /** HTTPRoutes and GRPCRoutes. */
  readonly http: readonly HttpRule[];
  readonly tls: readonly ConnectionRule[];
  readonly tcp: readonly ConnectionRule[];
}

export interface WaypointPort {
  readonly port: number;
  readonly appProtocol: AppProtocol;
  /** Routes of the service's own namespace: for every client whose namespace has none of its own. */
  readonly producer: RouteSet;
  /** Consumer routes: for clients of that namespace, instead of the producer's. */
  readonly consumers: ReadonlyMap<string, RouteSet>;
}

export interface WaypointService {
  /** Of the service they are bound to; its addresses and endpoints come as `istio.workload.Address`. */
  readonly key: ServiceKey;
  readonly ports: readonly WaypointPort[];
}
