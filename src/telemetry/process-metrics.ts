/** What a process with a metrics port says of itself: Node's full set, through the Prometheus library. */

import {
  collectDefaultMetrics,
  Registry as ClientRegistry,
  type MetricValueWithName,
} from 'prom-client';

import type { Registry } from '../base/metrics.ts';
import { formatLabelPairs, type Exposition } from './exposition.ts';

export interface ProcessMetrics {
  /** Reads them now. */
  expositions(): Promise<Exposition[]>;
}

/** One for a process: the library hooks into garbage collection and the event loop. */
export function createProcessMetrics(): ProcessMetrics {
  const registry = new ClientRegistry();
  collectDefaultMetrics({ register: registry });
  return {
    async expositions() {
      const metrics = await registry.getMetricsAsJSON();
      return metrics.flatMap((metric): Exposition[] => {
        const { name, help, type } = metric;
        // The library's gauges named like counters would break the OpenMetrics text.
        if (type !== 'counter' && name.endsWith('_total')) return [];
        // Its types promise labels and values; some metrics come without.
        const values = metric.values as Partial<MetricValueWithName<string>>[] | undefined;
        const samples = (values ?? []).map((sample) => ({
          name: sample.metricName ?? name,
          labelText: formatLabelPairs(sample.labels ?? {}),
          value: sample.value ?? 0,
        }));
        return [{ name, help, type, samples }];
      });
    },
  };
}

/** Says which program and version this is, under the name that Istio's tools ask for. */
export function declareBuild(registry: Registry, component: string, tag: string): void {
  const help = 'Always 1; the labels tell the program and its version';
  registry
    .gauge({ name: 'istio_build', help, labels: ['component', 'tag'] })
    .set(1, [component, tag]);
}
