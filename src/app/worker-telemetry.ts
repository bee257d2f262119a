/** Log, access log and traffic counters of a worker, joined. */

import type { Clock } from '../base/clock.ts';
import type { ConnectionReporter } from '../core/connection-record.ts';
import type { TrafficDelta } from '../discovery/codec-local.ts';
import { createAccessLog } from '../telemetry/access-log.ts';
import { createConnectionReporter } from '../telemetry/connection-reporter.ts';
import { createMetricReports } from '../telemetry/metric-reports.ts';
import { createProcessGauges } from '../telemetry/process-gauges.ts';
import { createProcessTelemetry, type ProcessTelemetry } from './process-telemetry.ts';

export interface WorkerTelemetry extends ProcessTelemetry {
  readonly reporter: ConnectionReporter;
  /** Hands what was counted since the last success to the agent; all of it on a new `stream`. */
  deliver(send: (delta: TrafficDelta) => Promise<boolean>, stream: number): Promise<void>;
}

export function createWorkerTelemetry(clock: Clock, level: string, slot: string): WorkerTelemetry {
  const telemetry = createProcessTelemetry(clock, `worker-${slot}`, level, {});
  const { store, logger } = telemetry;
  const gauges = createProcessGauges(clock, store, `worker-${slot}`);
  const reports = createMetricReports(
    store,
    `${slot}-${process.pid}-${Math.round(clock.wallMs())}`,
  );
  return {
    ...telemetry,
    reporter: createConnectionReporter(store, createAccessLog(logger)),
    deliver(send, stream) {
      gauges.observe();
      return reports.deliver(send, stream);
    },
  };
}
