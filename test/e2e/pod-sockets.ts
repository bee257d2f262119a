/**
 * Sockets of the test's own process inside pods, nodes and the hub: clients and servers that do exactly what a test
 * wants. They carry no mark, so they are captured like those of the pod's own programs.
 */

import { once } from 'node:events';
import { createServer, Socket, type Server } from 'node:net';

import { openNamespace } from '../../src/linux/namespaces.ts';
import type { Native } from '../../src/linux/native.ts';
import { createConnector, createListener } from '../../src/linux/sockets.ts';

export interface Place {
  readonly netns: string;
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** A socket that is connecting. Half open is allowed; errors are swallowed until the test listens. */
export function connectFrom(native: Native, place: Place, to: Address): Socket {
  const namespace = openNamespace(native, place.netns);
  try {
    const family = to.host.includes(':') ? 'ipv6' : 'ipv4';
    const fd = createConnector(native, namespace, { family, marked: false });
    const socket = new Socket({ fd, allowHalfOpen: true });
    socket.on('error', () => {});
    socket.connect(to);
    return socket;
  } finally {
    namespace.close();
  }
}

export interface PodServer {
  readonly port: number;
  /** Connections accepted so far. */
  readonly accepted: () => number;
  /** Stops listening and destroys what was accepted. */
  close(): void;
}

/** Listens in a pod on every address. Sockets are half open; their errors are swallowed. */
export async function listenIn(
  native: Native,
  place: Place,
  port: number,
  onSocket: (socket: Socket) => void,
): Promise<PodServer> {
  const namespace = openNamespace(native, place.netns);
  let fd: number;
  try {
    fd = createListener(native, namespace, { port, marked: false, transparent: false });
  } finally {
    namespace.close();
  }
  const sockets = new Set<Socket>();
  let accepted = 0;
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    accepted++;
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    onSocket(socket);
  });
  server.listen({ fd, backlog: 4096 });
  await once(server, 'listening');
  return {
    port,
    accepted: () => accepted,
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** How a connection ended for the client, and what it got before. */
export interface Exchange {
  readonly received: Buffer;
  /** `end` after a FIN, an error code, or `timeout`. */
  readonly ended: string;
}

/** Sends bytes, ends its side if told to, and reads until the other side ends or the time is over. */
export function exchange(
  socket: Socket,
  send: Buffer | string,
  { end = true, timeoutMs = 5000 }: { readonly end?: boolean; readonly timeoutMs?: number } = {},
): Promise<Exchange> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let ended = 'closed';
    const timer = setTimeout(() => {
      ended = 'timeout';
      socket.destroy();
    }, timeoutMs);
    socket.on('error', (error: NodeJS.ErrnoException) => (ended = error.code ?? error.message));
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('end', () => {
      ended = 'end';
      socket.end();
    });
    socket.on('close', () => {
      clearTimeout(timer);
      resolve({ received: Buffer.concat(chunks), ended });
    });
    if (send.length > 0) socket.write(send);
    if (end) socket.end();
  });
}
