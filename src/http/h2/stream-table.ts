/**
 * The streams of a session: which are open, which ids have been used, and what became of those that are gone, as
 * far as it matters for frames that arrive late: of streams we reset ourselves they are ignored (they were
 * on their way), of streams that ended they are an error. That memory is bounded; the oldest are forgotten.
 */

import type { Stream } from './stream.ts';

/** As many as a full session with its successors may reset while their data is still on the way. */
const RESET_MAX = 1024;
const ENDED_MAX = 64;

/** Slots of a table that is empty; a power of two, as every number of slots. */
const SLOTS_MIN = 8;

/** What a stream id that is not open means. `skipped`: never opened, or forgotten. */
export type AbsentStream = 'idle' | 'reset-here' | 'closed' | 'skipped';

export class StreamTable {
  readonly #isServer: boolean;
  readonly #open = new OpenStreams();
  readonly #resetHere = new Set<number>();
  /** The last of those that ended, each in the place of one before it. */
  readonly #ended: number[] = [];
  #endedCount = 0;
  /** Id of the next stream we open (client). */
  nextId = 1;
  /** Highest id the peer has opened (server). */
  lastPeerId = 0;
  /** Closed streams whose handlers still work (T61). */
  retained = 0;

  constructor(isServer: boolean) {
    this.#isServer = isServer;
  }

  get size(): number {
    return this.#open.size;
  }

  get(streamId: number): Stream | undefined {
    return this.#open.get(streamId);
  }

  /** As they are now. */
  values(): Stream[] {
    return this.#open.values();
  }

  /** Its id is not in the table. */
  add(stream: Stream): void {
    this.#open.add(stream);
  }

  /** The stream has closed. */
  remove(stream: Stream): void {
    this.#open.remove(stream.id);
    if (!stream.done) this.retained++;
    if (stream.resetHere) this.markReset(stream.id);
    else this.#ended[this.#endedCount++ % ENDED_MAX] = stream.id;
  }

  /** Frames of this stream are to be ignored: we have refused it. */
  markReset(streamId: number): void {
    this.#resetHere.add(streamId);
    if (this.#resetHere.size <= RESET_MAX) return;
    for (const oldest of this.#resetHere) {
      this.#resetHere.delete(oldest);
      break;
    }
  }

  /** For an id that `get` does not know. Even ids would be a server's, and servers open none. */
  absent(streamId: number): AbsentStream {
    const used = this.#isServer ? streamId <= this.lastPeerId : streamId < this.nextId;
    if (streamId % 2 === 0 || !used) return 'idle';
    if (this.#resetHere.has(streamId)) return 'reset-here';
    return this.#ended.includes(streamId) ? 'closed' : 'skipped';
  }
}

/**
 * The open streams by id; not a `Map`, for the reason that `base/roster.ts` gives. Ids come in order, so that nearly each
 * finds the slot of its own; where an older stream is still in it, the next free one. A peer that skips ids can make all
 * of its streams meet in one slot: a look then takes a step for each of them, `streamsMax` at the most.
 */
class OpenStreams {
  /** At most half of them are taken. */
  #slots: (Stream | undefined)[] = emptySlots(SLOTS_MIN);
  size = 0;

  get(streamId: number): Stream | undefined {
    return this.#slots[this.#find(streamId)];
  }

  add(stream: Stream): void {
    this.size++;
    if (this.size * 2 > this.#slots.length) {
      const open = this.values();
      this.#slots = emptySlots(this.#slots.length * 2);
      for (const other of open) this.#slots[this.#find(other.id)] = other;
    }
    this.#slots[this.#find(stream.id)] = stream;
  }

  remove(streamId: number): void {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let free = this.#find(streamId);
    if (slots[free] === undefined) return;
    this.size--;
    // Who was put off to a later slot moves up, so that looking for it never meets a gap.
    for (let at = (free + 1) & mask; ; at = (at + 1) & mask) {
      const stream = slots[at];
      if (stream === undefined) break;
      const putOff = (at - homeOf(stream.id, mask)) & mask;
      if (putOff < ((at - free) & mask)) continue;
      slots[free] = stream;
      free = at;
    }
    slots[free] = undefined;
    if (this.size === 0 && slots.length > SLOTS_MIN) this.#slots = emptySlots(SLOTS_MIN);
  }

  values(): Stream[] {
    return this.#slots.filter((stream) => stream !== undefined);
  }

  /** The slot of this stream, or the free one where it would be. */
  #find(streamId: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let at = homeOf(streamId, mask);
    for (let stream = slots[at]; stream !== undefined && stream.id !== streamId;) {
      at = (at + 1) & mask;
      stream = slots[at];
    }
    return at;
  }
}

function emptySlots(count: number): (Stream | undefined)[] {
  return Array.from({ length: count }, () => undefined);
}

/** Every other id is the other side's. */
function homeOf(streamId: number, mask: number): number {
  return (streamId >>> 1) & mask;
}
