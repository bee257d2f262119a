/**
 * The current resources of one type, shared by all clients that may see them. Whoever writes it tells, per
 * update, what is there and what is gone; listeners get the names that really changed.
 *
 * - Reads never copy: a client's state is names only.
 * - A resource with the version it had before changes nothing and tells nobody.
 * - `names()` may be walked over several turns while updates go on: it visits what is added meanwhile, and
 *   skips what is removed.
 */

import type { WireResource } from './wire-resource.ts';

export interface ResourceChanges {
  readonly set?: Iterable<WireResource>;
  readonly removed?: Iterable<string>;
}

/** Called with the names that changed in one update, resources removed among them. */
export type ResourceListener = (names: readonly string[]) => void;

export class ResourceCache {
  readonly typeUrl: string;
  readonly #resources = new Map<string, WireResource>();
  readonly #byAlias = new NameIndex();
  readonly #byGroup = new NameIndex();
  readonly #listeners = new Set<ResourceListener>();
  #generation = 0;

  constructor(typeUrl: string) {
    this.typeUrl = typeUrl;
  }

  get size(): number {
    return this.#resources.size;
  }

  /** Grows with each update that changed something. */
  get generation(): number {
    return this.#generation;
  }

  get(name: string): WireResource | undefined {
    return this.#resources.get(name);
  }

  names(): MapIterator<string> {
    return this.#resources.keys();
  }

  /** Names of the resources that belong to `group`. */
  members(group: string): Iterable<string> {
    return this.#byGroup.get(group);
  }

  /** Names that a subscription to `key` brings: by name or alias, and the members of those found. */
  *lookup(key: string): Generator<string> {
    const found = new Set<string>(this.#byAlias.get(key));
    if (this.#resources.has(key)) found.add(key);
    yield* found;
    for (const name of found) yield* this.#byGroup.get(name);
    if (!found.has(key)) yield* this.#byGroup.get(key);
  }

  /** Applies one batch; returns how many resources changed. Cut large batches yourself: this is one turn. */
  update(changes: ResourceChanges): number {
    const changed = new Set<string>();
    for (const name of changes.removed ?? []) {
      if (this.#remove(name)) changed.add(name);
    }
    for (const resource of changes.set ?? []) {
      if (this.#set(resource)) changed.add(resource.name);
    }
    if (changed.size === 0) return 0;
    this.#generation++;
    const names = [...changed];
    for (const listener of this.#listeners) listener(names);
    return changed.size;
  }

  /** Returns what ends the listening. */
  onChange(listener: ResourceListener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #set(resource: WireResource): boolean {
    const { name } = resource;
    const before = this.#resources.get(name);
    if (before?.version === resource.version && sameNames(before, resource)) return false;
    if (before !== undefined) this.#unindex(before);
    for (const alias of resource.aliases) this.#byAlias.add(alias, name);
    const groups = this.#shared(resource.groups);
    for (const group of groups) this.#byGroup.add(group, name);
    const { aliases, version, body } = resource;
    this.#resources.set(name, { name, aliases, groups, version, body });
    return true;
  }

  /** The same list that another member has: lists of their own are 5 MB with 100,000 endpoints. */
  #shared(groups: readonly string[]): readonly string[] {
    const [group] = groups;
    if (group === undefined) return groups;
    for (const member of this.#byGroup.get(group)) {
      const known = this.#resources.get(member)?.groups;
      return known !== undefined && sameList(known, groups) ? known : groups;
    }
    return groups;
  }

  #remove(name: string): boolean {
    const before = this.#resources.get(name);
    if (before === undefined) return false;
    this.#unindex(before);
    return this.#resources.delete(name);
  }

  #unindex(resource: WireResource): void {
    for (const alias of resource.aliases) this.#byAlias.delete(alias, resource.name);
    for (const group of resource.groups) this.#byGroup.delete(group, resource.name);
  }
}

function sameNames(a: WireResource, b: WireResource): boolean {
  return sameList(a.aliases, b.aliases) && sameList(a.groups, b.groups);
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name, index) => name === b[index]);
}

/** Key → names. Most keys have one name; a set for each would cost more than the resource. */
class NameIndex {
  readonly #names = new Map<string, string | Set<string>>();

  get(key: string): Iterable<string> {
    const names = this.#names.get(key);
    if (names === undefined) return [];
    return typeof names === 'string' ? [names] : names;
  }

  add(key: string, name: string): void {
    const names = this.#names.get(key);
    if (names === undefined) this.#names.set(key, name);
    else if (typeof names !== 'string') names.add(name);
    else if (names !== name) this.#names.set(key, new Set([names, name]));
  }

  delete(key: string, name: string): void {
    const names = this.#names.get(key);
    if (names === name) this.#names.delete(key);
    else if (typeof names === 'object' && names.delete(name) && names.size === 0) {
      this.#names.delete(key);
    }
  }
}
