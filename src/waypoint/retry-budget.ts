/**
 * How many retries one destination can bear: a share of its requests in a sliding window, and a small constant
 * rate besides so that a service with little traffic is retried too (GEP-3388; Linkerd's `retryBudget`). What
 * keeps a failing service from being asked more often than a healthy one.
 *
 * The window is ten slots: a retry counts for between nine and ten tenths of the interval.
 */

import { createRate, takeUnit, type Rate } from '../base/gcra.ts';
import type { RetryBudget } from '../core/traffic-policy.ts';

const SLOTS = 10;

export class RetryAllowance {
  #budget: RetryBudget;
  #floor: Rate | undefined;
  #floorFullAtMs = -Infinity;
  readonly #requests = new Float64Array(SLOTS);
  readonly #retries = new Float64Array(SLOTS);
  #requestSum = 0;
  #retrySum = 0;
  /** Number of the current slot since the clock's origin. */
  #slot = -Infinity;

  constructor(budget: RetryBudget) {
    this.#budget = budget;
    this.#floor = floorOf(budget);
  }

  /** What was counted stays, unless the window has another length. */
  configure(budget: RetryBudget): void {
    if (budget.intervalMs !== this.#budget.intervalMs) this.#slot = -Infinity;
    this.#budget = budget;
    this.#floor = floorOf(budget);
  }

  /** A request that is not a retry. */
  countRequest(nowMs: number): void {
    const index = this.#advance(nowMs);
    this.#requests[index] = (this.#requests[index] ?? 0) + 1;
    this.#requestSum += 1;
  }

  /** Whether one more retry may be made; if so, it is counted. */
  takeRetry(nowMs: number): boolean {
    if (this.#floor !== undefined) {
      const taking = takeUnit(this.#floor, this.#floorFullAtMs, nowMs);
      this.#floorFullAtMs = taking.fullAtMs;
      if (taking.allowed) return true;
    }
    const index = this.#advance(nowMs);
    if (this.#retrySum + 1 > (this.#requestSum * this.#budget.percent) / 100) return false;
    this.#retries[index] = (this.#retries[index] ?? 0) + 1;
    this.#retrySum += 1;
    return true;
  }

  /** Empties the slots that time has passed and returns the current one. */
  #advance(nowMs: number): number {
    const slot = Math.floor((nowMs * SLOTS) / this.#budget.intervalMs);
    if (slot - this.#slot >= SLOTS) {
      this.#requests.fill(0);
      this.#retries.fill(0);
      this.#requestSum = 0;
      this.#retrySum = 0;
      this.#slot = slot;
    }
    while (this.#slot < slot) {
      this.#slot += 1;
      const index = modulo(this.#slot);
      this.#requestSum -= this.#requests[index] ?? 0;
      this.#retrySum -= this.#retries[index] ?? 0;
      this.#requests[index] = 0;
      this.#retries[index] = 0;
    }
    return modulo(slot);
  }
}

function modulo(slot: number): number {
  return ((slot % SLOTS) + SLOTS) % SLOTS;
}

function floorOf({ minPerSecond }: RetryBudget): Rate | undefined {
  return minPerSecond === 0 ? undefined : createRate(minPerSecond, 1_000, minPerSecond);
}
