/**
 * What a process of the node proxy says of itself in the metrics that travel to the agent: its memory, its processor
 * time and how long its loop was blocked. Without the Prometheus library, which brings `node:http` along.
 */

import { monitorEventLoopDelay } from 'node:perf_hooks';

import type { Clock } from '../base/clock.ts';
import type { SeriesStore } from './series-store.ts';
import { CPU_CORES, EVENTLOOP_LAG, RESIDENT_MEMORY } from './worker-metrics.ts';

export interface ProcessGauges {
  /** Sets the gauges from now and from the time since the call before. */
  observe(): void;
  stop(): void;
}

const LAG_RESOLUTION_MS = 20;
const NS_PER_S = 1e9;
const US_PER_MS = 1e3;

/** `processName` is one of a few, such as `worker-0`. */
export function createProcessGauges(
  clock: Clock,
  store: SeriesStore,
  processName: string,
): ProcessGauges {
  const memory = store.series(store.family(RESIDENT_MEMORY), [processName]);
  const cores = store.series(store.family(CPU_CORES), [processName]);
  let usage = process.cpuUsage();
  let usageMs = clock.nowMs();
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
      const nowMs = clock.nowMs();
      if (nowMs > usageMs) {
        const { user, system } = process.cpuUsage(usage);
        store.set(cores, (user + system) / US_PER_MS / (nowMs - usageMs));
        usage = process.cpuUsage();
        usageMs = nowMs;
      }
      // The histogram holds the whole time between its ticks, which is the resolution plus the delay.
      store.set(lag, Math.max(0, delay.max / NS_PER_S - LAG_RESOLUTION_MS / 1000));
      delay.reset();
    },
    stop: () => void delay.disable(),
  };
}
