/** Real sockets in test namespaces: servers and clients of pods and of the proxy, and what they hear. */

import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { createServer, Socket, type Server } from 'node:net';

import { descriptorOf } from '../../src/linux/descriptors.ts';
import type { NetworkNamespace } from '../../src/linux/namespaces.ts';
import type { Native } from '../../src/linux/native.ts';
import {
  createConnector,
  createListener,
  originalDestination,
  type ConnectorOptions,
} from '../../src/linux/sockets.ts';

/** What a server saw of one connection. */
export interface Arrival {
  readonly socket: Socket;
  readonly from: string;
  /** `address:port` before redirection. */
  readonly wanted: string;
}

export interface TestServer {
  readonly server: Server;
  readonly arrivals: Arrival[];
  close(): Promise<void>;
}

export const plain = (address: string | undefined): string =>
  (address ?? '').replace('::ffff:', '');

/** Listens in a namespace, answers each line `x` with `name:x`, and remembers who came. */
export async function serveIn(
  native: Native,
  namespace: NetworkNamespace,
  port: number,
  name: string,
  options: { readonly ours?: boolean } = {},
): Promise<TestServer> {
  const ours = options.ours ?? false;
  const fd = createListener(native, namespace, { port, marked: ours, transparent: ours });
  const arrivals: Arrival[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    socket.on('error', () => {});
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    const from = plain(socket.remoteAddress);
    const family = from.includes(':') ? 'ipv6' : 'ipv4';
    const wanted = originalDestination(native, descriptorOf(socket), family);
    arrivals.push({ socket, from, wanted: `${wanted?.address}:${wanted?.port}` });
    socket.on('data', (data) => socket.write(`${name}:${String(data)}`));
  });
  server.on('error', () => {});
  server.listen({ fd, backlog: 128 });
  await once(server, 'listening');
  return {
    server,
    arrivals,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Connects from a namespace; rejects with the error of the connection. */
export async function dialIn(
  native: Native,
  namespace: NetworkNamespace,
  host: string,
  port: number,
  options: Partial<ConnectorOptions> = {},
): Promise<Socket> {
  const family = host.includes(':') ? 'ipv6' : 'ipv4';
  const fd = createConnector(native, namespace, { family, marked: false, ...options });
  const socket = new Socket({ fd });
  socket.on('error', () => {});
  socket.connect({ host, port });
  await once(socket, 'connect');
  return socket;
}

/** Sends `text` and returns the next thing heard; rejects when the connection ends instead. */
export function ask(socket: Socket, text: string, timeoutMs = 3_000): Promise<string> {
  return new Promise((resolve, reject) => {
    const done = (act: () => void): void => {
      clearTimeout(timer);
      socket.off('close', onClose);
      act();
    };
    const onClose = (): void => done(() => reject(new Error('closed')));
    const timer = setTimeout(() => done(() => reject(new Error('silence'))), timeoutMs);
    socket.once('close', onClose);
    socket.once('data', (data) => done(() => resolve(String(data))));
    socket.write(text);
  });
}

/** Connects, asks once and hangs up. */
export async function askOnce(
  native: Native,
  namespace: NetworkNamespace,
  host: string,
  port: number,
  options: Partial<ConnectorOptions> = {},
): Promise<string> {
  const socket = await dialIn(native, namespace, host, port, options);
  try {
    return await ask(socket, 'hi');
  } finally {
    socket.destroy();
  }
}

/** How a connection attempt ends: `connected`, or the error's code, or `silence` after a while. */
export async function attempt(
  native: Native,
  namespace: NetworkNamespace,
  host: string,
  port: number,
  options: Partial<ConnectorOptions> = {},
): Promise<string> {
  const family = host.includes(':') ? 'ipv6' : 'ipv4';
  let fd: number;
  try {
    fd = createConnector(native, namespace, { family, marked: false, ...options });
  } catch (error) {
    return `no socket: ${String(error)}`;
  }
  const socket = new Socket({ fd });
  return new Promise((resolve) => {
    const timer = setTimeout(() => finish('silence'), 700);
    const finish = (result: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(result);
    };
    socket.on('error', (error: NodeJS.ErrnoException) => finish(error.code ?? 'error'));
    socket.on('connect', () => finish('connected'));
    socket.connect({ host, port });
  });
}

/** Closes a bare descriptor that no Node socket took. */
export function closeBare(fd: number): void {
  closeSync(fd);
}
