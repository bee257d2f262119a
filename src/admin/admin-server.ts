/**
 * The admin socket: dumps and the few acts an operator may order. A Unix socket with mode 0600 and no TCP port (T110):
 * no other pod, no SSRF and no neighbour on the network can reach it, only the user that runs the process and root.
 *
 * - Whatever changes something is a POST; reading is a GET.
 * - Dumps are written piece by piece, so that a large one neither blocks the loop nor is held in memory.
 * - Private keys and tokens are left out even if a section hands them over by mistake.
 */

import { lstat, unlink } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { pipeline, Readable } from 'node:stream';

import { errorFromNode, MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';

export interface AdminServerOptions {
  /** Absolute, at most 107 bytes. A socket left by a dead process is replaced. */
  readonly path: string;
  readonly logger: Logger;
  /** What `/config_dump` shows, by name; `/config_dump/NAME` shows one. Arrays and iterables are written item by item. */
  readonly sections: ReadonlyMap<string, () => unknown>;
  readonly logging: {
    readonly levels: readonly string[];
    level(): string;
    /** Called only with one of `levels`. */
    setLevel(level: string): void;
  };
  /** Starts the drain; absent where there is nothing to drain. */
  readonly drain?: () => void;
}

export interface AdminServer extends AsyncDisposable {
  /** Closes everything and removes the socket. */
  close(): Promise<void>;
}

/** `sun_path` is 108 bytes with its NUL; Node cuts longer paths silently on some systems. */
const PATH_MAX_BYTES = 107;
const CONNECTIONS_MAX = 16;
const HEADERS_MAX_BYTES = 4 * 1024;
const REQUEST_TIMEOUT_MS = 5_000;
const IDLE_TIMEOUT_MS = 30_000;
const CHECK_INTERVAL_MS = 1_000;
const PIECE_CHARS = 32 * 1024;
const HIDDEN = '(hidden)';
const SECRET_NAME = /^(?:.*(?:privateKey|private_key|token|secret|password).*)$/i;
const SECRET_VALUE = /-----BEGIN [A-Z ]*PRIVATE KEY-----/;

/** For `JSON.stringify`: hides secrets, shows Maps, Sets, bytes and big integers. */
function replacer(this: unknown, name: string, value: unknown): unknown {
  // A Buffer arrives here as what its own toJSON made of it: a list of all its bytes.
  const original = (this as Record<string, unknown>)[name];
  if (original instanceof Uint8Array) return `(${original.length} bytes)`;
  if (typeof value === 'string') {
    return SECRET_NAME.test(name) || SECRET_VALUE.test(value) ? HIDDEN : value;
  }
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof Map) return Object.fromEntries(value);
  if (value instanceof Set) return [...value];
  if (value instanceof Error) return value.message;
  return SECRET_NAME.test(name) && typeof value === 'object' && value !== null ? HIDDEN : value;
}

function isItems(value: unknown): value is Iterable<unknown> {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return false;
  return Symbol.iterator in value && !(value instanceof Map);
}

function* writeValue(value: unknown): Generator<string> {
  if (!isItems(value)) {
    yield JSON.stringify(value, replacer) ?? 'null';
    return;
  }
  let piece = '[';
  let separator = '\n';
  for (const item of value) {
    piece += separator + (JSON.stringify(item, replacer) ?? 'null');
    separator = ',\n';
    if (piece.length < PIECE_CHARS) continue;
    yield piece;
    piece = '';
  }
  yield `${piece}\n]`;
}

function* writeSections(sections: ReadonlyMap<string, () => unknown>): Generator<string> {
  let separator = '{\n';
  for (const [name, read] of sections) {
    yield `${separator}${JSON.stringify(name)}: `;
    yield* writeValue(read());
    separator = ',\n';
  }
  yield separator === '{\n' ? '{}\n' : '\n}\n';
}

function answerJson(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(`${JSON.stringify(value)}\n`);
}

/** What a path answers to; which methods it knows is what `Allow` tells. */
interface Route {
  readonly get?: (response: ServerResponse) => void;
  readonly post?: (response: ServerResponse, query: URLSearchParams) => void;
}

function createRoutes(options: AdminServerOptions): ReadonlyMap<string, Route> {
  const { logger, sections, logging, drain } = options;
  const dump = (chosen: ReadonlyMap<string, () => unknown>) => (response: ServerResponse) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    // A dump that fails midway ends in a reset, never in text that looks complete.
    pipeline(Readable.from(writeSections(chosen)), response, (error) => {
      if (error) logger.warn('Config dump ended early', { error });
    });
  };
  const showLevel = (response: ServerResponse): void => {
    answerJson(response, 200, { level: logging.level(), levels: logging.levels });
  };
  const routes = new Map<string, Route>([
    ['/config_dump', { get: dump(sections) }],
    [
      '/logging',
      {
        get: showLevel,
        post(response, query) {
          const level = query.get('level') ?? '';
          if (!logging.levels.includes(level)) {
            const error = `Unknown level; use ${logging.levels.join(', ')}`;
            answerJson(response, 400, { error });
            return;
          }
          logging.setLevel(level);
          logger.info('Log level was set', { to: level });
          showLevel(response);
        },
      },
    ],
  ]);
  for (const [name, read] of sections) {
    routes.set(`/config_dump/${encodeURIComponent(name)}`, { get: dump(new Map([[name, read]])) });
  }
  if (drain !== undefined) {
    routes.set('/drain', {
      post(response) {
        logger.info('Drain was ordered');
        drain();
        answerJson(response, 202, { draining: true });
      },
    });
  }
  return routes;
}

function handle(
  routes: ReadonlyMap<string, Route>,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const [path = '', query = ''] = (request.url ?? '').split('?');
  const route = routes.get(path);
  if (route === undefined) {
    answerJson(response, 404, { error: 'Not found', paths: [...routes.keys()] });
    return;
  }
  if (request.method === 'GET' && route.get !== undefined) {
    route.get(response);
  } else if (request.method === 'POST' && route.post !== undefined) {
    // Bodies are not read: what is ordered stands in the query.
    request.resume();
    route.post(response, new URLSearchParams(query));
  } else {
    const allow = [route.get && 'GET', route.post && 'POST'].filter(Boolean).join(', ');
    response.setHeader('allow', allow);
    answerJson(response, 405, { error: `Use ${allow}` });
  }
}

/** A socket file that nobody listens on, left by a process that was killed, is removed. */
async function removeStale(path: string): Promise<void> {
  const stat = await lstat(path).catch(() => undefined);
  if (stat === undefined) return;
  const inUse = (what: string): MeshError => {
    return new MeshError('MESH_CONFIG_INVALID', `Cannot listen on "${path}": ${what}`);
  };
  if (!stat.isSocket()) throw inUse('a file that is not a socket is there');
  const isAlive = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.on('error', () => resolve(false));
    probe.on('connect', () => {
      probe.destroy();
      resolve(true);
    });
  });
  if (isAlive) throw inUse('another process is listening there');
  await unlink(path);
}

/** Resolves when it listens; rejects with a MeshError when it cannot. */
export async function serveAdmin(options: AdminServerOptions): Promise<AdminServer> {
  const { path, logger } = options;
  if (!path.startsWith('/') || Buffer.byteLength(path) > PATH_MAX_BYTES) {
    const message = `Cannot listen on "${path}": not an absolute path of at most ${PATH_MAX_BYTES} bytes`;
    throw new MeshError('MESH_CONFIG_INVALID', message);
  }
  await removeStale(path);
  const routes = createRoutes(options);
  const server = createServer(
    {
      maxHeaderSize: HEADERS_MAX_BYTES,
      headersTimeout: REQUEST_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      connectionsCheckingInterval: CHECK_INTERVAL_MS,
    },
    (request, response) => {
      response.on('error', () => {});
      try {
        handle(routes, request, response);
      } catch (error) {
        logger.error('Cannot answer', { path: request.url ?? '', error });
        if (response.headersSent) response.destroy();
        else answerJson(response, 500, { error: 'Internal error' });
      }
    },
  );
  server.on('error', (error) => logger.error('Admin socket failed', { path, error }));
  server.on('clientError', (_error, socket) => socket.destroy());
  server.maxConnections = CONNECTIONS_MAX;
  server.setTimeout(IDLE_TIMEOUT_MS, (socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    const onError = (error: Error): void => {
      reject(errorFromNode(error, `Cannot listen on "${path}"`));
    };
    server.once('error', onError);
    // Node binds within `listen` (tried), so the socket never exists with another mode, not even for a moment.
    const before = process.umask(0o177);
    server.listen(path, () => {
      server.off('error', onError);
      resolve();
    });
    process.umask(before);
  });
  const close = async (): Promise<void> => {
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  };
  return { close, [Symbol.asyncDispose]: close };
}
