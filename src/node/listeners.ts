/**
 * The listeners of one pod in one worker: 15001, 15006 and 15008. A listener the slot's previous worker left
 * behind is taken over from the supervisor with everything that waits in it; otherwise a new one joins the
 * port's group, and the supervisor is told so that it can keep a duplicate.
 *
 * Accepted sockets arrive paused: whoever serves them decides when reading begins. When descriptors run out
 * Node stops accepting by itself and the kernel's queue waits; see `accept-errors` in worker.ts.
 */

import { createServer, type Server, type Socket } from 'node:net';

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { PORTS, type PodUid } from '../core/pod.ts';
import type { HeldListener } from './messages.ts';
import { descriptorOf } from '../linux/descriptors.ts';

/** What a listener needs from outside. */
export interface ListenerSource {
  /** A descriptor of ours for a listener the supervisor holds; undefined if it holds none. */
  adopt(pod: PodUid, port: number): number | undefined;
  /** A new listening descriptor in the pod's namespace. */
  create(port: number): number;
  /** A new listener stands: the supervisor duplicates it. */
  created(listener: HeldListener): void;
}

export type Accept = (port: number, socket: Socket) => void;

export interface PodListeners {
  /** All ports accept. */
  readonly listening: boolean;
  /** Closes and makes them anew: the supervisor has shut the old ones down. */
  renew(): void;
  /** Stops accepting. What waits in the queues moves to the port's other listeners. Idempotent. */
  close(): void;
}

const CAPTURE_PORTS = [PORTS.outbound, PORTS.inboundPassthrough, PORTS.hbone] as const;
const RETRY_MS = 500;

export function openPodListeners(
  clock: Clock,
  logger: Logger,
  pod: PodUid,
  source: ListenerSource,
  accept: Accept,
  onChange: () => void,
): PodListeners {
  const servers = new Map<number, Server>();
  const ready = new Set<number>();
  let closed = false;

  const open = (port: number, mayAdopt: boolean): void => {
    if (closed) return;
    let fd: number;
    let adopted: number | undefined;
    try {
      adopted = mayAdopt ? source.adopt(pod, port) : undefined;
      fd = adopted ?? source.create(port);
    } catch (error) {
      logger.warn('cannot listen in a pod; trying again', { pod, port, error: String(error) });
      clock.after(RETRY_MS, () => open(port, false));
      return;
    }
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    servers.set(port, server);
    server.on('error', (error) => {
      if (servers.get(port) !== server) return;
      logger.warn('a listener failed; making another', { pod, port, error: error.message });
      ready.delete(port);
      servers.delete(port);
      server.close();
      onChange();
      clock.after(RETRY_MS, () => open(port, false));
    });
    server.on('connection', (socket) => accept(port, socket));
    server.listen({ fd }, () => {
      if (servers.get(port) !== server) return;
      ready.add(port);
      if (adopted === undefined) source.created({ pod, port, fd: descriptorOf(server) });
      onChange();
    });
  };

  const closeServers = (): void => {
    for (const server of servers.values()) server.close();
    servers.clear();
    ready.clear();
  };

  for (const port of CAPTURE_PORTS) open(port, true);
  return {
    get listening() {
      return ready.size === CAPTURE_PORTS.length;
    },
    renew() {
      closeServers();
      for (const port of CAPTURE_PORTS) open(port, false);
    },
    close() {
      closed = true;
      closeServers();
    },
  };
}
