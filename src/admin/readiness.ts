/**
 * Readiness, told truthfully: 200 only when nothing blocks, else 503 and what does. Blockers are named, by pod and by
 * worker where they belong to one, and read anew for each request.
 */

import type { Logger } from '../base/logger.ts';
import { listenReadOnly, type ReadOnlyServer } from '../telemetry/read-only-server.ts';

/** What keeps something from being ready, such as `no configuration yet`; empty when nothing does. */
export type Blockers = readonly string[];

export interface Readiness {
  /** Of the process or the node as a whole. */
  readonly blockers: Blockers;
  /** By `namespace/name`. A pod that is not ready does not make the node unready. */
  readonly pods: ReadonlyMap<string, Blockers>;
  /** By worker, such as `0`. */
  readonly workers: ReadonlyMap<string, Blockers>;
}

export interface ReadinessServerOptions {
  readonly host: string;
  /** Usually `PORTS.readiness`. */
  readonly port: number;
  readonly logger: Logger;
  readonly read: () => Readiness;
}

/** The body shows this many pods, those that are blocked first; the count shows all. */
const PODS_SHOWN_MAX = 500;
const BLOCKERS_SHOWN_MAX = 16;

function show(things: ReadonlyMap<string, Blockers>, max: number): Record<string, Blockers> {
  const blockedFirst = [...things].toSorted(([, a], [, b]) => b.length - a.length).slice(0, max);
  return Object.fromEntries(
    blockedFirst.map(([name, blockers]) => [name, blockers.slice(0, BLOCKERS_SHOWN_MAX)]),
  );
}

/**
 * `GET /healthz/ready`. Ready: no blocker of its own, and at least one worker, if there are workers, without any.
 * Resolves when it listens.
 */
export function serveReadiness(options: ReadinessServerOptions): Promise<ReadOnlyServer> {
  const { host, port, logger, read } = options;
  const answer = () => {
    const { blockers, pods, workers } = read();
    const free = [...workers.values()].filter((list) => list.length === 0);
    const all =
      free.length > 0 || workers.size === 0 ? blockers : [...blockers, 'no worker is ready'];
    const body = {
      ready: all.length === 0,
      blockers: all.slice(0, BLOCKERS_SHOWN_MAX),
      workers: show(workers, workers.size),
      podCount: pods.size,
      podsReady: [...pods.values()].filter((list) => list.length === 0).length,
      pods: show(pods, PODS_SHOWN_MAX),
    };
    return {
      status: body.ready ? 200 : 503,
      contentType: 'application/json; charset=utf-8',
      body: [`${JSON.stringify(body)}\n`],
    };
  };
  return listenReadOnly({ host, port, logger, routes: new Map([['/healthz/ready', answer]]) });
}
