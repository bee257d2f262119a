/**
 * Maglev consistent hashing (Eisenbud et al., NSDI 2016, section 3.4): a table of 65,537 places that endpoints fill
 * in turn along permutations of their own, so that each gets an equal share and few keys move when one comes or goes.
 *
 * - A table depends on the set of names only, not on the order in which they came: every waypoint has the same.
 * - Filling all places takes some 700,000 looks, milliseconds, so it can be done in steps while the table before it serves.
 */

import { hashText } from '../base/hash.ts';

/** Prime, as the permutations need, and Envoy's default. */
export const MAGLEV_PLACES = 65_537;
/** More endpoints than this would not get enough places each. */
const NAMES_MAX = 16_384;

export interface MaglevTable {
  readonly names: readonly string[];
  /** Place → index in `names`. */
  readonly places: Uint16Array;
}

export class MaglevBuilder {
  readonly #names: readonly string[];
  readonly #places = new Uint16Array(MAGLEV_PLACES);
  readonly #taken = new Uint8Array(MAGLEV_PLACES);
  readonly #next: Uint32Array;
  readonly #skip: Uint32Array;
  #filled = 0;
  #turn = 0;

  /** Names beyond 16,384, in the order of their text, get no place. */
  constructor(names: Iterable<string>) {
    this.#names = [...new Set(names)].toSorted().slice(0, NAMES_MAX);
    this.#next = new Uint32Array(this.#names.length);
    this.#skip = new Uint32Array(this.#names.length);
    for (const [index, name] of this.#names.entries()) {
      this.#next[index] = hashText(name, 0x5bd1e995) % MAGLEV_PLACES;
      this.#skip[index] = (hashText(name, 0x27d4eb2f) % (MAGLEV_PLACES - 1)) + 1;
    }
  }

  /** Looks at up to `looks` places, of which ever more are taken towards the end; the table once all are filled. */
  step(looks: number): MaglevTable | undefined {
    const names = this.#names.length;
    if (names === 0) return { names: this.#names, places: new Uint16Array(0) };
    for (let left = looks; this.#filled < MAGLEV_PLACES; left--) {
      if (left <= 0) return undefined;
      const index = this.#turn;
      const place = this.#next[index] ?? 0;
      const after = place + (this.#skip[index] ?? 1);
      this.#next[index] = after >= MAGLEV_PLACES ? after - MAGLEV_PLACES : after;
      if (this.#taken[place] === 1) continue;
      this.#taken[place] = 1;
      this.#places[place] = index;
      this.#filled += 1;
      this.#turn = index + 1 === names ? 0 : index + 1;
    }
    return { names: this.#names, places: this.#places };
  }
}

/** Places that are looked at before a full search: with half of all out, all miss once in 10^19. */
const WALK_MAX = 64;

/** The name for `hash`; where it cannot be used, that of the next place whose name can. */
export function lookUp(
  table: MaglevTable,
  hash: number,
  isUsable: (name: string) => boolean,
): string | undefined {
  const { names, places } = table;
  if (names.length === 0) return undefined;
  // A walk of its own per key spreads the keys of one that is out over all others.
  const step = ((hash >>> 16) % (MAGLEV_PLACES - 1)) + 1;
  let place = hash % MAGLEV_PLACES;
  for (let walked = 0; walked < WALK_MAX; walked++) {
    const name = names[places[place] ?? 0];
    if (name !== undefined && isUsable(name)) return name;
    place = (place + step) % MAGLEV_PLACES;
  }
  return names.find(isUsable);
}
