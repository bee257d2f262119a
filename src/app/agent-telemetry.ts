/** Log, registry and metrics port of an agent, joined. */

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { createNullRegistry, type Registry } from '../base/metrics.ts';
import type { TrafficDelta } from '../discovery/codec-local.ts';
import { createLogger } from '../telemetry/logger.ts';
import { createLogWriter } from '../telemetry/log-writer.ts';
import type { NodeConfig } from './config/settings.ts';

export interface AgentTelemetry {
  readonly logger: Logger;
  readonly registry: Registry;
  readonly onTraffic: (worker: string, delta: TrafficDelta) => void;
  openServer(): void;
  closeServer(): void;
}

export function createAgentTelemetry(clock: Clock, config: NodeConfig): AgentTelemetry {
  const writer = createLogWriter(clock, 1);
  const logger = createLogger({
    clock,
    writer,
    level: config.logLevel,
    fields: { component: 'agent', node: config.nodeName },
  });
  return {
    logger,
    registry: createNullRegistry(),
    onTraffic: () => {},
    openServer: () => {},
    closeServer: () => {},
  };
}
