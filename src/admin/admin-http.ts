/**
 * What the admin socket serves, as an HTTP server that listens nowhere itself: `admin-server.ts` gives it its
 * connections, and loads this file only for the first one, since `node:http` takes 7 MB.
 *
 * - Whatever changes something is a POST; reading is a GET.
 * - Dumps are written piece by piece, so that a large one neither blocks the loop nor is held in memory.
 * - Private keys and tokens are left out even if a section hands them over by mistake.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { pipeline, Readable } from 'node:stream';

import type { Logger } from '../base/logger.ts';

export interface AdminContent {
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

function createRoutes(options: AdminContent): ReadonlyMap<string, Route> {
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

export function createAdminHttp(content: AdminContent): Server {
  const { logger } = content;
  const routes = createRoutes(content);
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
  server.on('clientError', (_error, socket) => socket.destroy());
  server.setTimeout(IDLE_TIMEOUT_MS, (socket) => socket.destroy());
  // Node watches how long requests take from this event on.
  server.emit('listening');
  return server;
}
