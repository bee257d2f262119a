/**
 * Which endpoints of one service port are out because they failed. An endpoint is `in`, `out` until a time, or on
 * `probation`: its time is over, and one request at a time finds out whether it is well again.
 *
 * - Time out starts at the base, doubles with each failed probe up to the maximum, and half of it is jitter.
 * - Never more than the capped share is out or on probation, and never all.
 * - Only what was sent while an endpoint was `in` can take it out; what comes back late counts for nothing.
 */

import type { Random } from '../base/random.ts';
import type { OutlierSettings } from '../core/traffic-policy.ts';

/** Share of the time out that is random (Linkerd's jitter ratio). */
const JITTER = 0.5;
const SLOTS = 10;

type Standing =
  | { readonly state: 'in' }
  | { readonly state: 'out'; readonly untilMs: number; readonly times: number }
  | { readonly state: 'probation'; probing: boolean; readonly times: number };

interface Tracked {
  standing: Standing;
  consecutive: number;
  readonly successes: Float64Array;
  readonly failures: Float64Array;
  slot: number;
}

/** Told about ejections and returns, for metrics and the log. */
export interface OutlierListener {
  ejected(name: string, durationMs: number): void;
  /** Empty: all of them. */
  returned(name: string): void;
}

export type Passage = 'in' | 'probe';

export class OutlierDetector {
  #settings: OutlierSettings;
  readonly #random: Random;
  readonly #listener: OutlierListener;
  /** Every endpoint that ever failed and is still there; those not in it are `in`. */
  readonly #tracked = new Map<string, Tracked>();
  readonly #away = new Set<string>();
  #total = 0;

  constructor(settings: OutlierSettings, random: Random, listener: OutlierListener) {
    this.#settings = settings;
    this.#random = random;
    this.#listener = listener;
  }

  configure(settings: OutlierSettings): void {
    if (settings.intervalMs !== this.#settings.intervalMs) {
      for (const tracked of this.#tracked.values()) tracked.slot = -Infinity;
    }
    this.#settings = settings;
  }

  /** How many endpoints there are: what the cap is a share of. */
  setTotal(count: number): void {
    this.#total = count;
    // Those that were well may have left: the longest out come back first.
    while (this.#away.size > Math.max(0, this.#awayMax())) {
      for (const name of this.#away) {
        this.forget(name);
        this.#listener.returned(name);
        break;
      }
    }
  }

  /** Endpoints that take no ordinary request now. */
  get awayCount(): number {
    return this.#away.size;
  }

  isAway(name: string): boolean {
    return this.#away.has(name);
  }

  /** Everybody is well: nothing is looked at any more. */
  clear(): void {
    const before = this.#away.size;
    this.#tracked.clear();
    this.#away.clear();
    if (before > 0) this.#listener.returned('');
  }

  forget(name: string): void {
    this.#tracked.delete(name);
    this.#away.delete(name);
  }

  /** Of those that are away, one whose time is over and that nobody probes. */
  dueProbe(nowMs: number): string | undefined {
    for (const name of this.#away) {
      if (this.#isDue(name, nowMs)) return name;
    }
    return undefined;
  }

  /** What a request is to this endpoint, or undefined when it must not go there. A probe must be reported. */
  begin(name: string, nowMs: number): Passage | undefined {
    if (!this.#away.has(name)) return 'in';
    if (!this.#isDue(name, nowMs)) return undefined;
    const tracked = this.#tracked.get(name);
    if (tracked === undefined || tracked.standing.state === 'in') return undefined;
    tracked.standing = { state: 'probation', probing: true, times: tracked.standing.times };
    return 'probe';
  }

  /** How an attempt that `begin` let through ended; undefined: not known (the client went away). */
  report(name: string, passage: Passage, success: boolean | undefined, nowMs: number): void {
    const tracked = this.#tracked.get(name);
    if (passage === 'probe') {
      if (tracked?.standing.state === 'probation') this.#probed(name, tracked, success, nowMs);
      return;
    }
    if (success === undefined || this.#away.has(name)) return;
    if (success && tracked === undefined && this.#settings.successPercent === 0) return;
    this.#counted(name, tracked ?? this.#track(name), success, nowMs);
  }

  #probed(name: string, tracked: Tracked, success: boolean | undefined, nowMs: number): void {
    const { standing } = tracked;
    if (standing.state === 'in') return;
    if (success === undefined) {
      tracked.standing = { state: 'probation', probing: false, times: standing.times };
    } else if (success) {
      this.#tracked.delete(name);
      this.#away.delete(name);
      this.#listener.returned(name);
    } else {
      this.#eject(name, tracked, standing.times + 1, nowMs);
    }
  }

  #counted(name: string, tracked: Tracked, success: boolean, nowMs: number): void {
    const { consecutiveFailures, successPercent, successRequestsMin } = this.#settings;
    tracked.consecutive = success ? 0 : tracked.consecutive + 1;
    let trips = consecutiveFailures > 0 && tracked.consecutive >= consecutiveFailures;
    if (successPercent > 0) {
      const index = this.#advance(tracked, nowMs);
      const slots = success ? tracked.successes : tracked.failures;
      slots[index] = (slots[index] ?? 0) + 1;
      const successes = sum(tracked.successes);
      const all = successes + sum(tracked.failures);
      trips ||= !success && all >= successRequestsMin && successes * 100 < all * successPercent;
    }
    if (trips && this.#away.size < this.#awayMax()) this.#eject(name, tracked, 1, nowMs);
  }

  /** A cap below one endpoint still allows one, where another is left. */
  #awayMax(): number {
    const share = Math.floor((this.#total * this.#settings.ejectedPercentMax) / 100);
    return Math.min(Math.max(1, share), this.#total - 1);
  }

  #eject(name: string, tracked: Tracked, times: number, nowMs: number): void {
    const { ejectionBaseMs, ejectionMaxMs } = this.#settings;
    const boundMs = Math.min(ejectionMaxMs, ejectionBaseMs * 2 ** Math.min(30, times - 1));
    const durationMs = boundMs * (1 - JITTER * this.#random.next());
    tracked.standing = { state: 'out', untilMs: nowMs + durationMs, times };
    tracked.consecutive = 0;
    tracked.slot = -Infinity;
    this.#away.add(name);
    this.#listener.ejected(name, durationMs);
  }

  #isDue(name: string, nowMs: number): boolean {
    const standing = this.#tracked.get(name)?.standing;
    if (standing?.state === 'out') return standing.untilMs <= nowMs;
    return standing?.state === 'probation' && !standing.probing;
  }

  #track(name: string): Tracked {
    const tracked: Tracked = {
      standing: { state: 'in' },
      consecutive: 0,
      successes: new Float64Array(SLOTS),
      failures: new Float64Array(SLOTS),
      slot: -Infinity,
    };
    this.#tracked.set(name, tracked);
    return tracked;
  }

  /** The current slot of the sliding window, with those that time has passed emptied. */
  #advance(tracked: Tracked, nowMs: number): number {
    const slot = Math.floor((nowMs * SLOTS) / this.#settings.intervalMs);
    const from = Math.max(tracked.slot + 1, slot - SLOTS + 1);
    for (let passed = from; passed <= slot; passed++) {
      const index = ((passed % SLOTS) + SLOTS) % SLOTS;
      tracked.successes[index] = 0;
      tracked.failures[index] = 0;
    }
    tracked.slot = Math.max(tracked.slot, slot);
    return ((slot % SLOTS) + SLOTS) % SLOTS;
  }
}

function sum(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
