/** The scrape endpoint: own series, those summed over workers and Node's process metrics, as one text. */

import type { Logger } from '../base/logger.ts';
import { CONTENT_TYPES, negotiateFormat, renderExpositions } from './exposition.ts';
import type { Exposition } from './exposition.ts';
import type { ProcessMetrics } from './process-metrics.ts';
import { listenReadOnly, type Answer, type ReadOnlyServer } from './read-only-server.ts';
import type { MetricRegistry } from './registry.ts';

export interface MetricsServerOptions {
  readonly host: string;
  /** Usually `PORTS.metrics`. */
  readonly port: number;
  readonly logger: Logger;
  readonly registry: MetricRegistry;
  readonly processMetrics?: ProcessMetrics;
}

/** The second path is where Istio's proxies have it and Kiali looks. */
const PATHS = ['/metrics', '/stats/prometheus'] as const;

/** Resolves when it listens. */
export function serveMetrics(options: MetricsServerOptions): Promise<ReadOnlyServer> {
  const { host, port, logger, registry, processMetrics } = options;
  const scrape = async (accept: string | undefined): Promise<Answer> => {
    const format = negotiateFormat(accept);
    registry.observe();
    const ofProcess = (await processMetrics?.expositions()) ?? [];
    const all = (function* (): Generator<Exposition> {
      yield* registry.expositions();
      yield* ofProcess;
    })();
    return {
      status: 200,
      contentType: CONTENT_TYPES[format],
      body: renderExpositions(all, format),
    };
  };
  return listenReadOnly({
    host,
    port,
    logger,
    routes: new Map(PATHS.map((path) => [path, scrape])),
  });
}
