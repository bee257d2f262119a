/**
 * Answers probes: GET and HEAD of fixed paths over HTTP/1, one short answer for each connection, and nothing that
 * changes anything (T110). A probe needs no more, and a process that answers nothing else saves the 7 MB that
 * `node:http` takes. Everything is bounded: connections, the size of a request, and the time of both directions.
 */

import { createServer, type AddressInfo, type Socket } from 'node:net';

import type { Clock } from '../base/clock.ts';
import { startListening } from '../base/listen.ts';
import type { Logger } from '../base/logger.ts';
import { isRefusal, readRequestHead } from '../http/h1/head.ts';
import { H1_LIMITS_DEFAULT } from '../http/h1/limits.ts';

export interface ProbeAnswer {
  readonly status: 200 | 503;
  readonly contentType: string;
  readonly body: string;
}

export interface ProbeResponderOptions {
  readonly clock: Clock;
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  readonly logger: Logger;
  /** By path, without query. A handler that throws answers 500. */
  readonly routes: ReadonlyMap<string, () => ProbeAnswer>;
}

export interface ProbeResponder {
  readonly port: number;
  /** Closes the listener and every connection. */
  close(): void;
}

const CONNECTIONS_MAX = 64;
const REQUEST_MAX_BYTES = 8 * 1024;
/** From the connection to its end. */
const LIFE_MS = 5000;
const HEAD_END = '\r\n\r\n';
const REASONS = {
  200: 'OK',
  400: 'Bad Request',
  404: 'Not Found',
  405: 'Method Not Allowed',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
} as const;

function format(
  status: keyof typeof REASONS,
  contentType: string,
  body: string,
  hasBody = true,
): string {
  const allow = status === 405 ? 'allow: GET, HEAD\r\n' : '';
  return `HTTP/1.1 ${status} ${REASONS[status]}\r\n${allow}content-type: ${contentType}\r\ncontent-length: ${Buffer.byteLength(body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n${hasBody ? body : ''}`;
}

const refuse = (status: keyof typeof REASONS, text: string): string =>
  format(status, 'text/plain; charset=utf-8', `${text}\n`);

/** The whole answer to a request with this head. */
function respond({ routes, logger }: ProbeResponderOptions, text: string): string {
  const head = readRequestHead(text, H1_LIMITS_DEFAULT);
  if (isRefusal(head)) return refuse(400, head.reason);
  const { method, headers } = head;
  if (method !== 'GET' && method !== 'HEAD') return refuse(405, 'Only GET and HEAD');
  const target = headers.find(([name]) => name === ':path')?.[1] ?? '';
  const path = target.split('?', 1)[0] ?? '';
  const handler = routes.get(path);
  if (handler === undefined) return refuse(404, 'Not found');
  try {
    const { status, contentType, body } = handler();
    return format(status, contentType, body, method === 'GET');
  } catch (error) {
    logger.error('Cannot answer', { path, error });
    return refuse(500, 'Internal error');
  }
}

/** Resolves when it listens; rejects with MESH_CONNECT_FAILED or similar when it cannot. */
export async function listenForProbes(options: ProbeResponderOptions): Promise<ProbeResponder> {
  const { clock, host, port, logger } = options;
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    let head = '';
    const life = clock.after(LIFE_MS, () => socket.destroy());
    socket.on('error', () => {});
    socket.on('close', () => {
      life.cancel();
      sockets.delete(socket);
    });
    socket.on('data', (chunk: Buffer) => {
      if (socket.writableEnded) return;
      head += chunk.toString('latin1');
      const end = head.indexOf(HEAD_END);
      // What follows is no business of ours; the peer is told to close.
      if (end >= 0) socket.end(respond(options, head.slice(0, end + 2)));
      else if (head.length > REQUEST_MAX_BYTES) socket.destroy();
    });
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.on('error', (error) => logger.error('Listener failed', { port, error }));
  await startListening(server, { host, port }, `${host}:${port}`);
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}
