/**
 * `nodemesh.v1.TrafficPolicy` ↔ `core/traffic-policy.ts`: what bears on requests to one service. Strict: an unknown
 * enum value or a number out of range is an error (the waypoint keeps its last good version), since a limit that is
 * misread would protect nobody.
 */

import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf';

import type { Result } from '../base/result.ts';
import {
  BALANCING_ALGORITHMS,
  NO_TRAFFIC_SETTINGS,
  RETRY_CONDITIONS,
  STORE_FAILURES,
  ZONE_MODES,
  type Affinity,
  type AffinityCookie,
  type BalancingSettings,
  type Fault,
  type LimitSettings,
  type OutlierSettings,
  type RateLimit,
  type RateLimitKey,
  type RetryBudget,
  type RetrySettings,
  type ServiceTraffic,
  type TimeoutSettings,
  type TrafficLayer,
  type TrafficScope,
} from '../core/traffic-policy.ts';
import { serviceKey } from '../core/workload.ts';
import {
  decodeBounded,
  invalidField,
  readList,
  readPort,
  readRequired,
  readSafeInteger,
  readText,
} from './codec-fields.ts';
import {
  TrafficLayer_Scope,
  TrafficPolicySchema,
  type AffinityCookie_SameSite,
  type AffinitySchema,
  type BalancingSettings_Algorithm,
  type BalancingSettings_Zone,
  type RateLimit_Key,
  type RateLimit_OnFailure,
  type RetrySettings_Condition,
  type FaultSchema,
  type RateLimitSchema,
  type TrafficLayerSchema,
  type Affinity as AffinityMessage,
  type BalancingSettings as BalancingMessage,
  type Fault as FaultMessage,
  type LimitSettings as LimitMessage,
  type OutlierSettings as OutlierMessage,
  type RateLimit as RateLimitMessage,
  type RetryBudget as BudgetMessage,
  type RetrySettings as RetryMessage,
  type TimeoutSettings as TimeoutMessage,
  type TrafficLayer as LayerMessage,
} from './gen/nodemesh/v1/traffic_policy_pb.ts';
import { createWireResource, type WireResource } from './wire-resource.ts';

const LAYERS_MAX = 4_096;
const STATUSES_MAX = 256;
const LIST_MAX = 64;
const SAME_SITES = ['', 'Strict', 'Lax', 'None'] as const;
const RATE_KEYS = ['all', 'identity', 'header'] as const;

export function trafficResource(traffic: ServiceTraffic): WireResource {
  const [namespace, hostname] = splitKey(traffic.key);
  const message = create(TrafficPolicySchema, {
    namespace,
    hostname,
    layers: traffic.layers.map(layerInit),
  });
  return createWireResource(traffic.key, toBinary(TrafficPolicySchema, message));
}

export function decodeTraffic(body: Uint8Array): Result<ServiceTraffic> {
  return decodeBounded(TrafficPolicySchema, body, (message): ServiceTraffic => ({
    key: serviceKey(
      readRequired('namespace', message.namespace),
      readRequired('hostname', message.hostname),
    ),
    layers: readList('layers', message.layers, LAYERS_MAX, readLayer),
  }));
}

function splitKey(key: string): [namespace: string, hostname: string] {
  const slash = key.indexOf('/');
  return [key.slice(0, slash), key.slice(slash + 1)];
}

function layerInit({
  scope,
  source,
  settings,
}: TrafficLayer): MessageInitShape<typeof TrafficLayerSchema> {
  const { retries, budget, timeouts, balancing, limits, outliers, rateLimits, faults } = settings;
  return {
    ...scopeInit(scope),
    source,
    ...(retries && {
      retries: {
        ...retries,
        conditions: retries.conditions.map(
          (word) => RETRY_CONDITIONS.indexOf(word) as RetrySettings_Condition,
        ),
        statusCodes: [...retries.statusCodes],
        grpcStatuses: [...retries.grpcStatuses],
        perTryTimeoutMs: wide(retries.perTryTimeoutMs),
        backoffMinMs: wide(retries.backoffMinMs),
        backoffBaseMs: wide(retries.backoffBaseMs),
        backoffMaxMs: wide(retries.backoffMaxMs),
        retryAfterMaxMs: wide(retries.retryAfterMaxMs),
        budget: { ...retries.budget, intervalMs: wide(retries.budget.intervalMs) },
      },
    }),
    ...(budget && { budget: { ...budget, intervalMs: wide(budget.intervalMs) } }),
    ...(timeouts && {
      timeouts: {
        requestMs: wide(timeouts.requestMs),
        idleMs: wide(timeouts.idleMs),
        connectMs: wide(timeouts.connectMs),
      },
    }),
    ...(balancing && {
      balancing: {
        algorithm: BALANCING_ALGORITHMS.indexOf(balancing.algorithm) as BalancingSettings_Algorithm,
        ...(balancing.affinity && { affinity: affinityInit(balancing.affinity) }),
        zone: ZONE_MODES.indexOf(balancing.zone) as BalancingSettings_Zone,
        zoneUsablePercent: balancing.zoneUsablePercent,
        failover: balancing.failover.map(({ service, port }) => {
          const [namespace, hostname] = splitKey(service);
          return { namespace, hostname, port };
        }),
        slowStartMs: wide(balancing.slowStartMs),
      },
    }),
    ...(limits && { limits: { ...limits, queueTimeoutMs: wide(limits.queueTimeoutMs) } }),
    ...(outliers && {
      outliers: {
        ...outliers,
        intervalMs: wide(outliers.intervalMs),
        ejectionBaseMs: wide(outliers.ejectionBaseMs),
        ejectionMaxMs: wide(outliers.ejectionMaxMs),
        grpcStatuses: [...outliers.grpcStatuses],
      },
    }),
    ...(rateLimits && { rateLimits: { limits: rateLimits.map(rateLimitInit) } }),
    ...(faults && { faults: { faults: faults.map(faultInit) } }),
  };
}

function wide(ms: number): bigint {
  return BigInt(ms);
}

interface ScopeInit {
  readonly scope: TrafficLayer_Scope;
  readonly port?: number;
  readonly routeNamespace?: string;
  readonly routeName?: string;
  readonly rule?: string;
}

function scopeInit(scope: TrafficScope): ScopeInit {
  switch (scope.kind) {
    case 'namespace':
      return { scope: TrafficLayer_Scope.NAMESPACE };
    case 'gateway':
      return { scope: TrafficLayer_Scope.GATEWAY };
    case 'service':
      return { scope: TrafficLayer_Scope.SERVICE };
    case 'port':
      return { scope: TrafficLayer_Scope.PORT, port: scope.port };
    case 'route':
    case 'rule':
      return {
        scope:
          scope.routeKind === 'GRPCRoute'
            ? TrafficLayer_Scope.GRPC_ROUTE
            : TrafficLayer_Scope.HTTP_ROUTE,
        routeNamespace: scope.namespace,
        routeName: scope.name,
        rule: scope.kind === 'rule' ? scope.rule : '',
      };
  }
}

function affinityInit(affinity: Affinity): MessageInitShape<typeof AffinitySchema> {
  switch (affinity.kind) {
    case 'cookie':
      return {
        by: {
          case: 'cookie',
          value: {
            name: affinity.name,
            ttlMs: wide(affinity.ttlMs),
            path: affinity.path,
            sameSite: SAME_SITES.indexOf(affinity.sameSite) as AffinityCookie_SameSite,
            secure: affinity.secure,
          },
        },
      };
    case 'header':
      return {
        by: { case: 'header', value: { name: affinity.name, issued: affinity.issued } },
      };
    case 'source-address':
      return { by: { case: 'sourceAddress', value: {} } };
  }
}

function rateLimitInit(limit: RateLimit): MessageInitShape<typeof RateLimitSchema> {
  const { name, key, requests, intervalMs, burst, shared, onFailure } = limit;
  return {
    name,
    key: RATE_KEYS.indexOf(key.kind) as RateLimit_Key,
    header: key.kind === 'header' ? key.name : '',
    requests,
    intervalMs: wide(intervalMs),
    burst,
    shared,
    onFailure: STORE_FAILURES.indexOf(onFailure) as RateLimit_OnFailure,
  };
}

function faultInit({ headers, delay, abort }: Fault): MessageInitShape<typeof FaultSchema> {
  return {
    headers: headers.map(({ name, value }) => ({ name, value })),
    ...(delay && { delay: { ms: wide(delay.ms), percent: delay.percent } }),
    ...(abort && {
      abort: {
        percent: abort.percent,
        ...(abort.httpStatus !== undefined && { httpStatus: abort.httpStatus }),
        ...(abort.grpcStatus !== undefined && { grpcStatus: abort.grpcStatus }),
      },
    }),
  };
}

function readLayer(message: LayerMessage): TrafficLayer {
  const { retries, budget, timeouts, balancing, limits, outliers, rateLimits, faults } = message;
  return {
    scope: readScope(message),
    source: readText('source', message.source),
    settings: {
      ...NO_TRAFFIC_SETTINGS,
      retries: retries && readRetries(retries),
      budget: budget && readBudget(budget),
      timeouts: timeouts && readTimeouts(timeouts),
      balancing: balancing && readBalancing(balancing),
      limits: limits && readLimits(limits),
      outliers: outliers && readOutliers(outliers),
      rateLimits: rateLimits && readList('rate_limits', rateLimits.limits, LIST_MAX, readRateLimit),
      faults: faults && readList('faults', faults.faults, LIST_MAX, readFault),
    },
  };
}

function readScope(message: LayerMessage): TrafficScope {
  switch (message.scope) {
    case TrafficLayer_Scope.NAMESPACE:
      return { kind: 'namespace' };
    case TrafficLayer_Scope.GATEWAY:
      return { kind: 'gateway' };
    case TrafficLayer_Scope.SERVICE:
      return { kind: 'service' };
    case TrafficLayer_Scope.PORT:
      return { kind: 'port', port: readPort('port', message.port) };
    case TrafficLayer_Scope.HTTP_ROUTE:
    case TrafficLayer_Scope.GRPC_ROUTE: {
      const route = {
        routeKind:
          message.scope === TrafficLayer_Scope.GRPC_ROUTE
            ? ('GRPCRoute' as const)
            : ('HTTPRoute' as const),
        namespace: readRequired('route_namespace', message.routeNamespace),
        name: readRequired('route_name', message.routeName),
      };
      const rule = readText('rule', message.rule);
      return rule === '' ? { kind: 'route', ...route } : { kind: 'rule', ...route, rule };
    }
    default:
      throw invalidField('scope', `${String(message.scope)} is not known`);
  }
}

function readWord<T>(field: string, words: readonly T[], number: number): T {
  const word = words[number];
  if (word === undefined) throw invalidField(field, `${number} is not known`);
  return word;
}

function readPercent(field: string, value: number): number {
  if (value > 100) throw invalidField(field, `${value} is not a percentage`);
  return value;
}

/** What something is divided by, or counts down from. */
function readPositive(field: string, value: number | bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < 1) throw invalidField(field, 'must be positive');
  return number;
}

function readStatuses(field: string, values: readonly number[]): number[] {
  return readList(field, values, STATUSES_MAX, (value) => value);
}

function readBudget(message: BudgetMessage): RetryBudget {
  return {
    percent: readPercent('percent', message.percent),
    intervalMs: readPositive('interval_ms', message.intervalMs),
    minPerSecond: message.minPerSecond,
  };
}

function readRetries(message: RetryMessage): RetrySettings {
  if (message.budget === undefined) throw invalidField('budget', 'missing');
  return {
    attempts: message.attempts,
    conditions: readList('conditions', message.conditions, LIST_MAX, (number) =>
      readWord('conditions', RETRY_CONDITIONS, number),
    ),
    statusCodes: readStatuses('status_codes', message.statusCodes),
    grpcStatuses: readStatuses('grpc_statuses', message.grpcStatuses),
    perTryTimeoutMs: readSafeInteger('per_try_timeout_ms', message.perTryTimeoutMs),
    backoffMinMs: readSafeInteger('backoff_min_ms', message.backoffMinMs),
    backoffBaseMs: readSafeInteger('backoff_base_ms', message.backoffBaseMs),
    backoffMaxMs: readSafeInteger('backoff_max_ms', message.backoffMaxMs),
    retryAfterMaxMs: readSafeInteger('retry_after_max_ms', message.retryAfterMaxMs),
    replayBytesMax: message.replayBytesMax,
    budget: readBudget(message.budget),
  };
}

function readTimeouts(message: TimeoutMessage): TimeoutSettings {
  return {
    requestMs: readSafeInteger('request_ms', message.requestMs),
    idleMs: readSafeInteger('idle_ms', message.idleMs),
    connectMs: readSafeInteger('connect_ms', message.connectMs),
  };
}

function readBalancing(message: BalancingMessage): BalancingSettings {
  return {
    algorithm: readWord('algorithm', BALANCING_ALGORITHMS, message.algorithm),
    affinity: message.affinity && readAffinity(message.affinity),
    zone: readWord('zone', ZONE_MODES, message.zone),
    zoneUsablePercent: readPercent(
      'zone_usable_percent',
      readPositive('zone_usable_percent', message.zoneUsablePercent),
    ),
    failover: readList('failover', message.failover, LIST_MAX, ({ namespace, hostname, port }) => ({
      service: serviceKey(readRequired('namespace', namespace), readRequired('hostname', hostname)),
      port: readPort('port', port),
    })),
    slowStartMs: readSafeInteger('slow_start_ms', message.slowStartMs),
  };
}

function readAffinity({ by }: AffinityMessage): Affinity {
  switch (by.case) {
    case 'cookie': {
      const cookie: AffinityCookie = {
        kind: 'cookie',
        name: readRequired('name', by.value.name),
        ttlMs: readSafeInteger('ttl_ms', by.value.ttlMs),
        path: readRequired('path', by.value.path),
        sameSite: readWord('same_site', SAME_SITES, by.value.sameSite),
        secure: by.value.secure,
      };
      // These become a header: whoever wrote them must not be able to write another.
      if (/[^\x21-\x3a\x3c-\x7e]/.test(cookie.name + cookie.path)) {
        throw invalidField('cookie', 'malformed');
      }
      return cookie;
    }
    case 'header':
      return { kind: 'header', name: readRequired('name', by.value.name), issued: by.value.issued };
    case 'sourceAddress':
      return { kind: 'source-address' };
    case undefined:
      throw invalidField('affinity', 'missing or not known');
  }
}

function readLimits(message: LimitMessage): LimitSettings {
  return {
    connectionsMax: message.connectionsMax,
    requestsMax: message.requestsMax,
    queueMax: message.queueMax,
    queueTimeoutMs: readPositive('queue_timeout_ms', message.queueTimeoutMs),
  };
}

function readOutliers(message: OutlierMessage): OutlierSettings {
  return {
    consecutiveFailures: message.consecutiveFailures,
    successPercent: readPercent('success_percent', message.successPercent),
    successRequestsMin: message.successRequestsMin,
    intervalMs: readPositive('interval_ms', message.intervalMs),
    ejectionBaseMs: readPositive('ejection_base_ms', message.ejectionBaseMs),
    ejectionMaxMs: readPositive('ejection_max_ms', message.ejectionMaxMs),
    ejectedPercentMax: readPercent('ejected_percent_max', message.ejectedPercentMax),
    grpcStatuses: readStatuses('grpc_statuses', message.grpcStatuses),
  };
}

function readRateLimit(message: RateLimitMessage): RateLimit {
  return {
    name: readRequired('name', message.name),
    key: readKey(message),
    requests: readPositive('requests', message.requests),
    intervalMs: readPositive('interval_ms', message.intervalMs),
    burst: readPositive('burst', message.burst),
    shared: message.shared,
    onFailure: readWord('on_failure', STORE_FAILURES, message.onFailure),
  };
}

function readKey(message: RateLimitMessage): RateLimitKey {
  const kind = readWord('key', RATE_KEYS, message.key);
  return kind === 'header' ? { kind, name: readRequired('header', message.header) } : { kind };
}

function readFault({ headers, delay, abort }: FaultMessage): Fault {
  if (
    abort !== undefined &&
    (abort.httpStatus === undefined) === (abort.grpcStatus === undefined)
  ) {
    throw invalidField('abort', 'must have one status');
  }
  return {
    headers: readList('headers', headers, LIST_MAX, ({ name, value }) => ({
      name: readRequired('name', name),
      value: readText('value', value, 4_096),
    })),
    delay: delay && {
      ms: readSafeInteger('ms', delay.ms),
      percent: readPercent('percent', delay.percent),
    },
    abort: abort && {
      httpStatus: abort.httpStatus,
      grpcStatus: abort.grpcStatus,
      percent: readPercent('percent', abort.percent),
    },
  };
}
