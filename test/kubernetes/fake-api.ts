/**
 * A small API server on loopback whose behaviour can be provoked: lists in pages, watches with bookmarks, 410,
 * silence, cut lines, refusals. Objects are whatever a test puts in; versions are one counter, as etcd's.
 */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

import type { Test } from 'tap';

import type { Clock } from '../../src/base/clock.ts';
import { createApiClient, type ApiClient } from '../../src/kubernetes/api-client.ts';

export interface FakeObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly resourceVersion?: string;
    readonly [key: string]: unknown;
  };
  readonly [key: string]: unknown;
}

interface Stored extends FakeObject {
  readonly metadata: FakeObject['metadata'] & { readonly resourceVersion: string };
}

interface Watch {
  readonly path: string;
  readonly response: ServerResponse;
}

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly body: unknown;
  readonly contentType: string;
}

type Answer = { readonly status: number; readonly body?: unknown } | undefined;

export interface FakeApi {
  readonly client: ApiClient;
  readonly url: URL;
  readonly requests: SeenRequest[];
  readonly watches: Watch[];
  pageLimit: number;
  /** Says something before the store does; undefined leaves it to the store. */
  intercept: (request: SeenRequest, response: ServerResponse) => Answer | 'taken';
  /** Under the next version, or one that was taken. */
  put(path: string, object: FakeObject, version?: string): void;
  nextVersion(): string;
  remove(path: string, name: string): void;
  /** As `put`, told to nobody: what happened while a watch was lost. */
  putSilently(path: string, object: FakeObject): void;
  removeSilently(path: string, name: string): void;
  /** Versions up to now are too old for a watch. */
  compact(): void;
  /** Writes raw text into every watch of a path. */
  write(path: string, text: string): void;
  bookmark(path: string): void;
  endWatches(path: string): void;
  /** As a crash: every connection breaks. */
  breakConnections(): void;
}

export async function startFakeApi(t: Test, clock: Clock): Promise<FakeApi> {
  const kinds = new Map<string, Map<string, Stored>>();
  const watches: Watch[] = [];
  const requests: SeenRequest[] = [];
  let version = 100;
  let oldest = 0;
  const keyOf = ({ metadata }: FakeObject): string =>
    metadata.namespace === undefined ? metadata.name : `${metadata.namespace}/${metadata.name}`;
  const storeOf = (path: string): Map<string, Stored> => {
    const store = kinds.get(path) ?? new Map<string, Stored>();
    kinds.set(path, store);
    return store;
  };
  const send = (path: string, type: string, object: unknown): void => {
    for (const watch of watches) {
      if (watch.path === path) watch.response.write(`${JSON.stringify({ type, object })}\n`);
    }
  };
  const save = (path: string, object: FakeObject, taken?: string): Stored => {
    const metadata = { ...object.metadata, resourceVersion: taken ?? String(++version) };
    const stored = { ...object, metadata };
    storeOf(path).set(keyOf(object), stored);
    return stored;
  };
  const reply = (response: ServerResponse, status: number, body: unknown): void => {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(body === undefined ? '' : JSON.stringify(body));
  };

  const list = ({ path, query }: SeenRequest, response: ServerResponse): void => {
    const all = [...storeOf(path).values()];
    const from = Number(query.get('continue') ?? '0');
    const limit = Math.min(api.pageLimit, Number(query.get('limit') ?? '500'));
    const items = all.slice(from, from + limit);
    const more = from + limit < all.length;
    const metadata = {
      resourceVersion: String(version),
      continue: more ? String(from + limit) : '',
    };
    reply(response, 200, { metadata, items });
  };

  const watch = ({ path, query }: SeenRequest, response: ServerResponse): void => {
    const from = Number(query.get('resourceVersion'));
    response.writeHead(200, { 'content-type': 'application/json' });
    if (from < oldest) {
      const object = { kind: 'Status', code: 410, reason: 'Expired', message: 'too old' };
      response.end(`${JSON.stringify({ type: 'ERROR', object })}\n`);
      return;
    }
    response.flushHeaders();
    for (const object of storeOf(path).values()) {
      const newer = Number(object.metadata.resourceVersion) > from;
      if (newer) response.write(`${JSON.stringify({ type: 'MODIFIED', object })}\n`);
    }
    const entry = { path, response };
    watches.push(entry);
    response.on('error', () => {});
    response.on('close', () => {
      if (watches.includes(entry)) watches.splice(watches.indexOf(entry), 1);
    });
  };

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '/', 'http://fake');
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const seen: SeenRequest = {
      method: request.method ?? '',
      path: url.pathname,
      query: url.searchParams,
      body: text === '' ? undefined : (JSON.parse(text) as unknown),
      contentType: request.headers['content-type'] ?? '',
    };
    requests.push(seen);
    const answer = api.intercept(seen, response);
    if (answer === 'taken') return;
    if (answer !== undefined) reply(response, answer.status, answer.body);
    else if (seen.query.get('watch') === 'true') watch(seen, response);
    else list(seen, response);
  };

  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      response.destroy();
      t.comment(String(error));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  const credentials = { server: url, access: () => Promise.resolve({ tls: {}, headers: {} }) };
  const client = createApiClient({ clock, credentials });
  t.teardown(() => {
    client[Symbol.dispose]();
    server.closeAllConnections();
    server.close();
  });
  const api: FakeApi = {
    client,
    url,
    requests,
    watches,
    pageLimit: 500,
    intercept: () => undefined,
    put: (path, object, taken) => {
      const before = storeOf(path).has(keyOf(object));
      send(path, before ? 'MODIFIED' : 'ADDED', save(path, object, taken));
    },
    nextVersion: () => String(++version),
    putSilently: (path, object) => void save(path, object),
    remove(path, name) {
      const object = storeOf(path).get(name);
      if (object === undefined) return;
      storeOf(path).delete(name);
      const metadata = { ...object.metadata, resourceVersion: String(++version) };
      send(path, 'DELETED', { ...object, metadata });
    },
    removeSilently: (path, name) => {
      storeOf(path).delete(name);
      version++;
    },
    compact: () => void (oldest = ++version),
    write(path, raw) {
      for (const entry of watches) if (entry.path === path) entry.response.write(raw);
    },
    bookmark: (path) =>
      send(path, 'BOOKMARK', { metadata: { resourceVersion: String(++version) } }),
    endWatches(path) {
      for (const entry of watches.filter((watch) => watch.path === path)) entry.response.end();
    },
    breakConnections: () => server.closeAllConnections(),
  };
  return api;
}

/** Waits for something that happens over real sockets, moving a fake clock by nothing. */
export async function eventually(what: string, holds: () => boolean): Promise<void> {
  for (let turn = 0; turn < 2_000; turn++) {
    if (holds()) return;
    await new Promise((resolve) => setImmediate(resolve));
    if (turn % 50 === 49) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`never happened: ${what}`);
}
