/**
 * A small HTTP server for scrapers and probes: GET and HEAD of fixed paths, nothing that changes anything (T110).
 * Everything is bounded: connections, header size, and the time for sending a request and reading the answer.
 */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline, Readable, type Transform } from 'node:stream';
import { createGzip } from 'node:zlib';

import { startListening } from '../base/listen.ts';
import type { Logger } from '../base/logger.ts';

export interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly body: Iterable<string>;
}

export interface ReadOnlyServerOptions {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  readonly logger: Logger;
  /** By path, without query. A handler that throws answers 500. */
  readonly routes: ReadonlyMap<string, (accept: string | undefined) => Promise<Answer> | Answer>;
}

export interface ReadOnlyServer extends AsyncDisposable {
  readonly port: number;
  /** Closes the listener and every connection. */
  close(): Promise<void>;
}

const CONNECTIONS_MAX = 64;
const HEADERS_MAX_BYTES = 8 * 1024;
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 5_000;
/** Also for a reader that stops reading. */
const IDLE_TIMEOUT_MS = 15_000;
const CHECK_INTERVAL_MS = 1_000;
const REQUESTS_PER_CONNECTION_MAX = 10_000;
const GZIP_LEVEL = 1;

function refuse(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', connection: 'close' });
  response.end(`${text}\n`);
}

function wantsGzip(request: IncomingMessage): boolean {
  const header = request.headers['accept-encoding'];
  const codings = typeof header === 'string' ? header.split(',') : [];
  return codings.some((coding) =>
    /^\s*(?:gzip|\*)\s*(?:;\s*q=(?:1|0?\.0*[1-9]\d*).*)?$/i.test(coding),
  );
}

async function answer(
  routes: ReadOnlyServerOptions['routes'],
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const path = (request.url ?? '').split('?')[0] ?? '';
  const handler = routes.get(path);
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    refuse(response, 405, 'Only GET and HEAD');
    return;
  }
  if (handler === undefined) {
    refuse(response, 404, 'Not found');
    return;
  }
  const { status, contentType, body } = await handler(request.headers.accept);
  const gzip = wantsGzip(request);
  response.statusCode = status;
  response.setHeader('content-type', contentType);
  response.setHeader('vary', 'accept, accept-encoding');
  response.setHeader('cache-control', 'no-store');
  if (gzip) response.setHeader('content-encoding', 'gzip');
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  const source = Readable.from(body);
  // A client that leaves early is none of our business; `pipeline` ends the source.
  const done = (): void => {};
  if (!gzip) {
    pipeline(source, response, done);
    return;
  }
  const packer: Transform = createGzip({ level: GZIP_LEVEL });
  pipeline(source, packer, response, done);
}

/** Resolves when it listens; rejects with MESH_CONNECT_FAILED or similar when it cannot. */
export async function listenReadOnly(options: ReadOnlyServerOptions): Promise<ReadOnlyServer> {
  const { host, port, logger, routes } = options;
  const server = createServer(
    {
      maxHeaderSize: HEADERS_MAX_BYTES,
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      connectionsCheckingInterval: CHECK_INTERVAL_MS,
      keepAliveTimeout: IDLE_TIMEOUT_MS,
    },
    (request, response) => {
      response.on('error', () => {});
      answer(routes, request, response).catch((error: unknown) => {
        logger.error('Cannot answer', { path: request.url ?? '', error });
        if (response.headersSent) response.destroy();
        else refuse(response, 500, 'Internal error');
      });
    },
  );
  server.on('error', (error) => logger.error('Listener failed', { port, error }));
  server.on('clientError', (_error, socket) => socket.destroy());
  server.maxConnections = CONNECTIONS_MAX;
  server.maxRequestsPerSocket = REQUESTS_PER_CONNECTION_MAX;
  server.setTimeout(IDLE_TIMEOUT_MS, (socket) => socket.destroy());
  await startListening(server, { host, port }, `${host}:${port}`);
  const close = async (): Promise<void> => {
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  };
  return {
    port: (server.address() as AddressInfo).port,
    close,
    [Symbol.asyncDispose]: close,
  };
}
