/**
 * Every abuse budget of a session, counted in one place (T60 to T65). A method says what happened and returns
 * true while it is within the budget; after the first false the session ends with ENHANCE_YOUR_CALM and
 * `violation` says why. Budgets are per session and start full.
 */

import type { Clock } from '../../base/clock.ts';
import type { H2Limits, Rate } from './limits.ts';

/** WINDOW_UPDATE frames a peer may send for each DATA frame of ours, and one more per this many bytes. */
const UPDATES_PER_DATA = 2;
const BYTES_PER_UPDATE = 4096;
const SETTINGS_COST = 5;
const UNKNOWN_BYTES_PER_TOKEN = 16_384;

export interface AbuseBudget {
  /** Why a method returned false first. */
  readonly violation: string | undefined;
  /** RST_STREAM came; `early`: before our answer had gone out. */
  resetReceived(early: boolean): boolean;
  /** We reset a stream because the peer broke a rule. */
  resetProvoked(): boolean;
  /** A control frame other than RST_STREAM came. */
  controlReceived(): boolean;
  settingsReceived(): boolean;
  /** A DATA frame went out: the peer may answer it with window updates. */
  dataSent(bytes: number): void;
  emptyDataReceived(): boolean;
  unknownReceived(bytes: number): boolean;
  /** A header block stands at this many encoded bytes in this many CONTINUATION frames (T62). */
  headerBlock(bytes: number, continuations: number): boolean;
  /** Our answers waiting for the socket. */
  controlQueued(frames: number): boolean;
  /** Called regularly with what is queued and what has been sent in all (T65). */
  stalled(queuedBytes: number, sentBytes: number): boolean;
}

export function createAbuseBudget(clock: Clock, limits: H2Limits): AbuseBudget {
  return new Budget(clock, limits);
}

/** Looks at the clock only when empty, so that a full bucket costs an addition. */
class TokenBucket {
  readonly #clock: Clock;
  readonly #rate: Rate;
  #tokens: number;
  #filledMs: number;

  constructor(clock: Clock, rate: Rate) {
    this.#clock = clock;
    this.#rate = rate;
    this.#tokens = rate.burst;
    this.#filledMs = clock.nowMs();
  }

  take(count: number): boolean {
    this.#tokens -= count;
    if (this.#tokens >= 0) return true;
    const nowMs = this.#clock.nowMs();
    const earned = ((nowMs - this.#filledMs) / 1000) * this.#rate.perSecond;
    this.#tokens = Math.min(this.#rate.burst, this.#tokens + earned);
    this.#filledMs = nowMs;
    return this.#tokens >= 0;
  }

  give(count: number): void {
    this.#tokens = Math.min(this.#rate.burst, this.#tokens + count);
  }
}

class Budget implements AbuseBudget {
  readonly #clock: Clock;
  readonly #limits: H2Limits;
  readonly #early: TokenBucket;
  readonly #late: TokenBucket;
  readonly #provoked: TokenBucket;
  readonly #control: TokenBucket;
  readonly #empty: TokenBucket;
  readonly #unknown: TokenBucket;
  #violation: string | undefined;
  #sentBytes = 0;
  #movedMs: number;

  constructor(clock: Clock, limits: H2Limits) {
    this.#clock = clock;
    this.#limits = limits;
    this.#early = new TokenBucket(clock, limits.earlyResets);
    this.#late = new TokenBucket(clock, limits.lateResets);
    this.#provoked = new TokenBucket(clock, limits.provokedResets);
    this.#control = new TokenBucket(clock, limits.controlFrames);
    this.#empty = new TokenBucket(clock, limits.emptyData);
    this.#unknown = new TokenBucket(clock, limits.unknownFrames);
    this.#movedMs = clock.nowMs();
  }

  get violation(): string | undefined {
    return this.#violation;
  }

  resetReceived(early: boolean): boolean {
    return this.#check((early ? this.#early : this.#late).take(1), 'too many streams reset');
  }

  resetProvoked(): boolean {
    return this.#check(this.#provoked.take(1), 'too many resets provoked');
  }

  controlReceived(): boolean {
    return this.#check(this.#control.take(1), 'too many control frames');
  }

  settingsReceived(): boolean {
    return this.#check(this.#control.take(SETTINGS_COST), 'too many SETTINGS frames');
  }

  dataSent(bytes: number): void {
    this.#control.give(UPDATES_PER_DATA + bytes / BYTES_PER_UPDATE);
  }

  emptyDataReceived(): boolean {
    return this.#check(this.#empty.take(1), 'too many empty DATA frames');
  }

  unknownReceived(bytes: number): boolean {
    const tokens = Math.max(1, Math.ceil(bytes / UNKNOWN_BYTES_PER_TOKEN));
    return this.#check(this.#unknown.take(tokens), 'too many frames of unknown types');
  }

  headerBlock(bytes: number, continuations: number): boolean {
    return (
      this.#check(bytes <= this.#limits.headerBlockMaxBytes, 'a header block is too large') &&
      this.#check(continuations <= this.#limits.continuationsMax, 'too many CONTINUATION frames')
    );
  }

  controlQueued(frames: number): boolean {
    return this.#check(frames <= this.#limits.controlQueuedMax, 'answers are not being read');
  }

  stalled(queuedBytes: number, sentBytes: number): boolean {
    const nowMs = this.#clock.nowMs();
    if (sentBytes !== this.#sentBytes || queuedBytes < this.#limits.stallMinBytes) {
      this.#sentBytes = sentBytes;
      this.#movedMs = nowMs;
    }
    return this.#check(
      nowMs - this.#movedMs < this.#limits.stallTimeoutMs,
      'queued data is not being read',
    );
  }

  #check(within: boolean, violation: string): boolean {
    if (!within) this.#violation ??= violation;
    return within;
  }
}
