/**
 * How much of what it has read a server's session looks at in one turn of the event loop: as much as there is, up to the
 * head of the request that would be one too many. The rest waits for the next turn, and nothing more is read meanwhile: so
 * a burst of one client does not hold up all the others of the process (T60; Envoy's `http.max_requests_per_io_cycle`).
 *
 * What waits is bounded by one read: 64 KiB, and what TLS has decrypted beside it or a tunnel's window has let through.
 */

import type { Transport } from './transport.ts';

/** About half a millisecond of work in a waypoint. */
export const REQUESTS_PER_TURN = 16;

export interface PacedSink {
  /** Looks at `buffer[start .. end)`, which holds only during the call, until `spent`; returns how far. */
  push(buffer: Buffer, start: number, end: number): number;
  /** Everything that came before the peer's end has been looked at. */
  ended(): void;
}

export class PacedInput {
  readonly #transport: Transport;
  readonly #sink: PacedSink;
  #begun = 0;
  #waiting: Buffer[] = [];
  #ended = false;

  constructor(transport: Transport, sink: PacedSink) {
    this.#transport = transport;
    this.#sink = sink;
  }

  /** No other request may begin for now. */
  get spent(): boolean {
    return this.#begun >= REQUESTS_PER_TURN;
  }

  /** A request has begun. */
  count(): void {
    this.#begun++;
  }

  push(buffer: Buffer, start: number, end: number): void {
    const waits = this.#waiting.length > 0;
    if (!waits) this.#begun = 0;
    const at = waits ? start : this.#sink.push(buffer, start, end);
    if (at === end) return;
    this.#waiting.push(Buffer.from(buffer.subarray(at, end)));
    if (waits) return;
    this.#transport.pause();
    setImmediate(this.#nextTurn);
  }

  /** The peer has ended its side. */
  end(): void {
    this.#ended = true;
    if (this.#waiting.length === 0) this.#sink.ended();
  }

  readonly #nextTurn = (): void => {
    this.#begun = 0;
    const waiting = this.#waiting;
    for (let chunk = waiting[0]; chunk !== undefined; chunk = waiting[0]) {
      const at = this.#sink.push(chunk, 0, chunk.length);
      if (at < chunk.length) {
        waiting[0] = chunk.subarray(at);
        setImmediate(this.#nextTurn);
        return;
      }
      waiting.shift();
    }
    this.#transport.resume();
    if (this.#ended) this.#sink.ended();
  };
}
