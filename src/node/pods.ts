/**
 * The pods one worker serves: opens a pod's namespace and listeners when the agent says it is captured, closes
 * the listeners when it no longer is, and lets its connections end by themselves.
 */

import type { Socket } from 'node:net';

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { formatIdentity } from '../core/identity.ts';
import type { CapturedPod, PodUid } from '../core/pod.ts';
import { closeDescriptor, duplicateDescriptor } from '../linux/descriptors.ts';
import type { Native } from '../linux/native.ts';
import type { NodeState } from '../state/contract.ts';
import type { AcceptGuard } from './accept-guard.ts';
import type { ServedPod } from './context.ts';
import type { DialQueue } from './dial-queue.ts';
import { openPodListeners, type ListenerSource, type PodListeners } from './listeners.ts';
import type { HeldListener } from './messages.ts';
import { openPodSockets } from './pod-sockets.ts';

export interface PodsOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly native: Native;
  readonly state: NodeState;
  readonly guard: AcceptGuard;
  readonly dialQueue: DialQueue;
  /** As in `ListenerSource`, of the pod's namespace that has this inode. */
  readonly adopt: (pod: PodUid, port: number, netnsInode: number) => number | undefined;
  readonly created: (listener: HeldListener) => void;
  readonly accept: (pod: ServedPod, port: number, socket: Socket) => void;
  /** Something about which pods are served, or why not, changed. */
  readonly onChange: () => void;
}

export interface PodStatus {
  readonly pod: PodUid;
  readonly listening: boolean;
  /** Why not, when it failed. */
  readonly reason: string;
}

export interface Pods {
  get(uid: PodUid): ServedPod | undefined;
  /** The agent's complete wish. */
  set(captured: Iterable<CapturedPod>): void;
  statuses(): readonly PodStatus[];
  /** Listeners were shut down from outside: makes new ones for every pod. */
  renew(): void;
  /** Closes the listeners of one pod, or of all, for good: a successor has them. */
  release(uid?: PodUid): void;
  /** Listens again for every pod that was released: the successor has gone. */
  reclaim(): void;
}

interface Entry {
  readonly served: ServedPod;
  /** Takes what may differ for the same pod: addresses, probe ports. */
  readonly update: (captured: CapturedPod) => void;
  listeners: PodListeners;
  released: boolean;
}

function same(a: CapturedPod, b: CapturedPod): boolean {
  return (
    a.netnsInode === b.netnsInode &&
    a.netnsPath === b.netnsPath &&
    a.pod.serviceAccount === b.pod.serviceAccount &&
    a.pod.namespace === b.pod.namespace &&
    a.pod.trustDomain === b.pod.trustDomain
  );
}

export function createPods(options: PodsOptions): Pods {
  const { clock, random, logger, native, state } = options;
  const entries = new Map<PodUid, Entry>();
  const failures = new Map<PodUid, string>();
  const released = new Set<PodUid>();

  const listen = (served: ServedPod): PodListeners => {
    const { netnsInode } = served.captured;
    const source: ListenerSource = {
      adopt: (pod, port) => options.adopt(pod, port, netnsInode),
      create: (port) => served.sockets.listen(port),
      created: (listener) => options.created({ ...listener, netnsInode }),
      duplicate: (fd) => duplicateDescriptor(native, fd),
      close: (fd) => closeDescriptor(native, fd),
    };
    return openPodListeners({
      clock,
      logger,
      guard: options.guard,
      pod: served.uid,
      source,
      accept: (port: number, socket: Socket) => options.accept(served, port, socket),
      onChange: options.onChange,
    });
  };

  const open = (captured: CapturedPod): void => {
    const { podUid: uid, workloadUid } = captured.pod;
    try {
      const sockets = openPodSockets(native, clock, random, captured, options.dialQueue);
      let current = captured;
      const served: ServedPod = {
        get captured() {
          return current;
        },
        uid,
        identity: formatIdentity(captured.pod),
        sockets,
        workload: () => state.workloads.get(workloadUid),
      };
      const update = (next: CapturedPod): void => void (current = next);
      entries.set(uid, { served, update, listeners: listen(served), released: false });
      failures.delete(uid);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      failures.set(uid, reason);
      logger.error('cannot serve a pod', { pod: uid, error: reason });
    }
  };

  /** Its connections may live on; they keep what they need of the namespace themselves. */
  const close = (entry: Entry): void => {
    entry.listeners.close();
    entry.served.sockets.close();
    entries.delete(entry.served.uid);
  };

  return {
    get: (uid) => entries.get(uid)?.served,
    set(captured) {
      const wanted = new Map([...captured].map((item) => [item.pod.podUid, item] as const));
      for (const entry of entries.values()) {
        const next = wanted.get(entry.served.uid);
        if (next === undefined || !same(next, entry.served.captured)) close(entry);
      }
      for (const uid of failures.keys()) if (!wanted.has(uid)) failures.delete(uid);
      for (const [uid, item] of wanted) {
        const entry = entries.get(uid);
        // Addresses come later than the pod; everything else that is new made it another entry.
        if (entry !== undefined) entry.update(item);
        else if (!released.has(uid)) open(item);
      }
      options.onChange();
    },
    statuses() {
      const listening = [...entries.values()].map(({ served, listeners }) => ({
        pod: served.uid,
        listening: listeners.listening,
        reason: listeners.listening ? '' : 'its listeners are not up yet',
      }));
      const failed = [...failures].map(([pod, reason]) => ({ pod, listening: false, reason }));
      return [...listening, ...failed];
    },
    renew() {
      for (const entry of entries.values()) if (!entry.released) entry.listeners.renew();
    },
    release(uid) {
      for (const entry of entries.values()) {
        if (uid !== undefined && entry.served.uid !== uid) continue;
        entry.released = true;
        released.add(entry.served.uid);
        entry.listeners.close();
      }
      if (uid !== undefined) released.add(uid);
      options.onChange();
    },
    reclaim() {
      released.clear();
      for (const entry of entries.values()) {
        if (!entry.released) continue;
        entry.released = false;
        entry.listeners = listen(entry.served);
      }
      options.onChange();
    },
  };
}
