/**
 * How many requests of one HTTP/2 connection begin in one turn of the event loop. The others wait for later turns, in order:
 * so a burst of one client does not hold up all the others of the process, and what the client takes back meanwhile was
 * never routed nor sent (T60; Envoy's `http.max_requests_per_io_cycle`). Bounded by the streams of the connection.
 */

import { Roster } from '../base/roster.ts';

/** About a millisecond of work. */
export const STARTS_PER_TURN = 16;

export class StartTurns {
  /** Since the last turn that was begun for them; a new one is asked for only when they are many. */
  #count = 0;
  readonly #waiting = new Roster<() => void>();

  /** True: a request may begin now, and is counted. */
  take(): boolean {
    if (this.#count >= STARTS_PER_TURN) return false;
    if (++this.#count === STARTS_PER_TURN) setImmediate(this.#nextTurn);
    return true;
  }

  /** For who was refused by `take`: `start` is called in a later turn, unless what is returned is called before. */
  later(start: () => void): () => void {
    const place = this.#waiting.add(start);
    return () => void place.leave();
  }

  readonly #nextTurn = (): void => {
    this.#count = 0;
    while (this.#waiting.size > 0 && this.take()) this.#waiting.shift()?.();
  };
}
