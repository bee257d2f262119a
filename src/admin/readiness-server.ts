/**
 * Readiness on port 15021: `GET /healthz/ready` answers 200 when nothing blocks, else 503, with the blockers by
 * name as JSON either way. Read only, bounded; a port that is taken (by the predecessor of an upgrade) is tried
 * again until it is free.
 */

import { createServer, type Server } from 'node:http';

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';

/** What the answer is made of; further fields are shown as they are. */
export interface Readiness {
  readonly blockers: readonly string[];
}

export interface ReadinessServerOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly port: number;
  readonly status: () => Readiness;
}

const CONNECTIONS_MAX = 64;
const REQUEST_TIMEOUT_MS = 5000;
const HEADERS_MAX_BYTES = 8192;
const RETRY_MS = 250;

export function createReadinessServer(options: ReadinessServerOptions): { close(): void } {
  const { clock, logger, port } = options;
  let closed = false;
  let retry: Timer | undefined;
  const server: Server = createServer(
    {
      requestTimeout: REQUEST_TIMEOUT_MS,
      headersTimeout: REQUEST_TIMEOUT_MS,
      maxHeaderSize: HEADERS_MAX_BYTES,
      keepAlive: false,
    },
    (request, response) => {
      response.setHeader('content-type', 'application/json');
      response.setHeader('connection', 'close');
      if (request.method !== 'GET' || request.url !== '/healthz/ready') {
        response.statusCode = request.method === 'GET' ? 404 : 405;
        response.end('{}\n');
        return;
      }
      const status = options.status();
      response.statusCode = status.blockers.length === 0 ? 200 : 503;
      response.end(`${JSON.stringify(status)}\n`);
    },
  );
  server.maxConnections = CONNECTIONS_MAX;
  const listen = (): void => void server.listen({ port, host: '::' });
  server.on('error', (error: NodeJS.ErrnoException) => {
    if (closed) return;
    if (error.code !== 'EADDRINUSE') {
      logger.error('cannot serve readiness', { port, error: error.message });
    }
    retry = clock.after(RETRY_MS, listen);
  });
  listen();
  return {
    close() {
      closed = true;
      retry?.cancel();
      server.close();
      server.closeAllConnections();
    },
  };
}
