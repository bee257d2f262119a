/**
 * Long synchronous work in short turns: ask `spent` now and then, and when it says so, `await yield()`. Timers,
 * sockets and other connections run in between, so that no batch, however large, blocks the loop.
 */

import type { Clock } from './clock.ts';

export interface TimeSlice {
  /** Whether this turn has used its budget. Cheap enough to be asked once per item. */
  readonly spent: boolean;
  /** Lets the loop run once and starts a new turn. */
  yield(): Promise<void>;
}

/** The longest a slice may run before it yields; design, section 3.4. */
const SLICE_BUDGET_MS = 4;

export function createTimeSlice(clock: Clock, budgetMs: number = SLICE_BUDGET_MS): TimeSlice {
  let startMs = clock.nowMs();
  return {
    get spent() {
      return clock.nowMs() - startMs >= budgetMs;
    },
    async yield() {
      // Not a timer: setImmediate runs after the poll phase, so pending I/O is served first.
      await new Promise<void>((resolve) => setImmediate(resolve));
      startMs = clock.nowMs();
    },
  };
}
