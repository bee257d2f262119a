/** Log, access log and traffic counters of a worker, joined. */

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { ConnectionReporter } from '../core/connection-record.ts';
import { formatSocketAddress } from '../core/address.ts';
import type { TrafficDelta } from '../discovery/codec-local.ts';
import { createLogger, isLogLevel } from '../telemetry/logger.ts';
import { createLogWriter } from '../telemetry/log-writer.ts';

export interface WorkerTelemetry {
  readonly logger: Logger;
  readonly reporter: ConnectionReporter;
  deliver(send: (delta: TrafficDelta) => Promise<boolean>): void;
}

export function createWorkerTelemetry(clock: Clock, level: string, slot: string): WorkerTelemetry {
  const writer = createLogWriter(clock, 1);
  const logger = createLogger({
    clock,
    writer,
    level: isLogLevel(level) ? level : 'info',
    fields: { component: 'worker', slot },
  });
  const access = logger.child({ log: 'access' });
  return {
    logger,
    reporter: {
      opened: () => {},
      progress: () => {},
      ended(record) {
        const fields = {
          direction: record.direction,
          transport: record.transport,
          'src.addr': formatSocketAddress(record.sourceAddress),
          'src.workload': record.edge.source.workload,
          'src.identity': record.edge.source.principal,
          'dst.addr': formatSocketAddress(record.destinationAddress),
          'dst.hbone_addr': record.hboneAuthority,
          'dst.workload': record.edge.destination.workload,
          'dst.identity': record.edge.destination.principal,
          bytes_sent: record.bytesSent,
          bytes_recv: record.bytesReceived,
          duration: Math.round(record.durationMs),
          flag: record.flag,
          policy: record.policy,
          error: record.error,
        };
        if (record.error === '') access.info('connection complete', fields);
        else access.warn('connection failed', fields);
      },
    },
    deliver: () => {},
  };
}
