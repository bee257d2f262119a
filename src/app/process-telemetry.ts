/** Log, registry and metrics port of one process, joined: the shape every program shares. */

import { serveAdmin } from '../admin/admin-server.ts';
import type { Clock } from '../base/clock.ts';
import type { LogFields } from '../base/logger.ts';
import { createLogger, isLogLevel, LOG_LEVELS, type RootLogger } from '../telemetry/logger.ts';
import { createLogWriter, type LogWriter } from '../telemetry/log-writer.ts';
import type { ProcessMetrics } from '../telemetry/process-metrics.ts';
import type { ReadOnlyServer } from '../telemetry/read-only-server.ts';
import { createHistogramStore, type HistogramStore } from '../telemetry/histogram-store.ts';
import { createRegistry, type MetricRegistry } from '../telemetry/registry.ts';
import { createSeriesStore, type SeriesStore } from '../telemetry/series-store.ts';
import { LOG_LINES_DROPPED } from '../telemetry/worker-metrics.ts';

export interface ProcessTelemetry {
  readonly logger: RootLogger;
  readonly store: SeriesStore;
  readonly histograms: HistogramStore;
  readonly registry: MetricRegistry;
  readonly writer: LogWriter;
  /** Opens the metrics port; a port that is taken (by a predecessor) is tried again until it is free. */
  serveMetrics(port: number): void;
  close(): void;
}

const RETRY_MS = 500;
const STDOUT = 1;

export function createProcessTelemetry(
  clock: Clock,
  component: string,
  level: string,
  fields: LogFields,
): ProcessTelemetry {
  const store = createSeriesStore(clock);
  const histograms = createHistogramStore(store);
  const registry = createRegistry(store, histograms);
  const dropped = store.series(store.family(LOG_LINES_DROPPED), [component]);
  const writer = createLogWriter(clock, STDOUT, () => store.add(dropped, 1));
  // Also after an error that nobody caught.
  process.once('exit', () => writer.flushSync());
  const logger = createLogger({
    clock,
    writer,
    level: isLogLevel(level) ? level : 'info',
    fields: { component, ...fields },
  });
  let closed = false;
  let server: ReadOnlyServer | undefined;
  let processMetrics: ProcessMetrics | undefined;
  // A worker has no such port, and does without these libraries.
  const serve = async (port: number): Promise<ReadOnlyServer> => {
    const { createProcessMetrics } = await import('../telemetry/process-metrics.ts');
    const { serveMetrics } = await import('../telemetry/metrics-server.ts');
    // It observes the process: once, however often the port is tried.
    processMetrics ??= createProcessMetrics();
    return serveMetrics({ host: '::', port, logger, registry, processMetrics });
  };
  const open = (port: number): void => {
    if (closed) return;
    serve(port).then(
      (opened) => {
        server = opened;
        if (closed) void opened.close();
      },
      (error: unknown) => {
        // A listener that fails says so itself.
        const loudness = processMetrics === undefined ? 'error' : 'debug';
        logger[loudness]('cannot serve metrics yet', { port, error });
        clock.after(RETRY_MS, () => open(port));
      },
    );
  };
  return {
    logger,
    store,
    histograms,
    registry,
    writer,
    serveMetrics: open,
    close() {
      closed = true;
      void server?.close();
      writer.flushSync();
    },
  };
}

/** The admin socket of a process: dumps and the log level, for root on this machine only (T110). */
export async function serveProcessAdmin(
  path: string,
  telemetry: Pick<ProcessTelemetry, 'logger'>,
  sections: Iterable<readonly [string, () => unknown]>,
): Promise<void> {
  const { logger } = telemetry;
  try {
    await serveAdmin({
      path,
      logger,
      sections: new Map(sections),
      logging: {
        levels: LOG_LEVELS,
        level: () => logger.level,
        setLevel(level) {
          if (isLogLevel(level)) logger.setLevel(level);
        },
      },
    });
  } catch (error) {
    // Nobody's traffic depends on it.
    logger.warn('cannot serve the admin socket', { path, error });
  }
}
