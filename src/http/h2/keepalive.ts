/**
 * Tells whether the peer is there: it must start HTTP/2 in time; after 10 s of silence it gets a PING, after 20 s
 * more without a byte it is dead. Measures the round trip on the way.
 *
 * Silence is counted in ticks of the loop, not on the clock: a tick that comes late says that this process did
 * not run (F62) and is passed over, though not twice in a row, or a starved process would wait for ever. A
 * tick counts only after a whole turn of the loop in which waiting bytes could have been read.
 *
 * A peer that is asked (`probe`) and sends nothing for a second is suspect until its next byte. When that second
 * ends late it gets one more: this process did not run, and every peer it had asked would be blamed at once.
 */

import type { Clock, Timer } from '../../base/clock.ts';

export const TICK_MS = 5000;
/** Silent ticks after which a PING goes out. */
const PING_AFTER_TICKS = 2;
/** Silent ticks after the PING at which the peer is dead. */
const DEAD_AFTER_TICKS = 4;
/** A peer that was asked has so long to send anything at all. */
export const PROBE_MS = 1000;
/** A tick later than this is late. */
const LATE_MS = 1000;
/** The end of a probe that comes later than this is late: a loop that is merely busy stays well below. */
const PROBE_LATE_MS = 200;

export interface KeepaliveHandlers {
  /** Send a PING; its answer goes to `pong`. */
  ping(): void;
  /** A round trip was measured. */
  roundTrip(rttMs: number): void;
  /** No HTTP/2 in `startTimeoutMs`. */
  notStarted(): void;
  /** Silent for too long. */
  dead(): void;
  /** `suspect` has changed. */
  suspicion(): void;
  /** Every 5 s, before anything else. */
  tick(): void;
}

export class Keepalive {
  readonly #clock: Clock;
  readonly #handlers: KeepaliveHandlers;
  readonly #ticker: Timer;
  #startTimer: Timer | undefined;
  #silentTicks = 0;
  #dueMs: number;
  #passedOver = false;
  #pingSentMs: number | undefined;
  #stopped = false;
  #probeTimer: Timer | undefined;
  #heardSinceProbe = false;
  #suspect = false;

  constructor(clock: Clock, startTimeoutMs: number, handlers: KeepaliveHandlers) {
    this.#clock = clock;
    this.#handlers = handlers;
    this.#dueMs = clock.nowMs() + TICK_MS;
    this.#ticker = clock.every(TICK_MS, () => this.#onTick());
    this.#startTimer = clock.after(startTimeoutMs, () => handlers.notStarted());
  }

  /** Asked, and silent for a second since. */
  get suspect(): boolean {
    return this.#suspect;
  }

  /** Bytes came. */
  heard(): void {
    this.#silentTicks = 0;
    this.#heardSinceProbe = true;
    if (this.#suspect) this.#setSuspect(false);
  }

  /** Asks the peer for a sign of life, unless it has not started, is being asked or is suspect already. */
  probe(): void {
    if (this.#stopped || this.#startTimer !== undefined) return;
    if (this.#suspect || this.#probeTimer !== undefined) return;
    this.#heardSinceProbe = false;
    if (this.#pingSentMs === undefined) this.#ping();
    this.#awaitAnswer(true);
  }

  /** The peer speaks HTTP/2. Idempotent. */
  started(): void {
    if (this.#startTimer === undefined) return;
    this.#startTimer.cancel();
    this.#startTimer = undefined;
    this.#ping();
  }

  /** The answer to the last PING came. */
  pong(): void {
    if (this.#pingSentMs === undefined) return;
    const rttMs = this.#clock.nowMs() - this.#pingSentMs;
    this.#pingSentMs = undefined;
    this.#handlers.roundTrip(rttMs);
  }

  stop(): void {
    this.#stopped = true;
    this.#ticker.cancel();
    this.#startTimer?.cancel();
    this.#probeTimer?.cancel();
  }

  #awaitAnswer(mayBeLate: boolean): void {
    const dueMs = this.#clock.nowMs() + PROBE_MS;
    this.#probeTimer = this.#clock.after(PROBE_MS, () => {
      // The PING itself may not have left before.
      if (mayBeLate && this.#clock.nowMs() - dueMs > PROBE_LATE_MS) {
        this.#awaitAnswer(false);
        return;
      }
      // As for the ticks: what has arrived is read before the verdict.
      setImmediate(() => {
        this.#probeTimer = undefined;
        if (!this.#stopped && !this.#heardSinceProbe) this.#setSuspect(true);
      });
    });
  }

  #setSuspect(suspect: boolean): void {
    this.#suspect = suspect;
    this.#handlers.suspicion();
  }

  #ping(): void {
    this.#pingSentMs = this.#clock.nowMs();
    this.#handlers.ping();
  }

  #onTick(): void {
    const nowMs = this.#clock.nowMs();
    const late = nowMs - this.#dueMs > LATE_MS;
    this.#dueMs = nowMs + TICK_MS;
    this.#handlers.tick();
    this.#passedOver = late && !this.#passedOver;
    if (this.#passedOver || this.#stopped) return;
    this.#silentTicks++;
    if (this.#silentTicks === PING_AFTER_TICKS) this.#ping();
    if (this.#silentTicks < PING_AFTER_TICKS + DEAD_AFTER_TICKS) return;
    // What has arrived is read before the verdict: timers run first in a turn of the loop.
    const seen = this.#silentTicks;
    setImmediate(() => {
      if (!this.#stopped && this.#silentTicks === seen) this.#handlers.dead();
    });
  }
}
