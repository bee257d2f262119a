/** Adds objects with optimistic concurrency to the fake API: what Leases, Secrets and ConfigMaps are kept by. */

import type { FakeApi, SeenRequest } from './fake-api.ts';

export interface Kept {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly resourceVersion?: string;
  };
  readonly [key: string]: unknown;
}

export interface KeepOptions {
  /** Refuses everything with this status while it says one. */
  readonly refuse?: (request: SeenRequest) => number | undefined;
  /** Collections whose objects are listed and watched as well. */
  readonly watched?: readonly string[];
}

export function keepObjects(api: FakeApi, options: KeepOptions = {}): Map<string, Kept> {
  const kept = new Map<string, Kept>();
  api.intercept = (request) => {
    const { method, path, body, query } = request;
    const refused = options.refuse?.(request);
    if (refused !== undefined) return { status: refused, body: { message: 'refused by the test' } };
    const watched = options.watched?.find((collection) => path.startsWith(collection));
    if (method === 'GET' && (query.has('watch') || path === watched)) return undefined;
    const object = body as Kept | undefined;
    const key = method === 'POST' ? `${path}/${object?.metadata.name}` : path;
    const before = kept.get(key);
    const precondition = (body as { preconditions?: { resourceVersion?: string } } | undefined)
      ?.preconditions?.resourceVersion;
    if (precondition !== undefined && precondition !== before?.metadata.resourceVersion) {
      return { status: 409, body: {} };
    }
    if (method === 'GET') {
      return before === undefined ? { status: 404, body: {} } : { status: 200, body: before };
    }
    if (method === 'DELETE') {
      kept.delete(key);
      const { name, namespace } = before?.metadata ?? { name: '' };
      if (watched !== undefined)
        api.remove(watched, namespace === undefined ? name : `${namespace}/${name}`);
      return { status: 200, body: {} };
    }
    if (object === undefined) return { status: 400 };
    if (method === 'POST' && before !== undefined) return { status: 409, body: {} };
    // Server-side apply of whole objects by one manager: made when missing, and the newest word counts.
    if (method === 'PUT' && before?.metadata.resourceVersion !== object.metadata.resourceVersion) {
      return { status: 409, body: { message: 'the object has been modified' } };
    }
    const version = api.nextVersion();
    const stored = { ...object, metadata: { ...object.metadata, resourceVersion: version } };
    kept.set(key, stored);
    if (watched !== undefined) api.put(watched, stored, version);
    return { status: 200, body: stored };
  };
  return kept;
}
