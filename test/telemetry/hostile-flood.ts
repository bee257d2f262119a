/** T108, G28: connections to ever new host names, short for each run and long for the soak. */

import { createFakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createAccessLog } from '../../src/telemetry/access-log.ts';
import { createConnectionReporter } from '../../src/telemetry/connection-reporter.ts';
import { createSeriesStore } from '../../src/telemetry/series-store.ts';
import { TRAFFIC_FAMILIES } from '../../src/telemetry/traffic-metrics.ts';
import { buildEdgeTo, buildRecord } from './connection-builder.ts';

export interface FloodResult {
  readonly seriesAfterWarmUp: number;
  readonly seriesAtEnd: number;
  readonly heapGrownBytes: number;
  /** Sums over all series. */
  readonly openedCount: number;
  readonly closedCount: number;
  /** Of the series named `other`. */
  readonly otherCount: number;
}

export function floodWithHosts(warmUpCount: number, hostCount: number): FloodResult {
  const store = createSeriesStore(createFakeClock());
  const reporter = createConnectionReporter(store, createAccessLog(createNullLogger()));
  const flood = (from: number, to: number): void => {
    for (let n = from; n < to; n++) {
      const edge = buildEdgeTo(`host-${n}.evil.example`);
      reporter.opened(edge);
      reporter.ended(buildRecord({ edge, flag: n % 3 === 0 ? 'RESET' : '-' }), 0, 0);
    }
  };
  flood(0, warmUpCount);
  const seriesAfterWarmUp = store.seriesCount;
  const heapBefore = process.memoryUsage().heapUsed;
  flood(warmUpCount, hostCount);
  const heapGrownBytes = process.memoryUsage().heapUsed - heapBefore;
  const seriesOf = (name: string) => [...(store.families.get(name)?.series.values() ?? [])];
  const sum = (name: string): number =>
    seriesOf(name).reduce((total, { value }) => total + value, 0);
  const opened = TRAFFIC_FAMILIES.opened.name;
  const others = seriesOf(opened).filter(({ labels }) =>
    labels.every((label) => label === 'other'),
  );
  return {
    seriesAfterWarmUp,
    seriesAtEnd: store.seriesCount,
    heapGrownBytes,
    openedCount: sum(opened),
    closedCount: sum(TRAFFIC_FAMILIES.closed.name),
    otherCount: others[0]?.value ?? 0,
  };
}
