/**
 * The streams of a session: which are open, which ids have been used, and what became of those that are gone, as
 * far as it matters for frames that arrive late: of streams we reset ourselves they are ignored (they were
 * on their way), of streams that ended they are an error. That memory is bounded; the oldest are forgotten.
 */

import type { Stream } from './stream.ts';

/** As many as a full session with its successors may reset while their data is still on the way. */
const RESET_MAX = 1024;
const ENDED_MAX = 64;

/** What a stream id that is not open means. `skipped`: never opened, or forgotten. */
export type AbsentStream = 'idle' | 'reset-here' | 'closed' | 'skipped';

function addBounded(ids: Set<number>, id: number, max: number): void {
  ids.add(id);
  if (ids.size <= max) return;
  for (const oldest of ids) {
    ids.delete(oldest);
    break;
  }
}

export class StreamTable {
  readonly #isServer: boolean;
  readonly #open = new Map<number, Stream>();
  readonly #resetHere = new Set<number>();
  readonly #ended = new Set<number>();
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

  /** May be walked while streams are removed. */
  values(): Iterable<Stream> {
    return this.#open.values();
  }

  add(stream: Stream): void {
    this.#open.set(stream.id, stream);
  }

  /** The stream has closed. */
  remove(stream: Stream): void {
    this.#open.delete(stream.id);
    if (!stream.done) this.retained++;
    if (stream.resetHere) this.markReset(stream.id);
    else addBounded(this.#ended, stream.id, ENDED_MAX);
  }

  /** Frames of this stream are to be ignored: we have refused it. */
  markReset(streamId: number): void {
    addBounded(this.#resetHere, streamId, RESET_MAX);
  }

  /** For an id that `get` does not know. Even ids would be a server's, and servers open none. */
  absent(streamId: number): AbsentStream {
    const used = this.#isServer ? streamId <= this.lastPeerId : streamId < this.nextId;
    if (streamId % 2 === 0 || !used) return 'idle';
    if (this.#resetHere.has(streamId)) return 'reset-here';
    return this.#ended.has(streamId) ? 'closed' : 'skipped';
  }
}
