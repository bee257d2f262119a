/**
 * What became of streams that are no longer open, as far as it matters for frames that arrive late: those we
 * reset ourselves are ignored (they were on their way), those that ended are an error. Bounded; the oldest
 * are forgotten.
 */

/** As many as a full session with its successors may reset while their data is still on the way. */
const RESET_MAX = 1024;
const ENDED_MAX = 64;

export class StreamHistory {
  readonly #resetHere = new Set<number>();
  readonly #ended = new Set<number>();

  add(streamId: number, resetHere: boolean): void {
    const [set, max] = resetHere ? [this.#resetHere, RESET_MAX] : [this.#ended, ENDED_MAX];
    set.add(streamId);
    if (set.size <= max) return;
    for (const oldest of set) {
      set.delete(oldest);
      break;
    }
  }

  /** `skipped`: never opened, or forgotten. */
  find(streamId: number): 'reset-here' | 'closed' | 'skipped' {
    if (this.#resetHere.has(streamId)) return 'reset-here';
    return this.#ended.has(streamId) ? 'closed' : 'skipped';
  }
}
