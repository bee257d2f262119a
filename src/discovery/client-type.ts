/** What a client asks for and holds of one type. It outlives streams: a new one starts from here. */

import type { Rejection } from './wire-messages.ts';
import type { WireResource } from './wire-resource.ts';

/** What changed of one type. */
export interface TypeUpdate {
  readonly resources: readonly WireResource[];
  readonly removed: readonly string[];
}

/** Names one client may ask for of one type. The server's bound is the same. */
export const HELD_NAMES_MAX = 100_000;

interface TypeOptions {
  readonly typeUrl: string;
  readonly mode: 'wildcard' | 'on-demand';
  apply(update: TypeUpdate): Promise<readonly Rejection[]>;
}

export class TypeHolding {
  readonly typeUrl: string;
  readonly mode: 'wildcard' | 'on-demand';
  synced = false;
  readonly #apply: TypeOptions['apply'];
  readonly #versions = new Map<string, string>();
  readonly #names = new Set<string>();
  /** Name → wanted: what the server has not been told yet. */
  #untold = new Map<string, boolean>();

  constructor(options: TypeOptions) {
    this.typeUrl = options.typeUrl;
    this.mode = options.mode;
    this.#apply = (update) => options.apply(update);
  }

  /** Name → version of what was accepted and not removed. */
  get versions(): ReadonlyMap<string, string> {
    return this.#versions;
  }

  get hasUntold(): boolean {
    return this.#untold.size > 0;
  }

  subscribe(names: readonly string[]): boolean {
    const added = names.filter((name) => !this.#names.has(name));
    if (this.#names.size + added.length > HELD_NAMES_MAX) return false;
    for (const name of names) {
      this.#names.add(name);
      this.#untold.set(name, true);
    }
    return true;
  }

  unsubscribe(names: readonly string[]): void {
    for (const name of names) {
      if (this.#names.delete(name)) this.#untold.set(name, false);
    }
  }

  /**
   * What the first request of a stream asks for. Names asked for since the last stream are left to
   * `takeUntold`: here the server would spare us what `versions` says, and whoever gave a name up and asks
   * for it again no longer has it.
   */
  start(): { readonly subscribe: readonly string[]; readonly unsubscribe: readonly string[] } {
    for (const [name, wanted] of this.#untold) if (!wanted) this.#untold.delete(name);
    if (this.mode === 'wildcard') return { subscribe: [], unsubscribe: [] };
    const told = [...this.#names].filter((name) => !this.#untold.has(name));
    // An empty first request would mean everything: this is how to ask for nothing (as ztunnel does).
    if (told.length === 0) return { subscribe: ['*'], unsubscribe: ['*'] };
    return { subscribe: told, unsubscribe: [] };
  }

  takeUntold(): { readonly subscribe: readonly string[]; readonly unsubscribe: readonly string[] } {
    const untold = [...this.#untold];
    this.#untold = new Map();
    const named = (wanted: boolean): string[] =>
      untold.filter(([, want]) => want === wanted).map(([name]) => name);
    return { subscribe: named(true), unsubscribe: named(false) };
  }

  /** Applies an update and remembers the versions of what was accepted. */
  async apply(update: TypeUpdate): Promise<readonly Rejection[]> {
    const rejections = await this.#apply(update);
    const rejected = new Set(rejections.map(({ name }) => name));
    for (const { name, version } of update.resources) {
      if (!rejected.has(name)) this.#versions.set(name, version);
    }
    for (const name of update.removed) this.#versions.delete(name);
    return rejections;
  }
}
