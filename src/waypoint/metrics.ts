/** What a waypoint counts of itself, besides its requests. */

import type { Counter, Registry } from '../base/metrics.ts';

export interface WaypointMetrics {
  /** Connections on ports that nobody declared, by what they turned out to speak. */
  readonly detected: Counter;
}

export function createWaypointMetrics(registry: Registry): WaypointMetrics {
  return {
    detected: registry.counter({
      name: 'nodemesh_waypoint_detected_connections_total',
      help: 'Connections on ports without a declared protocol, by what their first bytes said',
      labels: ['protocol'],
    }),
  };
}
