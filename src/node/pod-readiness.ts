/**
 * Whether a worker knows enough of a pod to serve it: its workload (or that there is none), the policies, its
 * certificate. Connections that arrive earlier, from a queue that a predecessor left or in the moment of
 * enrolment, wait, paused, instead of being refused for what is only not there yet.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { PodUid } from '../core/pod.ts';

/** After this they go on all the same, and are refused with what is missing. */
const WAIT_MS = 5000;
/** Connections that wait in one worker; more go on at once. */
const WAITING_MAX = 4096;

interface Waiting {
  readonly pod: PodUid;
  readonly go: () => void;
  readonly timer: Timer;
}

export interface PodReadiness {
  /** Calls `go` as soon as the pod is ready, at the latest after `WAIT_MS`; now, if it is. */
  whenReady(pod: PodUid, go: () => void): void;
  isReady(pod: PodUid): boolean;
  /** Connections that wait. */
  readonly waitingCount: number;
  /** Something it depends on may have changed. */
  poke(): void;
}

export function createPodReadiness(clock: Clock, isReady: (pod: PodUid) => boolean): PodReadiness {
  const waiting = new Set<Waiting>();
  return {
    isReady,
    get waitingCount() {
      return waiting.size;
    },
    whenReady(pod, go) {
      if (isReady(pod) || waiting.size >= WAITING_MAX) {
        go();
        return;
      }
      const timer = clock.after(WAIT_MS, () => {
        waiting.delete(item);
        go();
      });
      const item: Waiting = { pod, go, timer };
      waiting.add(item);
    },
    poke() {
      for (const item of waiting) {
        if (!isReady(item.pod)) continue;
        waiting.delete(item);
        item.timer.cancel();
        item.go();
      }
    },
  };
}
