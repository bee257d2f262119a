/**
 * Where dials wait when no descriptor is free for them (T69). First come, first served; however many wait, only the
 * first one tries, so that a full worker does not spin. Each wait is bounded by its dial's own timeout.
 */

import type { Clock } from '../base/clock.ts';

const RETRY_MS = 50;

export interface DialQueue {
  /** Descriptors from this number on are not for connections but for the process itself. */
  readonly ceiling: number;
  /** Calls `attempt` now or later until it says true: it has what it needs, or wants it no more. */
  enter(attempt: () => boolean): void;
}

export function createDialQueue(clock: Clock, ceiling: number): DialQueue {
  const waiting: (() => boolean)[] = [];
  const serve = (): void => {
    let served = 0;
    while (waiting[served]?.() === true) served++;
    waiting.splice(0, served);
    if (waiting.length > 0) clock.after(RETRY_MS, serve);
  };
  return {
    ceiling,
    enter(attempt) {
      if (waiting.length === 0 && attempt()) return;
      waiting.push(attempt);
      if (waiting.length === 1) clock.after(RETRY_MS, serve);
    },
  };
}
