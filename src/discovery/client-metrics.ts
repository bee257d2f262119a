/** What a discovery client shows: how old its configuration may be, and which one it is. */

import type { Counter, Gauge, Registry } from '../base/metrics.ts';

export interface DiscoveryClientMetrics {
  readonly version: Gauge;
  readonly responses: Counter;
  readonly rejected: Counter;
  readonly connects: Counter;
}

/** `readAgeSeconds`: 0 while the stream stands, else the time since it was lost. */
export function createDiscoveryClientMetrics(
  registry: Registry,
  readAgeSeconds: () => number,
): DiscoveryClientMetrics {
  registry.observedGauge(
    {
      name: 'nodemesh_config_age_seconds',
      help: 'Time since the configuration stream was lost, 0 while it stands',
    },
    readAgeSeconds,
  );
  return {
    version: registry.gauge({
      name: 'nodemesh_config_version',
      help: "The server's version of the configuration that was applied last",
      labels: ['type'],
    }),
    responses: registry.counter({
      name: 'nodemesh_config_responses_total',
      help: 'Discovery responses applied',
      labels: ['type'],
    }),
    rejected: registry.counter({
      name: 'nodemesh_config_rejected_total',
      help: 'Resources that were not accepted; the last good ones stay in use',
      labels: ['type'],
    }),
    connects: registry.counter({
      name: 'nodemesh_config_connects_total',
      help: 'Discovery streams opened or tried',
      labels: ['outcome'],
    }),
  };
}
