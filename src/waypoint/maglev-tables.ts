/**
 * Keeps one Maglev table up to date with a changing set of endpoints: the table of before serves while the next is
 * made in steps between which the loop gets its turn. Only the very first is made at once.
 */

import type { Clock } from '../base/clock.ts';
import { MaglevBuilder, type MaglevTable } from './maglev.ts';

/** A fraction of a millisecond each; some 45 make a table. */
const LOOKS_PER_STEP = 16_384;
const EMPTY: MaglevTable = { names: [], places: new Uint16Array(0) };

export class MaglevTables {
  readonly #clock: Clock;
  #table: MaglevTable | undefined;
  /** Of the set that the table, or the one being made, stands for. */
  #generation = -1;
  #building = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `generation` tells one set of names from another. The table may be of an earlier one for a moment. */
  current(generation: number, names: () => Iterable<string>): MaglevTable {
    if (this.#table === undefined) {
      this.#generation = generation;
      this.#table = new MaglevBuilder(names()).step(Infinity) ?? EMPTY;
    } else if (generation !== this.#generation && !this.#building) {
      this.#generation = generation;
      this.#building = true;
      this.#continue(new MaglevBuilder(names()));
    }
    return this.#table;
  }

  #continue(builder: MaglevBuilder): void {
    this.#clock.after(0, () => {
      const table = builder.step(LOOKS_PER_STEP);
      if (table === undefined) return this.#continue(builder);
      this.#table = table;
      this.#building = false;
    });
  }
}
