/**
 * Drain: stop accepting, finish what runs, then force. One trigger, many watchers, one deadline.
 *
 * - A watcher registers before it starts work and releases when the work has ended.
 * - `start` tells every watcher once; those that register later are told at once.
 * - `done` resolves when no watcher is left or the deadline passed; at the deadline `force` is signalled.
 */

import type { Clock, Timer } from './clock.ts';

export interface DrainWatcher {
  /** Work under this watcher has ended. Idempotent. */
  release(): void;
}

export interface Drain {
  readonly draining: boolean;
  /** Watchers not released yet. */
  readonly activeCount: number;
  /** Registers work. `onDrain` is called when the drain starts, `onForce` at its deadline. */
  watch(onDrain: () => void, onForce: () => void): DrainWatcher;
  /** Starts the drain (idempotent); resolves with the number of watchers that had to be forced. */
  start(deadlineMs: number): Promise<number>;
}

interface Watch {
  readonly onDrain: () => void;
  readonly onForce: () => void;
}

export function createDrain(clock: Clock): Drain {
  const watches = new Set<Watch>();
  let running: Promise<number> | undefined;
  let finish: ((forced: number) => void) | undefined;
  let timer: Timer | undefined;
  const settleIfIdle = (): void => {
    if (finish !== undefined && watches.size === 0) {
      timer?.cancel();
      finish(0);
    }
  };
  return {
    get draining() {
      return running !== undefined;
    },
    get activeCount() {
      return watches.size;
    },
    watch(onDrain, onForce) {
      const watch: Watch = { onDrain, onForce };
      watches.add(watch);
      if (running !== undefined) onDrain();
      return {
        release() {
          if (watches.delete(watch)) settleIfIdle();
        },
      };
    },
    start(deadlineMs) {
      running ??= new Promise<number>((resolve) => {
        finish = resolve;
        for (const watch of watches) watch.onDrain();
        timer = clock.after(deadlineMs, () => {
          const left = [...watches];
          for (const watch of left) watch.onForce();
          resolve(left.length);
        });
        settleIfIdle();
      });
      return running;
    },
  };
}
