/** Traffic settings for tests: short to write, complete in type. */

import {
  NO_TRAFFIC_SETTINGS,
  type RateLimit,
  type ServiceTraffic,
  type TrafficLayer,
  type TrafficScope,
  type TrafficSettings,
} from '../../src/core/traffic-policy.ts';
import { key } from '../state/build.ts';

export function layer(scope: TrafficScope, settings: Partial<TrafficSettings>): TrafficLayer {
  return { scope, source: 'shop/p', settings: { ...NO_TRAFFIC_SETTINGS, ...settings } };
}

export function traffic(name: string, ...layers: TrafficLayer[]): ServiceTraffic {
  return { key: key(name), layers };
}

export function rateLimit(more: Partial<RateLimit> = {}): RateLimit {
  return {
    name: 'l',
    key: { kind: 'all' },
    requests: 1,
    intervalMs: 60_000,
    burst: 1,
    shared: false,
    onFailure: 'local',
    ...more,
  };
}
