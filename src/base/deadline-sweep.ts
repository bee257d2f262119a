/**
 * Time limits for many things at the price of a number each: every thing says when its time is over, one timer
 * looks at all of them. For limits of seconds and more; exact to `periodMs`.
 */

import type { Clock } from './clock.ts';
import { Roster, type Place } from './roster.ts';

export interface WatchedDeadline {
  /** On the monotonic clock; `Infinity`: none now. May change at any time. */
  readonly deadlineMs: number;
  /** The deadline has passed. Called on every look until it is changed or the thing is removed. */
  onDeadline(): void;
}

export interface DeadlineSweep {
  readonly count: number;
  nowMs(): number;
  /** The watch ends with leaving the place. */
  add(item: WatchedDeadline): Place;
  stop(): void;
}

/** One per process; must be stopped. `periodMs`: default 500. */
export function createDeadlineSweep(clock: Clock, periodMs: number = 500): DeadlineSweep {
  const items = new Roster<WatchedDeadline>();
  const timer = clock.every(periodMs, () => {
    const nowMs = clock.nowMs();
    items.each((item) => {
      if (item.deadlineMs <= nowMs) item.onDeadline();
    });
  });
  return {
    get count() {
      return items.size;
    },
    nowMs: () => clock.nowMs(),
    add: (item) => items.add(item),
    stop: () => timer.cancel(),
  };
}
