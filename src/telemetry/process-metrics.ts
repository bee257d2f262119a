/**
 * What a process says of itself. The agent and the controller show Node's full set through the Prometheus library;
 * workers, whose metrics travel to the agent, only their memory and how long their loop was blocked.
 */

import { monitorEventLoopDelay } from 'node:perf_hooks';

import {
  collectDefaultMetrics,
  Registry as ClientRegistry,
  type MetricValueWithName,
} from 'prom-client';

import type { Registry } from '../base/metrics.ts';
import { formatLabelPairs, type Exposition } from './exposition.ts';
import type { SeriesStore } from './series-store.ts';
import { EVENTLOOP_LAG, RESIDENT_MEMORY } from './worker-metrics.ts';

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

export interface ProcessGauges {
  /** Sets the gauges from now and from the time since the call before. */
  observe(): void;
  stop(): void;
}

const LAG_RESOLUTION_MS = 20;
const NS_PER_S = 1e9;

/** `processName` is one of a few, such as `worker-0`. */
export function createProcessGauges(store: SeriesStore, processName: string): ProcessGauges {
  const memory = store.series(store.family(RESIDENT_MEMORY), [processName]);
  const lag = store.series(store.family(EVENTLOOP_LAG), [processName]);
  const delay = monitorEventLoopDelay({ resolution: LAG_RESOLUTION_MS });
  delay.enable();
  return {
    observe() {
      try {
        store.set(memory, process.memoryUsage.rss());
      } catch {
        // It reads /proc and throws when no descriptor is free; the last value stays.
      }
      // The histogram holds the whole time between its ticks, which is the resolution plus the delay.
      store.set(lag, Math.max(0, delay.max / NS_PER_S - LAG_RESOLUTION_MS / 1000));
      delay.reset();
    },
    stop: () => void delay.disable(),
  };
}
