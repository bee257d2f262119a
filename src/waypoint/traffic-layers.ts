/**
 * Which settings hold where: the layers of a service's traffic policies merged section by section, strongest first.
 * Made once per version of a service's policies; looking up costs a map access.
 */

import type { RouteRef } from '../core/route.ts';
import {
  DEFAULT_BALANCING,
  DEFAULT_LIMITS,
  DEFAULT_RETRIES,
  DEFAULT_TIMEOUTS,
  type BalancingSettings,
  type Fault,
  type LimitSettings,
  type OutlierSettings,
  type RateLimit,
  type RetrySettings,
  type ServiceTraffic,
  type TimeoutSettings,
  type TrafficLayer,
  type TrafficScope,
  type TrafficSettings,
} from '../core/traffic-policy.ts';

/** Who a request is for, as far as policies can tell. */
export interface TrafficTarget {
  readonly port: number;
  /** Undefined: no route was chosen. */
  readonly route: Pick<RouteRef, 'kind' | 'namespace' | 'name'> | undefined;
  /** Name of the rule; empty when it has none. */
  readonly rule: string;
}

/** All sections, with defaults where no layer has one. */
export interface MergedTraffic {
  readonly retries: RetrySettings;
  readonly timeouts: TimeoutSettings;
  readonly balancing: BalancingSettings;
  readonly limits: LimitSettings;
  /** Undefined: off. */
  readonly outliers: OutlierSettings | undefined;
  readonly rateLimits: readonly RateLimit[];
  /** The layer that the rate limits come from, as a text; what is counted is counted per such layer. */
  readonly rateLimitScope: string;
  readonly faults: readonly Fault[];
}

/** Strongest first. */
const STRENGTH: readonly TrafficScope['kind'][] = [
  'rule',
  'route',
  'port',
  'service',
  'gateway',
  'namespace',
];

/** `undefined`: nothing is configured for the service. */
export function mergeTraffic(
  traffic: ServiceTraffic | undefined,
  target: TrafficTarget,
): MergedTraffic {
  const layers = (traffic?.layers ?? [])
    .filter(({ scope }) => covers(scope, target))
    .toSorted((a, b) => STRENGTH.indexOf(a.scope.kind) - STRENGTH.indexOf(b.scope.kind));
  const section = <K extends keyof TrafficSettings>(key: K): TrafficSettings[K] | undefined =>
    layers.find(({ settings }) => settings[key] !== undefined)?.settings[key];
  const retries = section('retries') ?? DEFAULT_RETRIES;
  const budget = section('budget');
  const limited = layers.find(({ settings }) => settings.rateLimits !== undefined);
  return {
    retries: budget === undefined ? retries : { ...retries, budget },
    timeouts: section('timeouts') ?? DEFAULT_TIMEOUTS,
    balancing: section('balancing') ?? DEFAULT_BALANCING,
    limits: section('limits') ?? DEFAULT_LIMITS,
    outliers: section('outliers'),
    rateLimits: limited?.settings.rateLimits ?? [],
    rateLimitScope: limited === undefined ? '' : formatScope(limited),
    faults: section('faults') ?? [],
  };
}

function covers(scope: TrafficScope, target: TrafficTarget): boolean {
  switch (scope.kind) {
    case 'namespace':
    case 'gateway':
    case 'service':
      return true;
    case 'port':
      return scope.port === target.port;
    case 'route':
    case 'rule': {
      const { route } = target;
      return (
        route !== undefined &&
        route.kind === scope.routeKind &&
        route.namespace === scope.namespace &&
        route.name === scope.name &&
        (scope.kind === 'route' || (scope.rule !== '' && scope.rule === target.rule))
      );
    }
  }
}

function formatScope({ scope, source }: TrafficLayer): string {
  switch (scope.kind) {
    case 'namespace':
    case 'gateway':
    case 'service':
      return `${scope.kind}/${source}`;
    case 'port':
      return `port/${scope.port}/${source}`;
    case 'route':
      return `${scope.routeKind}/${scope.namespace}/${scope.name}/${source}`;
    case 'rule':
      return `${scope.routeKind}/${scope.namespace}/${scope.name}/${scope.rule}/${source}`;
  }
}
