/**
 * Keeps every attached pod's rules standing (T29, T33): a pod whose rules, routes or sysctl differ from what
 * was set is reported and repaired. Looks closely at every pod each 30 s, and at a pod the kernel notified a
 * change in within a second, but at most once in 5 s each, so that a pod that keeps tampering costs little.
 */

import type { Timer } from '../base/clock.ts';
import { openChangeMonitor, type ChangeMonitor } from '../linux/change-monitor.ts';
import type { PodUid } from '../core/pod.ts';
import type { AttachedPod } from './attach.ts';
import type { RedirectContext } from './context.ts';

export const RECONCILE_PERIOD_MS = 30_000;
export const CHANGE_POLL_MS = 1_000;
export const CHANGE_REPAIR_INTERVAL_MS = 5_000;
/** Pods looked at side by side; each costs up to four child processes one after the other. */
const PARALLEL_MAX = 4;

export interface ReconcileFinding {
  readonly pod: AttachedPod;
  /** What was wrong, as words; empty when the check itself failed. */
  readonly found: readonly string[];
  /** Absent when it was repaired. */
  readonly error?: unknown;
}

export interface Reconciler {
  /** Watches a pod from now on; replaces an earlier attachment of the same pod. */
  add(pod: AttachedPod): void;
  /** Stops watching; does not touch the pod. */
  remove(podUid: PodUid): void;
  /** Checks and repairs every pod now; resolves when all have been looked at. */
  runNow(): Promise<void>;
  close(): void;
}

interface Watched {
  readonly pod: AttachedPod;
  readonly monitor: ChangeMonitor | undefined;
  changed: boolean;
  lookedAtMs: number;
}

/** Starts the periods. `onFinding` is called for each pod that was not as it should be. */
export function createReconciler(
  context: RedirectContext,
  onFinding: (finding: ReconcileFinding) => void,
): Reconciler {
  const { clock, logger } = context;
  const pods = new Map<PodUid, Watched>();

  const look = async (watched: Watched): Promise<void> => {
    const { pod } = watched;
    watched.lookedAtMs = clock.nowMs();
    watched.changed = false;
    const isWatched = (): boolean => pods.get(pod.captured.pod.podUid) === watched;
    try {
      const found = await pod.repair();
      if (found.length > 0 && isWatched()) onFinding({ pod, found });
    } catch (error) {
      // The pod is gone, or the machine is in trouble; the next period tries again.
      if (isWatched()) onFinding({ pod, found: [], error });
    }
    // Our own repair was notified too.
    watched.monitor?.takeChanged();
  };

  const lookAtAll = async (queue: Watched[]): Promise<void> => {
    const lane = async (): Promise<void> => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) await look(next);
    };
    await Promise.all(Array.from({ length: PARALLEL_MAX }, lane));
  };

  let running: Promise<void> | undefined;
  /** One round at a time: a slow machine gets fewer rounds, not more of them at once. */
  const round = (choose: () => Watched[]): Promise<void> => {
    running ??= lookAtAll(choose()).finally(() => (running = undefined));
    return running;
  };
  const roundLogged = (choose: () => Watched[]): void => {
    round(choose).catch((error: unknown) => logger.error('reconciling failed', { error }));
  };

  const takeChanged = (): Watched[] => {
    const due: Watched[] = [];
    for (const watched of pods.values()) {
      if (watched.monitor?.takeChanged() === true) watched.changed = true;
      const sinceMs = clock.nowMs() - watched.lookedAtMs;
      if (watched.changed && sinceMs >= CHANGE_REPAIR_INTERVAL_MS) due.push(watched);
    }
    return due;
  };

  const timers: Timer[] = [
    clock.every(RECONCILE_PERIOD_MS, () => roundLogged(() => [...pods.values()])),
    clock.every(CHANGE_POLL_MS, () => {
      if (running === undefined) roundLogged(takeChanged);
    }),
  ];

  const remove = (podUid: PodUid): void => {
    pods.get(podUid)?.monitor?.close();
    pods.delete(podUid);
  };
  return {
    add(pod) {
      const { podUid } = pod.captured.pod;
      remove(podUid);
      const monitor = openMonitor(context, pod);
      pods.set(podUid, { pod, monitor, changed: false, lookedAtMs: -Infinity });
    },
    remove,
    async runNow() {
      await running;
      await round(() => [...pods.values()]);
    },
    close() {
      for (const timer of timers) timer.cancel();
      for (const podUid of pods.keys()) remove(podUid);
    },
  };
}

/** Without notifications the 30 s period remains. */
function openMonitor(context: RedirectContext, pod: AttachedPod): ChangeMonitor | undefined {
  try {
    return openChangeMonitor(context.native, pod.namespace);
  } catch (error) {
    context.logger.warn('no change notifications for a pod', { error });
    return undefined;
  }
}
