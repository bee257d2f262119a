/** What the discovery server counts. Types are those of the views, so the label set is closed. */

import type { Counter, Gauge, Registry } from '../base/metrics.ts';

export interface DiscoveryServerMetrics {
  readonly clients: Gauge;
  readonly pushes: Counter;
  readonly resources: Counter;
  readonly nacks: Counter;
  readonly refused: Counter;
}

export function createDiscoveryServerMetrics(registry: Registry): DiscoveryServerMetrics {
  return {
    clients: registry.gauge({
      name: 'nodemesh_discovery_clients',
      help: 'Discovery streams that are open now',
    }),
    pushes: registry.counter({
      name: 'nodemesh_discovery_pushes_total',
      help: 'Discovery responses sent',
      labels: ['type'],
    }),
    resources: registry.counter({
      name: 'nodemesh_discovery_resources_total',
      help: 'Resources sent in discovery responses, removed ones among them',
      labels: ['type'],
    }),
    nacks: registry.counter({
      name: 'nodemesh_discovery_nacks_total',
      help: 'Discovery responses that a client rejected in part or whole',
      labels: ['type'],
    }),
    refused: registry.counter({
      name: 'nodemesh_discovery_refused_total',
      help: 'Discovery streams refused or ended by us',
      labels: ['reason'],
    }),
  };
}
