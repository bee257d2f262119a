/**
 * Sockets of one pod: its listeners and the connections made from inside its network namespace. The namespace
 * is opened once, checked against the inode the agent verified, and closed with `close()`.
 */

import { Socket } from 'node:net';

import type { Clock } from '../base/clock.ts';
import { MeshError, errorFromNode } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import { formatSocketAddress, type IpAddress, type SocketAddress } from '../core/address.ts';
import type { CapturedPod } from '../core/pod.ts';
import { closeDescriptor, descriptorOf } from '../linux/descriptors.ts';
import { openNamespace, ownNamespaceInode, type NetworkNamespace } from '../linux/namespaces.ts';
import { errnoOf, type Native } from '../linux/native.ts';
import type { Endpoint } from '../linux/sockaddr.ts';
import { createConnector, createListener, originalDestination } from '../linux/sockets.ts';
import { parseAddress } from '../core/address.ts';
import { createDialQueue, type DialQueue } from './dial-queue.ts';

/** ztunnel's CONNECTION_TIMEOUT. */
export const CONNECT_TIMEOUT_MS = 10_000;

/**
 * Ports of connections that appear as coming from somebody else's address. Not those that kernels choose by default,
 * 32768 and up: that somebody may come to the same port of the pod itself, in plain text, and if its own kernel had
 * chosen the same number, both would be one connection to the pod's kernel, and the later one would hang (seen).
 */
export const ASSUMED_PORTS = { first: 16_384, count: 16_384 } as const;
/** Then the kernel chooses: who has so many connections between two addresses is better served at risk than not. */
const ASSUMED_TRIES_MAX = 8;
/** Somebody has it: another connection with the same ends, or a listener on every address. */
const TAKEN: ReadonlySet<string> = new Set(['EADDRINUSE', 'EADDRNOTAVAIL']);

export interface DialHandlers {
  /** Connected; reading has not begun. The socket is the callee's from now on. */
  onConnect(socket: Socket): void;
  /** Called once, never after `onConnect`. */
  onError(error: MeshError): void;
}

export interface PodSockets {
  /** A new listening descriptor on `port`, in the port's SO_REUSEPORT group. */
  listen(port: number): number;
  /**
   * Connects from inside the pod, marked as ours. `source`: appear as this address, with one of `ASSUMED_PORTS` if
   * one is free. Returns a function that gives up; after it no handler is called.
   */
  dial(to: SocketAddress, source: IpAddress | undefined, handlers: DialHandlers): () => void;
  close(): void;
}

export function openPodSockets(
  native: Native,
  clock: Clock,
  random: Random,
  captured: CapturedPod,
  queue: DialQueue = createDialQueue(clock, Number.POSITIVE_INFINITY),
): PodSockets {
  const namespace = openVerified(native, captured);
  const context = { native, clock, namespace, queue, nextPort: createPortSequence(random) };
  return {
    listen: (port) => createListener(native, namespace, { port }),
    dial: (to, source, handlers) => dial(context, to, source, handlers),
    close: () => namespace.close(),
  };
}

/** Refuses a path that leads elsewhere than where the agent looked (T47, T122). */
function openVerified(native: Native, captured: CapturedPod): NetworkNamespace {
  const namespace = openNamespace(native, captured.netnsPath);
  const reason =
    namespace.inode === ownNamespaceInode(native)
      ? 'it is our own'
      : namespace.inode === captured.netnsInode
        ? undefined
        : `inode ${namespace.inode}, ${captured.netnsInode} expected`;
  if (reason === undefined) return namespace;
  namespace.close();
  const { namespace: ns, name } = captured.pod;
  const message = `Namespace "${captured.netnsPath}" is not that of pod "${ns}/${name}": ${reason}`;
  throw new MeshError('MESH_NAMESPACE_MISMATCH', message);
}

interface DialContext {
  readonly native: Native;
  readonly clock: Clock;
  readonly namespace: NetworkNamespace;
  readonly queue: DialQueue;
  /** `elsewhere`: not beside the last one, which was taken. */
  readonly nextPort: (elsewhere: boolean) => number;
}

/** In turn, from a random one: each worker has its own, and they are not to meet. */
function createPortSequence(random: Random): (elsewhere: boolean) => number {
  const { first, count } = ASSUMED_PORTS;
  const somewhere = (): number => Math.floor(random.next() * count);
  let index = somewhere();
  return (elsewhere) => {
    index = elsewhere ? somewhere() : (index + 1) % count;
    return first + index;
  };
}

/** Undefined when no descriptor is free for it now. */
function tryConnector(
  { native, namespace, queue }: DialContext,
  to: SocketAddress,
  source: Endpoint | undefined,
): number | undefined {
  const family = to.ip.includes(':') ? 'ipv6' : 'ipv4';
  const from = source === undefined ? {} : { source, transparent: true };
  let fd: number;
  try {
    fd = createConnector(native, namespace, { family, ...from });
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'EMFILE' || errno === 'ENFILE') return undefined;
    throw error;
  }
  if (fd < queue.ceiling) return fd;
  closeDescriptor(native, fd);
  return undefined;
}

function dial(
  context: DialContext,
  to: SocketAddress,
  source: IpAddress | undefined,
  handlers: DialHandlers,
): () => void {
  const { clock } = context;
  const action = `Cannot connect to "${formatSocketAddress(to)}"`;
  let settled = false;
  let taken = 0;
  let socket: Socket | undefined;
  const settle = (): boolean => {
    if (settled) return false;
    settled = true;
    timer.cancel();
    return true;
  };
  const timer = clock.after(CONNECT_TIMEOUT_MS, () => {
    if (!settle()) return;
    const what = socket === undefined ? 'no descriptor was free' : 'no answer';
    socket?.destroy();
    const message = `${action}: ${what} in ${CONNECT_TIMEOUT_MS / 1000} s`;
    handlers.onError(new MeshError('MESH_CONNECT_TIMEOUT', message, { flag: 'CONNECT' }));
  });
  const connect = (fd: number): void => {
    const connecting = new Socket({ fd, allowHalfOpen: true, readable: true, writable: true });
    connecting.on('error', (error: NodeJS.ErrnoException) => {
      if (settled) return;
      if (isTaken(error.code)) context.queue.enter(attempt);
      else if (settle()) handlers.onError(errorFromNode(error, action));
    });
    socket = connecting;
    connecting.once('connect', () => {
      if (!settle()) return;
      connecting.setNoDelay(true);
      handlers.onConnect(connecting);
    });
    connecting.connect({ host: to.ip, port: to.port });
  };
  const from = (): Endpoint | undefined => {
    if (source === undefined) return undefined;
    const port = taken < ASSUMED_TRIES_MAX ? context.nextPort(taken > 0) : 0;
    return { address: source, port };
  };
  /** Counts it: whether to try another port. */
  const isTaken = (errno: string | undefined): boolean =>
    source !== undefined && TAKEN.has(errno ?? '') && taken++ < ASSUMED_TRIES_MAX;
  const attempt = (): boolean => {
    if (settled) return true;
    try {
      const fd = tryConnector(context, to, from());
      if (fd === undefined) return false;
      connect(fd);
    } catch (error) {
      if (isTaken(errnoOf(error))) return attempt();
      const failed = errorFromNode(error, action);
      // The caller does not have the function that gives up yet.
      clock.after(0, () => {
        if (settle()) handlers.onError(failed);
      });
    }
    return true;
  };
  context.queue.enter(attempt);
  return () => {
    if (settle()) socket?.destroy();
  };
}

/** An accepted socket's ends, canonical. */
export interface AcceptedEnds {
  readonly source: SocketAddress;
  readonly local: SocketAddress;
}

/** Undefined when the peer left before we looked. */
export function acceptedEnds(socket: Socket): AcceptedEnds | undefined {
  const source = socketAddress(socket.remoteAddress, socket.remotePort);
  const local = socketAddress(socket.localAddress, socket.localPort);
  return source === undefined || local === undefined ? undefined : { source, local };
}

function socketAddress(
  text: string | undefined,
  port: number | undefined,
): SocketAddress | undefined {
  if (text === undefined || port === undefined) return undefined;
  const ip = parseAddress(text.replace(/%.*$/, ''));
  return ip.ok ? { ip: ip.value, port } : undefined;
}

/** Where a captured connection was going. Undefined when connection tracking does not know it. */
export function readOriginalDestination(
  native: Native,
  socket: Socket,
  ends: AcceptedEnds,
): SocketAddress | undefined {
  const family = ends.source.ip.includes(':') ? 'ipv6' : 'ipv4';
  let found: ReturnType<typeof originalDestination>;
  try {
    found = originalDestination(native, descriptorOf(socket), family);
  } catch {
    // The peer left between accept and here.
    return undefined;
  }
  return found === undefined ? undefined : socketAddress(found.address, found.port);
}
