/**
 * What one client wants of one type and what it must still be told: names only, no I/O, no time.
 *
 * - Wildcard: everything; what the client holds is not kept here, since it is the cache minus `pending`.
 * - On demand: what its names, aliases and groups select; the names it holds are kept, so that it is told
 *   of their end.
 * - Changes merge into a set of names until the client takes the next batch, which then carries the state of
 *   that moment. A set that outgrows its bound (`overflowed`) ends the stream; the client comes back with its
 *   versions.
 * - A name that selects nothing is answered as removed.
 */

import type { ResourceCache } from './resource-cache.ts';
import type { WireResource } from './wire-resource.ts';

export interface SubscriptionChange {
  readonly subscribe: readonly string[];
  readonly unsubscribe: readonly string[];
}

export interface Batch {
  readonly resources: readonly WireResource[];
  readonly removed: readonly string[];
  /** More is pending; of a batch without content: ask again in another turn. */
  readonly partial: boolean;
}

export interface BatchLimits {
  readonly resources: number;
  readonly bytes: number;
}

export const SUBSCRIBED_NAMES_MAX = 100_000;
/** Names visited for one batch; those the client holds already cost nothing but time. */
const VISITED_MAX = 5_000;
/** Changed names kept for a client that does not take them, above twice those in the cache. */
const PENDING_SLACK = 10_000;
const WILDCARD = '*';

export class Subscription {
  readonly typeUrl: string;
  readonly #cache: ResourceCache;
  readonly #pending = new Set<string>();
  /** Subscribed names that select nothing, to be answered. */
  readonly #missing = new Set<string>();
  /** On demand: the names asked for, and the resources the client holds. */
  readonly #names = new Set<string>();
  readonly #held = new Set<string>();
  #wildcard = false;
  #answerOwed = true;
  /** The first walk over everything, and what the client said it holds. */
  #walk: Iterator<string> | undefined;
  #heldWalk: Iterator<string> | undefined;
  #heldVersions: ReadonlyMap<string, string> = new Map();

  constructor(
    cache: ResourceCache,
    first: SubscriptionChange,
    heldVersions: ReadonlyMap<string, string>,
  ) {
    this.typeUrl = cache.typeUrl;
    this.#cache = cache;
    this.#heldVersions = heldVersions;
    const legacyWildcard = first.subscribe.length === 0 && first.unsubscribe.length === 0;
    // ztunnel asks for "nothing yet" by subscribing to "*" and unsubscribing from it in one request.
    const wanted = first.subscribe.includes(WILDCARD) && !first.unsubscribe.includes(WILDCARD);
    this.#wildcard = legacyWildcard || wanted;
    for (const name of first.subscribe) if (name !== WILDCARD) this.#names.add(name);
    for (const name of first.unsubscribe) this.#names.delete(name);
    if (this.#wildcard) this.#startWalk();
    else for (const name of heldVersions.keys()) this.#resume(name);
    for (const name of this.#names) this.#select(name, !this.#wildcard);
    if (!this.#wildcard) this.#heldVersions = new Map();
  }

  get wildcard(): boolean {
    return this.#wildcard;
  }

  /** Whether there is anything to tell. */
  get pending(): boolean {
    const walking = this.#walk !== undefined || this.#heldWalk !== undefined;
    return walking || this.#answerOwed || this.#pending.size > 0 || this.#missing.size > 0;
  }

  /** Too many names wait, or were asked for: the client must start over. */
  get overflowed(): boolean {
    const pendingMax = this.#cache.size * 2 + PENDING_SLACK;
    return this.#pending.size > pendingMax || this.#names.size > SUBSCRIBED_NAMES_MAX;
  }

  change({ subscribe, unsubscribe }: SubscriptionChange): void {
    for (const name of subscribe) {
      if (name !== WILDCARD) {
        this.#names.add(name);
        this.#select(name, true);
      } else if (!this.#wildcard) {
        this.#wildcard = true;
        this.#answerOwed = true;
        this.#held.clear();
        this.#startWalk();
      }
    }
    for (const name of unsubscribe) {
      if (name === WILDCARD) this.#leaveWildcard();
      else this.#unselect(name);
    }
  }

  /** The cache changed these; returns whether the client is concerned. */
  markChanged(names: readonly string[]): boolean {
    const before = this.#pending.size;
    for (const name of names) {
      if (this.#wildcard) this.#pending.add(name);
      else this.#markOnDemand(name);
    }
    return this.#pending.size > before;
  }

  /** Takes the next batch out; undefined when nothing is pending. */
  take(limits: BatchLimits): Batch | undefined {
    if (!this.pending) return undefined;
    const resources: WireResource[] = [];
    const removed: string[] = [];
    let bytes = 0;
    let visited = 0;
    for (const name of this.#next()) {
      const resource = this.#cache.get(name);
      if (resource !== undefined && (this.#wildcard || this.#matches(resource))) {
        if (!this.#wildcard) this.#held.add(name);
        resources.push(resource);
        bytes += resource.body.length + name.length;
      } else if (this.#wildcard || this.#held.delete(name)) {
        removed.push(name);
      }
      visited++;
      const sent = resources.length + removed.length;
      if (sent >= limits.resources || bytes >= limits.bytes || visited >= VISITED_MAX) break;
    }
    removed.push(...this.#takeMissing(limits.resources - removed.length));
    this.#answerOwed = false;
    return { resources, removed, partial: this.pending };
  }

  /** Names to look at, each at most once: what is walked first, then what changed. */
  *#next(): Generator<string> {
    let skipped = 0;
    while (this.#walk !== undefined && skipped < VISITED_MAX) {
      const { value: name, done } = this.#walk.next();
      if (done === true) {
        this.#walk = undefined;
        continue;
      }
      this.#pending.delete(name);
      skipped++;
      if (this.#heldVersions.get(name) !== this.#cache.get(name)?.version) yield name;
    }
    while (this.#walk === undefined && this.#heldWalk !== undefined && skipped < VISITED_MAX) {
      const { value: name, done } = this.#heldWalk.next();
      if (done === true) {
        this.#heldWalk = undefined;
        this.#heldVersions = new Map();
        continue;
      }
      skipped++;
      if (this.#cache.get(name) === undefined) yield name;
    }
    if (this.#walk !== undefined || this.#heldWalk !== undefined) return;
    for (const name of this.#pending) {
      this.#pending.delete(name);
      yield name;
    }
  }

  #takeMissing(countMax: number): string[] {
    const taken: string[] = [];
    for (const name of this.#missing) {
      if (taken.length >= Math.max(countMax, 1)) break;
      this.#missing.delete(name);
      // It may have appeared since it was asked for.
      if (this.#cache.lookup(name).next().done === true) taken.push(name);
    }
    return taken;
  }

  #startWalk(): void {
    this.#walk = this.#cache.names();
    this.#heldWalk = this.#heldVersions.keys();
  }

  #leaveWildcard(): void {
    if (!this.#wildcard) return;
    this.#wildcard = false;
    this.#walk = undefined;
    this.#heldWalk = undefined;
    this.#heldVersions = new Map();
    this.#pending.clear();
    // The client drops what it did not ask for by name; it may or may not hold the rest, so it is sent.
    for (const name of this.#names) this.#select(name, false);
  }

  /** The client says it holds `name`: remembered, and looked at if it changed or is not for it. */
  #resume(name: string): void {
    this.#held.add(name);
    const resource = this.#cache.get(name);
    const same = resource?.version === this.#heldVersions.get(name);
    if (resource === undefined || !same || !this.#matches(resource)) this.#pending.add(name);
  }

  /** Everything that `key` brings is to be told; `again`: even what the client holds. */
  #select(key: string, again: boolean): void {
    let found = false;
    for (const name of this.#cache.lookup(key)) {
      found = true;
      const resumed = this.#heldVersions.get(name) === this.#cache.get(name)?.version;
      if (!resumed && (again || !this.#held.has(name))) this.#pending.add(name);
    }
    if (found) this.#missing.delete(key);
    else this.#missing.add(key);
  }

  #unselect(key: string): void {
    if (!this.#names.delete(key)) return;
    this.#missing.delete(key);
    if (this.#wildcard) return;
    for (const name of this.#cache.lookup(key)) {
      const resource = this.#cache.get(name);
      if (resource !== undefined && this.#matches(resource)) continue;
      // The client has dropped it of its own accord.
      this.#held.delete(name);
      this.#pending.delete(name);
    }
  }

  #markOnDemand(name: string): void {
    const resource = this.#cache.get(name);
    if (resource !== undefined && this.#matches(resource)) {
      this.#pending.add(name);
      // It may have become a service that was asked for by address: its members come along.
      for (const member of this.#cache.members(name)) {
        if (!this.#held.has(member)) this.#pending.add(member);
      }
    } else if (this.#held.has(name)) {
      this.#pending.add(name);
      for (const member of this.#cache.members(name)) {
        if (this.#held.has(member)) this.#pending.add(member);
      }
    }
  }

  #matches(resource: WireResource): boolean {
    const wanted = (key: string): boolean => this.#names.has(key);
    if (wanted(resource.name) || resource.aliases.some(wanted)) return true;
    return resource.groups.some(
      (group) => wanted(group) || this.#cache.get(group)?.aliases.some(wanted) === true,
    );
  }
}
