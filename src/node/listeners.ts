/**
 * The listeners of one pod in one worker: 15001, 15006 and 15008. A listener the slot's previous worker left
 * behind is taken over from the supervisor with everything that waits in it; otherwise a new one joins the
 * port's group, and the supervisor is told so that it can keep a duplicate.
 *
 * Accepted sockets arrive paused: whoever serves them decides when reading begins. When descriptors run short
 * the accept guard parks the listeners: Node cannot stop accepting on a server it has, so the server is closed
 * while a duplicate keeps the listening socket and its queue, and a new server is made on the duplicate later.
 */

import { createServer, type Server, type Socket } from 'node:net';

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { PORTS, type PodUid } from '../core/pod.ts';
import { LISTENER_BACKLOG_DEFAULT } from '../linux/sockets.ts';
import type { AcceptGuard } from './accept-guard.ts';
import type { HeldListener } from './messages.ts';
import { descriptorOf } from '../linux/descriptors.ts';

/** What a listener needs from outside. */
export interface ListenerSource {
  /** A descriptor of ours for a listener the supervisor holds; undefined if it holds none. */
  adopt(pod: PodUid, port: number): number | undefined;
  /** A new listening descriptor in the pod's namespace. */
  create(port: number): number;
  /** A new listener stands: the supervisor duplicates it. */
  created(listener: Omit<HeldListener, 'netnsInode'>): void;
  /** Another descriptor of ours for the same socket. */
  duplicate(fd: number): number;
  close(fd: number): void;
}

export type Accept = (port: number, socket: Socket) => void;

export interface PodListenersOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly guard: AcceptGuard;
  readonly pod: PodUid;
  readonly source: ListenerSource;
  readonly accept: Accept;
  readonly onChange: () => void;
}

export interface PodListeners {
  /** All ports listen. */
  readonly listening: boolean;
  /** Closes and makes them anew: the supervisor has shut the old ones down. */
  renew(): void;
  /** Stops accepting. What waits in the queues moves to the port's other listeners. Idempotent. */
  close(): void;
}

const CAPTURE_PORTS = [PORTS.outbound, PORTS.inboundPassthrough, PORTS.hbone] as const;
const RETRY_MS = 500;
/** The supervisor takes a duplicate by number, so we keep a descriptor with a number of its own for so long. */
const HANDOVER_MS = 5000;

interface Listener {
  readonly port: number;
  server: Server | undefined;
  /** Keeps the socket while there is no server. */
  parked: number | undefined;
  /** What the supervisor is duplicating. */
  offered: number | undefined;
  ready: boolean;
}

export function openPodListeners(options: PodListenersOptions): PodListeners {
  const { clock, logger, guard, pod, source, accept, onChange } = options;
  const listeners = new Map<number, Listener>();
  let closed = false;

  const withdraw = (listener: Listener): void => {
    const { offered } = listener;
    listener.offered = undefined;
    if (offered !== undefined) source.close(offered);
  };

  /** The server's own descriptor may be closed by parking before the supervisor gets to it. */
  const offer = (listener: Listener, fd: number): void => {
    try {
      const offered = source.duplicate(fd);
      listener.offered = offered;
      source.created({ pod, port: listener.port, fd: offered });
      clock.after(HANDOVER_MS, () => withdraw(listener));
    } catch (error) {
      logger.warn('cannot offer a listener; its queue dies with this worker', {
        pod,
        port: listener.port,
        error: String(error),
      });
    }
  };

  const serve = (listener: Listener, fd: number, isNew: boolean): void => {
    const { port } = listener;
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
    listener.server = server;
    server.on('error', (error) => {
      if (listener.server !== server) return;
      logger.warn('a listener failed; making another', { pod, port, error: error.message });
      drop(listener);
      onChange();
      clock.after(RETRY_MS, () => open(port, false));
    });
    server.on('connection', (socket) => {
      const accepted = acceptedDescriptor(socket);
      accept(port, socket);
      // After it was served, so that its far half counts too.
      if (accepted !== undefined) guard.accepted(accepted);
    });
    // Node calls listen(2) again; without a backlog that would cut the queue to 511.
    server.listen({ fd, backlog: LISTENER_BACKLOG_DEFAULT }, () => {
      if (listener.server !== server || listener.ready) return;
      listener.ready = true;
      if (isNew) offer(listener, descriptorOf(server));
      // Descriptors ran short before it was there to be told.
      if (guard.paused) park(listener);
      onChange();
    });
  };

  const open = (port: number, mayAdopt: boolean): void => {
    if (closed || listeners.has(port)) return;
    try {
      const adopted = mayAdopt ? source.adopt(pod, port) : undefined;
      const fd = adopted ?? source.create(port);
      const listener: Listener = {
        port,
        server: undefined,
        parked: undefined,
        offered: undefined,
        ready: false,
      };
      listeners.set(port, listener);
      serve(listener, fd, adopted === undefined);
    } catch (error) {
      logger.warn('cannot listen in a pod; trying again', { pod, port, error: String(error) });
      clock.after(RETRY_MS, () => open(port, false));
    }
  };

  const drop = (listener: Listener): void => {
    listeners.delete(listener.port);
    const { server, parked } = listener;
    listener.server = undefined;
    listener.parked = undefined;
    server?.close();
    if (parked !== undefined) source.close(parked);
    withdraw(listener);
  };

  const park = (listener: Listener): void => {
    const { server } = listener;
    if (server === undefined || !listener.ready) return;
    try {
      listener.parked = source.duplicate(descriptorOf(server));
    } catch (error) {
      logger.warn('cannot pause a listener', { pod, port: listener.port, error: String(error) });
      return;
    }
    listener.server = undefined;
    server.close();
  };

  const leave = guard.join({
    pause() {
      for (const listener of listeners.values()) park(listener);
    },
    resume() {
      for (const listener of listeners.values()) {
        const { parked } = listener;
        listener.parked = undefined;
        if (parked !== undefined) serve(listener, parked, false);
      }
    },
  });

  const dropAll = (): void => {
    for (const listener of listeners.values()) drop(listener);
  };

  for (const port of CAPTURE_PORTS) open(port, true);
  return {
    get listening() {
      return CAPTURE_PORTS.every((port) => listeners.get(port)?.ready === true);
    },
    renew() {
      dropAll();
      for (const port of CAPTURE_PORTS) open(port, false);
    },
    close() {
      closed = true;
      leave();
      dropAll();
    },
  };
}

/** Undefined when the connection has ended already. */
function acceptedDescriptor(socket: Socket): number | undefined {
  try {
    return descriptorOf(socket);
  } catch {
    return undefined;
  }
}
