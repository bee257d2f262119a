/** Log, registry and metrics port of an agent, which adds up what its workers count. */

import { join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import type { TrafficDelta } from '../discovery/codec-local.ts';
import { createProcessGauges } from '../telemetry/process-gauges.ts';
import { createTotalsFile } from '../telemetry/totals-file.ts';
import { WORKER_FAMILIES } from '../telemetry/worker-metrics.ts';
import { createWorkerTotals } from '../telemetry/worker-totals.ts';
import type { NodeConfig } from './config/settings.ts';
import { createProcessTelemetry, type ProcessTelemetry } from './process-telemetry.ts';

const GAUGES_MS = 5000;

export interface AgentTelemetry extends ProcessTelemetry {
  onTraffic(worker: string, delta: TrafficDelta): void;
  onWorkerGone(worker: string): void;
}

export async function createAgentTelemetry(
  clock: Clock,
  config: NodeConfig,
): Promise<AgentTelemetry> {
  const { nodeName, logLevel } = config;
  const telemetry = createProcessTelemetry(clock, 'agent', logLevel, { node: nodeName });
  const { store, logger } = telemetry;
  const totals = createWorkerTotals(store, WORKER_FAMILIES);
  const file = createTotalsFile(clock, logger, join(config.runDir, 'totals.json'), totals);
  await file.load();
  const gauges = createProcessGauges(clock, store, 'agent');
  clock.every(GAUGES_MS, () => gauges.observe());
  /** The life that a worker's slot has now: its counts are kept when it ends, its gauges are not. */
  const lives = new Map<string, string>();
  return {
    ...telemetry,
    onTraffic(worker, delta) {
      const before = lives.get(worker);
      if (before !== undefined && before !== delta.worker) totals.forget(before);
      lives.set(worker, delta.worker);
      totals.apply(delta);
    },
    onWorkerGone(worker) {
      const life = lives.get(worker);
      if (life !== undefined) totals.forget(life);
      lives.delete(worker);
      // What a dead worker counted is in nobody else's memory.
      void file.save();
    },
  };
}
