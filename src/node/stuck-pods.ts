/**
 * Pods that cannot be captured must not hold a whole node back: a proxy that is never ready for the sake of one would
 * keep its predecessor beside it, and the roll-out, for ever. They stop counting once nothing has moved for a while,
 * but only where others are captured: when all of them fail, it is the proxy that is wrong, and the predecessor stays.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { CaptureReport, PodUid } from '../core/pod.ts';

/** Since the pod was first seen uncaptured and since the last pod was captured, whichever is later. */
export const STUCK_MS = 30_000;

export interface StuckPods {
  /** Of these reports, which are complete, the pods that no longer count. */
  of(reports: readonly CaptureReport[]): ReadonlySet<PodUid>;
  stop(): void;
}

/** `onChange`: time alone has changed the answer. */
export function createStuckPods(clock: Clock, logger: Logger, onChange: () => void): StuckPods {
  const sinceMs = new Map<PodUid, number>();
  const told = new Set<PodUid>();
  let captured: ReadonlySet<PodUid> = new Set();
  let progressMs = clock.nowMs();
  let timer: Timer | undefined;

  return {
    of(reports) {
      const now = clock.nowMs();
      const before = captured;
      captured = new Set(
        reports.flatMap(({ podUid, state }) => (state === 'captured' ? podUid : [])),
      );
      if ([...captured].some((uid) => !before.has(uid))) progressMs = now;
      const stuck = new Set<PodUid>();
      let nextMs = Infinity;
      const known = new Set(reports.map(({ podUid }) => podUid));
      for (const uid of sinceMs.keys()) {
        if (known.has(uid) && !captured.has(uid)) continue;
        sinceMs.delete(uid);
        told.delete(uid);
      }
      for (const { podUid, state, reason } of reports) {
        if (state === 'captured') continue;
        const since = sinceMs.get(podUid) ?? now;
        sinceMs.set(podUid, since);
        const dueMs = Math.max(since, progressMs) + STUCK_MS;
        if (now < dueMs) nextMs = Math.min(nextMs, dueMs);
        else if (captured.size > 0) {
          stuck.add(podUid);
          if (!told.has(podUid))
            logger.warn('going on without a pod', { pod: podUid, state, reason });
          told.add(podUid);
        }
      }
      timer?.cancel();
      timer = nextMs === Infinity ? undefined : clock.after(nextMs - now, onChange);
      return stuck;
    },
    stop: () => timer?.cancel(),
  };
}
