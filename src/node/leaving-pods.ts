/**
 * Pods that have left the mesh and go on running: their rules are detached, and are taken away for good once the
 * last captured connection has ended. Earlier would reset it. A pod that comes back before is left alone.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { CapturedPod, PodUid } from '../core/pod.ts';
import type { AttachedPod } from '../redirect/attach.ts';

const LOOK_PERIOD_MS = 10_000;

export interface LeavingPodsOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  /** A handle on what stands in the pod; throws when its namespace is gone. */
  readonly adopt: (pod: CapturedPod) => AttachedPod;
  readonly countConnections: (pod: AttachedPod) => Promise<number>;
}

export interface LeavingPods {
  /** Rules are detached, listeners closed. */
  add(pod: CapturedPod): void;
  /** The pod comes back or is gone; resolves when nothing is being done to it any more. */
  remove(uid: PodUid): Promise<void>;
  /** Takes nothing away from now on. */
  stop(): void;
}

export function createLeavingPods(options: LeavingPodsOptions): LeavingPods {
  const { clock, logger } = options;
  const pods = new Map<PodUid, CapturedPod>();
  let looking: Promise<void> | undefined;

  const look = async (uid: PodUid, captured: CapturedPod): Promise<void> => {
    let left: AttachedPod;
    try {
      left = options.adopt(captured);
    } catch {
      // The namespace is gone, and with it all that stood there.
      pods.delete(uid);
      return;
    }
    try {
      if ((await options.countConnections(left)) > 0 || pods.get(uid) !== captured) return;
      await left.release();
      pods.delete(uid);
      logger.info('a pod that left the mesh has nothing of it any more', { pod: uid });
    } catch (error) {
      logger.warn('cannot clear a pod that left the mesh; trying again', { pod: uid, error });
    } finally {
      left.close();
    }
  };

  const lookAtAll = async (): Promise<void> => {
    for (const [uid, captured] of pods) await look(uid, captured);
  };
  const timer: Timer = clock.every(LOOK_PERIOD_MS, () => {
    looking ??= lookAtAll().finally(() => (looking = undefined));
  });

  return {
    add: (captured) => void pods.set(captured.pod.podUid, captured),
    async remove(uid) {
      if (pods.delete(uid)) await looking;
    },
    stop() {
      timer.cancel();
      pods.clear();
    },
  };
}
