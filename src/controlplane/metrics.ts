/** The control plane's own metrics; the discovery server and the CA service have theirs. */

import type { Counter, Gauge, Registry } from '../base/metrics.ts';

export interface ControlPlaneMetrics {
  readonly nodes: Gauge;
  readonly addresses: Gauge;
  readonly batches: Counter;
}

export function createControlPlaneMetrics(registry: Registry): ControlPlaneMetrics {
  return {
    nodes: registry.gauge({
      name: 'nodemesh_controller_nodes',
      help: 'Nodes connected to this controller',
    }),
    addresses: registry.gauge({
      name: 'nodemesh_controller_addresses',
      help: 'Workloads and services published to nodes',
    }),
    batches: registry.counter({
      name: 'nodemesh_controller_batches_total',
      help: 'Batches of changes published',
    }),
  };
}
