/**
 * Time limits for many things at the price of a number each: every thing says when its time is over, one timer
 * looks at all of them. For limits of seconds and more; exact to `periodMs`.
 */

import type { Clock } from './clock.ts';

export interface WatchedDeadline {
  /** On the monotonic clock; `Infinity`: none now. May change at any time. */
  readonly deadlineMs: number;
  /** The deadline has passed. Called on every look until it is changed or the thing is removed. */
  onDeadline(): void;
}

export interface DeadlineSweep {
  readonly count: number;
  nowMs(): number;
  add(item: WatchedDeadline): void;
  /** Ends the watch. Idempotent. */
  remove(item: WatchedDeadline): void;
  stop(): void;
}

/** One per process; must be stopped. `periodMs`: default 500. */
export function createDeadlineSweep(clock: Clock, periodMs: number = 500): DeadlineSweep {
  const items = new Set<WatchedDeadline>();
  const timer = clock.every(periodMs, () => {
    const nowMs = clock.nowMs();
    for (const item of items) if (item.deadlineMs <= nowMs) item.onDeadline();
  });
  return {
    get count() {
      return items.size;
    },
    nowMs: () => clock.nowMs(),
    add: (item) => void items.add(item),
    remove: (item) => void items.delete(item),
    stop: () => timer.cancel(),
  };
}
