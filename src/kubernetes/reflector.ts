/**
 * One kind of the API server as a stream of changes: everything once by paged lists, then whatever happens, by
 * watches that never end for long. What client-go calls a reflector.
 *
 * - A watch asks for bookmarks and for an end after 35 to 50 s; one that has not ended a few seconds later is
 *   dead, however quiet the kind is (F05, G29: noticed within 60 s). The next goes on where it stopped.
 * - 410, or anything that cannot be understood, means a new list; what is missing from it was deleted meanwhile
 *   and is told as such, what has the same version is not told again (F06).
 * - Whatever fails is tried again, with full jitter up to 30 s; nothing that the server sends and nothing that
 *   `onChanges` throws ends the reflector.
 * - An object that cannot be read keeps its last good version and is reported; without one, what is in its stead
 *   counts.
 */

import { createBackoff, type Backoff } from '../base/backoff.ts';
import { sleep, type Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { createTimeSlice, type TimeSlice } from '../base/time-slice.ts';
import { statusOf, type ApiClient } from './api-client.ts';
import type { ReflectorMetrics } from './metrics.ts';

/** What `read` makes of one object. The key names it in `Change`s; it may be gone when it is deleted. */
export type ReadObject<K, O> =
  | { readonly status: 'object'; readonly key: K; readonly object: O }
  | {
      readonly status: 'invalid';
      readonly key: K | undefined;
      readonly message: string;
      /** What counts where no good version was read before, and what that means. */
      readonly stead?: {
        readonly object: O;
        readonly effect: string;
        readonly replaces?: true;
      };
    }
  | { readonly status: 'ignored' };

export type ReflectedChange<K, O> =
  | { readonly type: 'put'; readonly key: K; readonly object: O }
  | { readonly type: 'delete'; readonly key: K };

export interface ReflectorOptions<K, O> {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: ReflectorMetrics;
  readonly client: ApiClient;
  /** For logs and metrics. */
  readonly name: string;
  readonly path: string;
  readonly fieldSelector?: string;
  readonly labelSelector?: string;
  readonly read: (value: unknown) => ReadObject<K, O>;
  /** Every batch, never empty. */
  readonly onChanges: (changes: readonly ReflectedChange<K, O>[]) => void;
  /** The kind is not served any more: all of it counts as deleted, and the reflector has ended. */
  readonly onMissing?: () => void;
}

export interface InvalidObject {
  /** `NAMESPACE/NAME`. */
  readonly name: string;
  readonly message: string;
}

export interface ReflectorStatus {
  readonly name: string;
  readonly synced: boolean;
  readonly objects: number;
  /** Why the last list or watch failed; empty while all is well. */
  readonly error: string;
  readonly invalid: readonly InvalidObject[];
  /** Since the server last said anything. */
  readonly ageMs: number;
}

export interface Reflector extends AsyncDisposable {
  /** Resolves when everything was told once. Rejects never; see `status`. */
  readonly synced: Promise<void>;
  /** Resolves when the first list has succeeded or failed. */
  readonly tried: Promise<void>;
  status(): ReflectorStatus;
}

export const WATCH_MIN_MS = 35_000;
export const WATCH_JITTER_MS = 15_000;
/** For the server's own rounding and the way back. Never more than 60 s together. */
export const WATCH_GRACE_MS = 8_000;
/** A watch that ended sooner says that something is wrong. */
const QUICK_MS = 1_000;
/** One that lasted so long says that all was well: the next pause is a short one. */
const STEADY_MS = 10_000;
const PAGE_LIMIT = 500;
const LIST_TIMEOUT_MS = 60_000;
const BACKOFF = { initialMs: 400, maxMs: 30_000, floor: 0 };
/** Objects of one kind; above, the rest is refused and the log says so. */
export const OBJECTS_MAX = 500_000;
const INVALID_MAX = 100;

interface Known<K> {
  readonly version: string;
  /** Undefined while nothing of it was told. */
  readonly key: K | undefined;
  /** What was told only stands for an object that was never good. */
  readonly isStead: boolean;
}

interface RawMeta {
  readonly name: string;
  readonly version: string;
}

export function createReflector<K, O>(options: ReflectorOptions<K, O>): Reflector {
  return new KindReflector(options);
}

class KindReflector<K, O> implements Reflector {
  readonly synced: Promise<void>;
  readonly tried: Promise<void>;
  readonly #options: ReflectorOptions<K, O>;
  readonly #slice: TimeSlice;
  readonly #backoff: Backoff;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  readonly #invalid = new Map<string, string>();
  #known = new Map<string, Known<K>>();
  #resolveSynced: () => void = () => {};
  #resolveTried: () => void = () => {};
  #isSynced = false;
  #error = '';
  #heardMs: number;
  #version = '';
  /** The version is that of a list: a server for which even that is too old is not asked again at once. */
  #isFromList = false;

  constructor(options: ReflectorOptions<K, O>) {
    this.#options = options;
    this.#slice = createTimeSlice(options.clock);
    this.#backoff = createBackoff(options.random, BACKOFF);
    this.#heardMs = options.clock.nowMs();
    this.synced = new Promise((resolve) => {
      this.#resolveSynced = resolve;
    });
    this.tried = new Promise((resolve) => {
      this.#resolveTried = resolve;
    });
    this.#running = this.#run();
  }

  status(): ReflectorStatus {
    return {
      name: this.#options.name,
      synced: this.#isSynced,
      objects: this.#known.size,
      error: this.#error,
      invalid: [...this.#invalid].map(([name, message]) => ({ name, message })),
      ageMs: this.#options.clock.nowMs() - this.#heardMs,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new MeshError('MESH_ABORTED', 'The source was closed'));
    await this.#running;
  }

  async #run(): Promise<void> {
    const { metrics, name } = this.#options;
    while (!this.#stop.signal.aborted) {
      const done = this.#version === '' ? await this.#list() : await this.#watch();
      this.#resolveTried();
      if (this.#stop.signal.aborted) return;
      if (done.ok) {
        this.#error = '';
        continue;
      }
      if (this.#isGone(done.error)) {
        this.#forgetAll();
        return;
      }
      metrics.errors.add(1, [name]);
      this.#complain(done.error);
      await sleep(this.#options.clock, this.#backoff.nextMs(), this.#stop.signal).catch(() => {});
    }
  }

  /** A kind that is not served has no objects; only a definition that was taken away answers 404. */
  #isGone(error: MeshError): boolean {
    return this.#options.onMissing !== undefined && statusOf(error) === 404;
  }

  #forgetAll(): void {
    const { logger, name, onMissing } = this.#options;
    logger.warn('A kind is not served any more; its objects count as deleted', { kind: name });
    this.#tell([...this.#known.values()].flatMap(({ key }) => this.#deletion(key)));
    this.#known.clear();
    this.#invalid.clear();
    this.#resolveSynced();
    onMissing?.();
  }

  /** Each new reason once: a server that is down for an hour fills no log. */
  #complain(error: MeshError): void {
    const { logger, name } = this.#options;
    if (error.message !== this.#error) {
      const verb = this.#version === '' ? 'list' : 'watch';
      if (statusOf(error) === 403) {
        const missing = `a role that grants "${verb}" on "${name}" to the controller`;
        logger.error('A kind is forbidden; what it says is not in effect', {
          kind: name,
          missing,
          error,
        });
      } else logger.warn('Cannot follow a kind; trying again', { kind: name, verb, error });
    }
    this.#error = error.message;
  }

  /** Reads everything, tells the difference, and says from where to watch. */
  async #list(): Promise<Result<void>> {
    const { client, path } = this.#options;
    const found = new Map<string, Known<K>>();
    let token = '';
    do {
      const query = { ...this.#selection(), limit: String(PAGE_LIMIT) };
      const next = token === '' ? query : { ...query, continue: token };
      const asked = { path, query: next, timeoutMs: LIST_TIMEOUT_MS, signal: this.#stop.signal };
      const page = readPage(await client.request(asked));
      if (!page.ok) return page;
      this.#heardMs = this.#options.clock.nowMs();
      await this.#takePage(page.value.items, found);
      token = page.value.next;
      this.#version = token === '' ? page.value.version : '';
    } while (token !== '' && !this.#stop.signal.aborted);
    if (this.#version === '') return fail(unreadable('the list has no resourceVersion'));
    const gone = [...this.#known].filter(([name]) => !found.has(name));
    for (const [name] of gone) this.#invalid.delete(name);
    this.#known = found;
    this.#tell(gone.flatMap(([, { key }]) => this.#deletion(key)));
    this.#isFromList = true;
    this.#isSynced = true;
    this.#resolveSynced();
    this.#report();
    return ok(undefined);
  }

  #selection(): Readonly<Record<string, string>> {
    const { fieldSelector, labelSelector } = this.#options;
    return {
      ...(fieldSelector === undefined ? {} : { fieldSelector }),
      ...(labelSelector === undefined ? {} : { labelSelector }),
    };
  }

  async #takePage(items: readonly unknown[], found: Map<string, Known<K>>): Promise<void> {
    const changes: ReflectedChange<K, O>[] = [];
    for (const item of items) {
      const meta = readMeta(item);
      if (meta === undefined) continue;
      const before = this.#known.get(meta.name);
      const isNew = before?.version !== meta.version;
      if (isNew && found.size < OBJECTS_MAX) this.#put(meta, item, before, changes);
      // Also when the rest of this list fails: what was told must be found missing by the next one.
      const now = this.#known.get(meta.name);
      if (now !== undefined) found.set(meta.name, now);
      if (this.#slice.spent) await this.#slice.yield();
    }
    this.#tell(changes);
  }

  #put(
    { name, version }: RawMeta,
    value: unknown,
    before: Known<K> | undefined,
    changes: ReflectedChange<K, O>[],
  ): void {
    const result = this.#options.read(value);
    if (result.status === 'ignored') return;
    if (result.status === 'invalid') {
      const { key, stead, message } = result;
      if (before?.key !== undefined && !before.isStead && stead?.replaces !== true) {
        this.#known.set(name, { ...before, version });
        this.#refuse(name, message, 'its last good version stays');
        return;
      }
      const told = stead === undefined ? undefined : key;
      this.#known.set(name, { version, key: told, isStead: told !== undefined });
      if (stead !== undefined && key !== undefined) {
        changes.push({ type: 'put', key, object: stead.object });
      } else changes.push(...this.#deletion(before?.key));
      const effect = stead && `until it can be read ${stead.effect}`;
      this.#refuse(name, message, effect ?? 'it is not in force');
      return;
    }
    this.#invalid.delete(name);
    this.#known.set(name, { version, key: result.key, isStead: false });
    changes.push({ type: 'put', key: result.key, object: result.object });
  }

  #refuse(name: string, message: string, effect: string): void {
    const { logger, name: kind } = this.#options;
    if (this.#invalid.get(name) === message) return;
    logger.error('An object cannot be read', { kind, object: name, error: message, effect });
    if (this.#invalid.size < INVALID_MAX) this.#invalid.set(name, message);
  }

  #deletion(key: K | undefined): ReflectedChange<K, O>[] {
    return key === undefined ? [] : [{ type: 'delete', key }];
  }

  /** One watch, until the server ends it. An error that a new list cures sets `#version` to nothing. */
  async #watch(): Promise<Result<void>> {
    const { client, path, random, metrics, name } = this.#options;
    const lifeMs = WATCH_MIN_MS + Math.floor(random.next() * (WATCH_JITTER_MS / 1000)) * 1000;
    const query = {
      ...this.#selection(),
      watch: 'true',
      allowWatchBookmarks: 'true',
      resourceVersion: this.#version,
      timeoutSeconds: String(lifeMs / 1000),
    };
    const timeoutMs = lifeMs + WATCH_GRACE_MS;
    let lost: MeshError | undefined;
    const asked = { path, query, timeoutMs, signal: this.#stop.signal };
    const startMs = this.#options.clock.nowMs();
    const ended = await client.stream(asked, async (lines) => {
      this.#heardMs = this.#options.clock.nowMs();
      lost ??= await this.#takeLines(lines);
      if (lost !== undefined) throw lost;
    });
    const tookMs = this.#options.clock.nowMs() - startMs;
    const error = lost ?? (ended.ok ? undefined : ended.error);
    const reason = reasonOf(error, lost !== undefined, tookMs >= timeoutMs);
    metrics.restarts.add(1, [name, reason]);
    if (tookMs >= STEADY_MS) this.#backoff.reset();
    if (reason === 'unreadable' || reason === 'expired') this.#version = '';
    if (reason === 'expired' && !this.#isFromList) return ok(undefined);
    if (error !== undefined) return fail(error);
    // A server that ends every watch at once is not to be asked a thousand times a second.
    if (tookMs < QUICK_MS) return fail(unreadable('the watch ended at once'));
    this.#isFromList = false;
    return ok(undefined);
  }

  async #takeLines(lines: readonly string[]): Promise<MeshError | undefined> {
    const changes: ReflectedChange<K, O>[] = [];
    let lost: MeshError | undefined;
    for (const line of lines) {
      lost = this.#takeEvent(line, changes);
      if (lost !== undefined) break;
      if (this.#slice.spent) await this.#slice.yield();
    }
    this.#tell(changes);
    this.#report();
    return lost;
  }

  #takeEvent(line: string, changes: ReflectedChange<K, O>[]): MeshError | undefined {
    const event = readEvent(line);
    if (event === undefined) return unreadable('an event is not what a watch sends');
    if (event.type === 'ERROR') return watchError(event.object);
    const meta = readMeta(event.object);
    if (event.type === 'BOOKMARK') {
      const version = readVersion(event.object);
      if (version !== '') this.#version = version;
      this.#isFromList = false;
      return undefined;
    }
    if (meta === undefined) return unreadable('an event names no object');
    const before = this.#known.get(meta.name);
    if (event.type === 'DELETED') {
      this.#known.delete(meta.name);
      this.#invalid.delete(meta.name);
      changes.push(...this.#deletion(before?.key));
    } else if (before?.version !== meta.version) {
      if (before !== undefined || this.#known.size < OBJECTS_MAX) {
        this.#put(meta, event.object, before, changes);
      }
    }
    this.#version = meta.version;
    this.#isFromList = false;
    return undefined;
  }

  /** What the receiver throws is its own fault, and never the end of the stream. */
  #tell(changes: readonly ReflectedChange<K, O>[]): void {
    if (changes.length === 0) return;
    const { logger, metrics, name, onChanges } = this.#options;
    try {
      onChanges(changes);
    } catch (error) {
      metrics.errors.add(1, [name]);
      logger.error('Changes could not be taken', { kind: name, changes: changes.length, error });
    }
  }

  #report(): void {
    this.#options.metrics.objects.set(this.#known.size, [this.#options.name]);
  }
}

/** Why a watch ended, as the metric says it. `own`: what it sent, not that it broke. */
function reasonOf(error: MeshError | undefined, own: boolean, overdue: boolean): string {
  if (error === undefined) return 'ended';
  const status = statusOf(error);
  if (status === 410) return 'expired';
  if (own) return 'unreadable';
  if (status !== undefined) return 'refused';
  return overdue ? 'dead' : 'broken';
}

function unreadable(reason: string): MeshError {
  return new MeshError('MESH_API_UNREACHABLE', `Cannot follow: ${reason}`, { retryable: true });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function readPage(
  answer: Result<unknown>,
): Result<{ items: readonly unknown[]; version: string; next: string }> {
  if (!answer.ok) return answer;
  const list = answer.value;
  if (!isRecord(list) || !isRecord(list['metadata'])) return fail(unreadable('no list came'));
  const { resourceVersion, continue: next } = list['metadata'];
  // Go writes an empty list as null.
  const items = list['items'] ?? [];
  if (!Array.isArray(items)) return fail(unreadable('the list has no items'));
  return ok({
    items,
    version: typeof resourceVersion === 'string' ? resourceVersion : '',
    next: typeof next === 'string' ? next : '',
  });
}

function readEvent(line: string): { type: string; object: unknown } | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (!isRecord(value)) return undefined;
  const { type, object } = value;
  const known = ['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK', 'ERROR'];
  return typeof type === 'string' && known.includes(type) ? { type, object } : undefined;
}

function readVersion(object: unknown): string {
  if (!isRecord(object) || !isRecord(object['metadata'])) return '';
  const { resourceVersion } = object['metadata'];
  return typeof resourceVersion === 'string' ? resourceVersion : '';
}

function readMeta(object: unknown): RawMeta | undefined {
  if (!isRecord(object) || !isRecord(object['metadata'])) return undefined;
  const { name, namespace } = object['metadata'];
  const version = readVersion(object);
  if (typeof name !== 'string' || version === '') return undefined;
  return { name: typeof namespace === 'string' ? `${namespace}/${name}` : name, version };
}

/** The `Status` that a watch sends when it cannot go on; 410 when its version is too old. */
function watchError(object: unknown): MeshError {
  const { code, message, reason } = isRecord(object) ? object : {};
  return new MeshError('MESH_API_REFUSED', `Cannot follow: ${String(message).slice(0, 512)}`, {
    retryable: true,
    details: { status: typeof code === 'number' ? code : 500, reason: String(reason).slice(0, 64) },
  });
}
