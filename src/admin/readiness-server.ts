/**
 * Readiness on port 15021: `GET /healthz/ready` answers 200 when nothing blocks, else 503, with the blockers by
 * name as JSON either way, read anew for each request. `GET /healthz/live` answers 200 as long as anybody answers:
 * whatever is missing outside, a restart would not bring it. Read only, bounded; a port that is taken (by the predecessor
 * of an upgrade) is tried again until it is free.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { listenForProbes, type ProbeAnswer, type ProbeResponder } from './probe-responder.ts';

/** What the answer is made of; further fields, such as pods and workers, are shown as they are. */
export interface Readiness {
  readonly blockers: readonly string[];
}

export interface ReadinessServerOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Usually `PORTS.readiness`; 0: any that is free. */
  readonly port: number;
  /** Default `::`, which is IPv4 as well. */
  readonly host?: string;
  readonly status: () => Readiness;
}

export interface ReadinessServer {
  /** Resolves to the port once it listens; never after `close`. */
  readonly listening: Promise<number>;
  close(): void;
}

const RETRY_MS = 250;
const PATH = '/healthz/ready';
const LIVE_PATH = '/healthz/live';

export function createReadinessServer(options: ReadinessServerOptions): ReadinessServer {
  const { clock, logger, port, host = '::', status } = options;
  const { promise: listening, resolve } = Promise.withResolvers<number>();
  let isClosed = false;
  let hasComplained = false;
  let retry: Timer | undefined;
  let server: ProbeResponder | undefined;
  const answer = (): ProbeAnswer => {
    const readiness = status();
    return {
      status: readiness.blockers.length === 0 ? 200 : 503,
      contentType: 'application/json; charset=utf-8',
      body: `${JSON.stringify(readiness)}\n`,
    };
  };
  const alive = (): ProbeAnswer => ({
    status: 200,
    contentType: 'text/plain; charset=utf-8',
    body: 'alive\n',
  });
  const open = (): void => {
    const routes = new Map([
      [PATH, answer],
      [LIVE_PATH, alive],
    ]);
    listenForProbes({ clock, host, port, logger, routes }).then(
      (opened) => {
        server = opened;
        if (isClosed) opened.close();
        else resolve(opened.port);
      },
      (error: unknown) => {
        if (isClosed) return;
        if (!hasComplained) logger.warn('Cannot serve readiness yet', { port, error });
        hasComplained = true;
        retry = clock.after(RETRY_MS, open);
      },
    );
  };
  open();
  return {
    listening,
    close() {
      isClosed = true;
      retry?.cancel();
      server?.close();
    },
  };
}
