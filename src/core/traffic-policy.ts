/**
 * How a waypoint treats the traffic of a service beyond routing, as plain values: retries, timeouts, balancing,
 * limits, outlier detection, rate limits and faults. Made by the control plane from `TrafficPolicy` objects,
 * carried by `discovery/`, applied by `waypoint/`. Durations are ms, names are resolved, numbers are defaulted:
 * a section is either absent or complete.
 *
 * Layers, strongest first: a rule of a route, the route, a port of the service, the service, its waypoint's
 * Gateway, its namespace. They are merged section by section: the strongest layer that has a section gives all of it.
 */

import type { ServiceKey } from './workload.ts';

/** What makes an attempt worth repeating (Envoy's `retry_on` words; gRPC and HTTP status lists beside them). */
export const RETRY_CONDITIONS = [
  '5xx',
  'gateway-error',
  'connect-failure',
  'refused-stream',
  'reset',
  'reset-before-request',
] as const;
export type RetryCondition = (typeof RETRY_CONDITIONS)[number];

/** Of the requests of the last `intervalMs`, `percent` may be retried, and `minPerSecond` more each second (GEP-3388). */
export interface RetryBudget {
  readonly percent: number;
  readonly intervalMs: number;
  readonly minPerSecond: number;
}

export interface RetrySettings {
  /** Retries, not tries. 0: none. */
  readonly attempts: number;
  readonly conditions: readonly RetryCondition[];
  /** HTTP statuses that are retried besides. */
  readonly statusCodes: readonly number[];
  /** gRPC status numbers that are retried besides. */
  readonly grpcStatuses: readonly number[];
  /** 0: none. */
  readonly perTryTimeoutMs: number;
  /** No wait is shorter (`HTTPRoute`'s `retry.backoff`). */
  readonly backoffMinMs: number;
  /** Upper bound of the first wait beyond that; it doubles up to `backoffMaxMs`, and all of it is jitter. */
  readonly backoffBaseMs: number;
  readonly backoffMaxMs: number;
  /** A `Retry-After` up to this is waited for, a longer one ends the retries. 0: ignored. */
  readonly retryAfterMaxMs: number;
  /** A request body is kept for another try up to this size. */
  readonly replayBytesMax: number;
  readonly budget: RetryBudget;
}

/** 0: none, in each. */
export interface TimeoutSettings {
  /** From the request's first byte to the response's last. */
  readonly requestMs: number;
  /** Nothing sent or received by either side; without it only what has no answer yet, or is stuck, is given up. */
  readonly idleMs: number;
  readonly connectMs: number;
}

export const BALANCING_ALGORITHMS = [
  'round-robin',
  'random',
  'least-request',
  'peak-ewma',
  'consistent-hash',
] as const;
export type BalancingAlgorithm = (typeof BALANCING_ALGORITHMS)[number];

export interface AffinityCookie {
  readonly kind: 'cookie';
  readonly name: string;
  /** 0: for the browser's session. */
  readonly ttlMs: number;
  readonly path: string;
  readonly sameSite: 'Strict' | 'Lax' | 'None' | '';
  readonly secure: boolean;
}

/** What of a request decides its endpoint under `consistent-hash`. */
export type Affinity =
  | AffinityCookie
  /** With `issued`, a request that has none gets one with its response (GEP-1619). */
  | { readonly kind: 'header'; readonly name: string; readonly issued: boolean }
  | { readonly kind: 'source-address' };

export const ZONE_MODES = ['service', 'prefer', 'ignore'] as const;

export interface BalancingSettings {
  readonly algorithm: BalancingAlgorithm;
  /** Only with `consistent-hash`. */
  readonly affinity: Affinity | undefined;
  /** `service`: as its `trafficDistribution` says; `prefer`: by region, then zone, in any case. */
  readonly zone: (typeof ZONE_MODES)[number];
  /** Near endpoints take everything while at least this share of them is usable; below it traffic spills over. */
  readonly zoneUsablePercent: number;
  /** Tried in order when the service itself has no usable endpoint. */
  readonly failover: readonly { readonly service: ServiceKey; readonly port: number }[];
  /** A new endpoint's share grows over this time. 0: at once. */
  readonly slowStartMs: number;
}

/** Of one service port in one waypoint process. 0: no limit. */
export interface LimitSettings {
  readonly connectionsMax: number;
  /** Requests sent and not yet answered. */
  readonly requestsMax: number;
  /** Requests that wait for one of those to end. */
  readonly queueMax: number;
  /** How long one may wait. */
  readonly queueTimeoutMs: number;
}

export interface OutlierSettings {
  /** Failures in a row that take an endpoint out. 0: not counted. */
  readonly consecutiveFailures: number;
  /** Below this share of successes an endpoint is taken out. 0: not looked at. */
  readonly successPercent: number;
  /** Responses within `intervalMs` before the share counts. */
  readonly successRequestsMin: number;
  readonly intervalMs: number;
  /** First time out; it doubles with each failed return. */
  readonly ejectionBaseMs: number;
  readonly ejectionMaxMs: number;
  /** Of all endpoints at one time; at least one is always left in. */
  readonly ejectedPercentMax: number;
  /** What counts: HTTP statuses of 500 and more, and these gRPC statuses; failed and broken attempts always do. */
  readonly grpcStatuses: readonly number[];
}

export type RateLimitKey =
  /** One bucket for everybody. */
  | { readonly kind: 'all' }
  /** One per client identity. */
  | { readonly kind: 'identity' }
  /** One per value of a header; requests without it share one. */
  | { readonly kind: 'header'; readonly name: string };

export const STORE_FAILURES = ['local', 'allow', 'deny'] as const;
export type StoreFailure = (typeof STORE_FAILURES)[number];

export interface RateLimit {
  /** Unique within its policy; shown to the client and in the log. */
  readonly name: string;
  readonly key: RateLimitKey;
  readonly requests: number;
  readonly intervalMs: number;
  /** How many may come at once. */
  readonly burst: number;
  /** Counted by all waypoints together, in the shared store. */
  readonly shared: boolean;
  /** What a shared limit does while the store does not answer. */
  readonly onFailure: StoreFailure;
}

/** All of its headers must be there with exactly these values; lower-case names. Both percents count separately. */
export interface Fault {
  readonly headers: readonly { readonly name: string; readonly value: string }[];
  readonly delay: { readonly ms: number; readonly percent: number } | undefined;
  readonly abort:
    | {
        /** One of the two is set. */
        readonly httpStatus: number | undefined;
        readonly grpcStatus: number | undefined;
        readonly percent: number;
      }
    | undefined;
}

/** Undefined sections are left to weaker layers. */
export interface TrafficSettings {
  readonly retries: RetrySettings | undefined;
  /** Alone, without `retries`, as `XBackendTrafficPolicy` can have it; replaces that of the retries in force. */
  readonly budget: RetryBudget | undefined;
  readonly timeouts: TimeoutSettings | undefined;
  readonly balancing: BalancingSettings | undefined;
  readonly limits: LimitSettings | undefined;
  readonly outliers: OutlierSettings | undefined;
  readonly rateLimits: readonly RateLimit[] | undefined;
  readonly faults: readonly Fault[] | undefined;
}

export type TrafficScope =
  | { readonly kind: 'namespace' }
  | { readonly kind: 'gateway' }
  | { readonly kind: 'service' }
  | { readonly kind: 'port'; readonly port: number }
  | {
      readonly kind: 'route';
      readonly routeKind: 'HTTPRoute' | 'GRPCRoute';
      readonly namespace: string;
      readonly name: string;
    }
  | {
      readonly kind: 'rule';
      readonly routeKind: 'HTTPRoute' | 'GRPCRoute';
      readonly namespace: string;
      readonly name: string;
      /** The rule's name in its route. */
      readonly rule: string;
    };

export interface TrafficLayer {
  readonly scope: TrafficScope;
  /** `NAMESPACE/NAME` of the object, for logs. */
  readonly source: string;
  readonly settings: TrafficSettings;
}

/** Everything that may bear on requests to one service. A scope occurs once: conflicts are already decided. */
export interface ServiceTraffic {
  readonly key: ServiceKey;
  readonly layers: readonly TrafficLayer[];
}

/** GEP-3388, and Linkerd's `retryBudget`. */
export const DEFAULT_BUDGET: RetryBudget = { percent: 20, intervalMs: 10_000, minPerSecond: 10 };

/** Without any policy: once more, elsewhere, and only where the application cannot have seen the request. */
export const DEFAULT_RETRIES: RetrySettings = {
  attempts: 1,
  conditions: ['connect-failure', 'refused-stream'],
  statusCodes: [],
  grpcStatuses: [],
  perTryTimeoutMs: 0,
  backoffMinMs: 0,
  backoffBaseMs: 25,
  backoffMaxMs: 250,
  retryAfterMaxMs: 1_000,
  replayBytesMax: 65_536,
  budget: DEFAULT_BUDGET,
};

/** No request timeout unless set: a mesh cannot know how long an answer may take. */
export const DEFAULT_TIMEOUTS: TimeoutSettings = {
  requestMs: 0,
  // As Istio sets Envoy's stream_idle_timeout: a watch or an event stream may be silent for as long as it likes.
  idleMs: 0,
  connectMs: 1_000,
};

export const DEFAULT_BALANCING: BalancingSettings = {
  algorithm: 'peak-ewma',
  affinity: undefined,
  zone: 'service',
  // Envoy's overprovisioning factor of 1.4, the other way round.
  zoneUsablePercent: 70,
  failover: [],
  slowStartMs: 0,
};

export const DEFAULT_LIMITS: LimitSettings = {
  connectionsMax: 0,
  requestsMax: 0,
  queueMax: 0,
  queueTimeoutMs: 1_000,
};

/** Linkerd's failure accrual, with a cap of our own: at worst half of the endpoints are out. */
export const DEFAULT_OUTLIERS: OutlierSettings = {
  consecutiveFailures: 7,
  successPercent: 0,
  successRequestsMin: 5,
  intervalMs: 10_000,
  ejectionBaseMs: 1_000,
  ejectionMaxMs: 60_000,
  ejectedPercentMax: 50,
  // DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
  grpcStatuses: [4, 7, 13, 14, 15],
};

export const NO_TRAFFIC_SETTINGS: TrafficSettings = {
  retries: undefined,
  budget: undefined,
  timeouts: undefined,
  balancing: undefined,
  limits: undefined,
  outliers: undefined,
  rateLimits: undefined,
  faults: undefined,
};
