/**
 * The capture of this node's pods, one small state machine per pod, driven by what should be (the controller's
 * pods, the namespaces the CNI told) and what is (listeners, certificate, rules).
 *
 * - Enrol: listeners in every worker → certificate → rules → report. A running pod's new connections are never
 *   refused on the way; a pod that is only starting waits for the report (the CNI's ADD).
 * - Un-enrol: rules detached at once, live connections go on; listeners stay for `LINGER_MS`, since peers hear of
 *   it a little later. The rules go for good once the last captured connection has ended.
 * - Work on one pod is serial; what changes meanwhile is looked at afterwards. Failures are reported and tried
 *   again with backoff; rules that were set stay, refusing.
 */

import { createBackoff, type Backoff } from '../base/backoff.ts';
import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { formatIdentity, type SpiffeId } from '../core/identity.ts';
import type { CapturedPod, CaptureReport, LocalPod, PodUid } from '../core/pod.ts';
import type { CertificateStore, Retention } from '../identity/certificate-store.ts';
import type { WorkloadCertificate } from '../identity/workload-certificate.ts';
import { adoptPod, attachPod, type AttachedPod } from '../redirect/attach.ts';
import { countCapturedConnections } from '../redirect/captured-connections.ts';
import type { RedirectContext } from '../redirect/context.ts';
import type { PodNamespace } from '../redirect/namespaces.ts';
import type { Reconciler } from '../redirect/reconcile.ts';
import { createLeavingPods } from './leaving-pods.ts';

const LINGER_MS = 5000;
/** Pods whose rules are set at once: each takes several child processes, and a node may enrol all its pods. */
const ATTACH_MAX = 8;
const RETRY = { initialMs: 200, maxMs: 10_000 } as const;

export interface CaptureOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly redirect: RedirectContext;
  readonly certificates: CertificateStore;
  /** Keeps attached pods' rules standing; `capture` tells it which. */
  readonly reconciler: Pick<Reconciler, 'add' | 'remove'>;
  /** A certificate kept from before a restart, if there is one. */
  readonly restored: (identity: SpiffeId) => WorkloadCertificate | undefined;
  /** Whether every worker's listeners for the pod stand. */
  readonly isListening: (pod: PodUid) => boolean;
  /** The pods that workers are to serve changed. */
  readonly onPublish: (captured: readonly CapturedPod[]) => void;
  /** What is captured changed; complete. */
  readonly onReport: (reports: readonly CaptureReport[]) => void;
}

export interface Capture {
  setPod(pod: LocalPod): void;
  /** The pod is no longer scheduled here. */
  removePod(uid: PodUid): void;
  setNamespace(uid: PodUid, namespace: PodNamespace | undefined): void;
  /** Listeners or certificates changed: looks at every pod that waits for them. */
  poke(): void;
  readonly captured: readonly CapturedPod[];
  readonly reports: readonly CaptureReport[];
  /** Enrolled pods whose namespace is not known. */
  readonly homeless: ReadonlySet<PodUid>;
  /** Resolves when the pod is captured, or at once if it need not be; rejects with why it cannot be. */
  whenSettled(uid: PodUid, signal: AbortSignal): Promise<void>;
  /** Captures nothing new and takes nothing away from now on: a successor does. */
  retire(): void;
  /** Leaves rules standing, so that nothing passes in plain text. */
  stop(): void;
}

interface Entry {
  readonly uid: PodUid;
  pod: LocalPod | undefined;
  namespace: PodNamespace | undefined;
  published: CapturedPod | undefined;
  attached: AttachedPod | undefined;
  redirecting: boolean;
  retention: Retention | undefined;
  report: CaptureReport | undefined;
  lingerUntilMs: number | undefined;
  /** The namespace in which no rules of ours redirect: seen, or seen to. */
  clearedInode: number | undefined;
  working: boolean;
  again: boolean;
  readonly backoff: Backoff;
  readonly waiters: Set<() => void>;
}

export function createCapture(options: CaptureOptions): Capture {
  const { clock, logger, certificates } = options;
  const entries = new Map<PodUid, Entry>();
  const leaving = createLeavingPods({
    clock,
    logger,
    adopt: (captured) => adoptPod(options.redirect, captured),
    countConnections: ({ namespace, captured: { pod } }) =>
      countCapturedConnections(options.redirect, namespace, pod.addresses),
  });
  let retired = false;
  let stopped = false;

  let attaching = 0;
  const queue: (() => void)[] = [];
  const inLane = async <T>(act: () => Promise<T>): Promise<T> => {
    if (attaching < ATTACH_MAX) attaching++;
    else await new Promise<void>((resolve) => void queue.push(resolve));
    try {
      return await act();
    } finally {
      const next = queue.shift();
      if (next === undefined) attaching--;
      else next();
    }
  };

  const entryOf = (uid: PodUid): Entry => {
    let entry = entries.get(uid);
    if (entry === undefined) {
      entry = {
        uid,
        pod: undefined,
        namespace: undefined,
        published: undefined,
        attached: undefined,
        redirecting: false,
        retention: undefined,
        report: undefined,
        lingerUntilMs: undefined,
        clearedInode: undefined,
        working: false,
        again: false,
        backoff: createBackoff(options.random, RETRY),
        waiters: new Set(),
      };
      entries.set(uid, entry);
    }
    return entry;
  };

  const published = (): CapturedPod[] =>
    [...entries.values()].flatMap((entry) => entry.published ?? []);
  const reports = (): CaptureReport[] =>
    [...entries.values()].flatMap((entry) => entry.report ?? []);

  const report = (entry: Entry, state: CaptureReport['state'] | undefined, reason = ''): void => {
    const old = entry.report;
    if (old?.state === state && (old?.reason ?? '') === reason) return;
    entry.report = state === undefined ? undefined : { podUid: entry.uid, state, reason };
    logger.info('capture of a pod changed', {
      pod: entry.uid,
      name: entry.pod && `${entry.pod.namespace}/${entry.pod.name}`,
      state: state ?? 'none',
      reason,
    });
    options.onReport(reports());
    for (const wake of entry.waiters) wake();
  };

  const publish = (entry: Entry, captured: CapturedPod | undefined): void => {
    entry.published = captured;
    options.onPublish(published());
  };

  const enrol = async (entry: Entry, pod: LocalPod, namespace: PodNamespace): Promise<void> => {
    entry.lingerUntilMs = undefined;
    entry.clearedInode = undefined;
    await leaving.remove(entry.uid);
    const captured: CapturedPod = {
      pod,
      ...namespace,
    };
    const identity = formatIdentity(pod);
    const old = entry.published;
    const moved =
      old !== undefined &&
      (old.netnsInode !== namespace.netnsInode || formatIdentity(old.pod) !== identity);
    if (moved) await forget(entry);
    if (entry.published === undefined || !samePod(entry.published.pod, pod)) {
      const probesChanged = entry.published !== undefined;
      publish(entry, captured);
      entry.retention ??= certificates.retain(identity, options.restored(identity));
      if (probesChanged && entry.attached !== undefined) {
        entry.attached.close();
        entry.attached = await inLane(() => attachPod(options.redirect, captured));
        options.reconciler.add(entry.attached);
      }
    }
    // Certificate first: without it no worker is ready either, and it is the better reason to name.
    const missing =
      certificates.get(identity) === undefined
        ? 'waiting for the certificate'
        : options.isListening(entry.uid)
          ? undefined
          : 'waiting for the workers to serve it';
    if (missing !== undefined) {
      // What is captured stays so: taking it back would send plain text.
      if (!entry.redirecting) report(entry, 'pending', missing);
      return;
    }
    if (!entry.redirecting) {
      if (entry.attached === undefined) {
        entry.attached = await inLane(() => attachPod(options.redirect, captured));
      } else {
        const { attached } = entry;
        await inLane(() => attached.apply());
      }
      entry.redirecting = true;
      options.reconciler.add(entry.attached);
      entry.backoff.reset();
    }
    report(entry, 'captured');
  };

  /** Everything of a pod's former namespace goes; its rules go with the namespace itself. */
  const forget = async (entry: Entry): Promise<void> => {
    options.reconciler.remove(entry.uid);
    entry.attached?.close();
    entry.attached = undefined;
    entry.redirecting = false;
    entry.retention?.release();
    entry.retention = undefined;
    publish(entry, undefined);
    await Promise.resolve();
  };

  /**
   * Ends the redirection that an earlier agent left behind in a pod that was un-enrolled while none lived: with
   * nobody listening it would refuse everything for ever.
   */
  const clearLeftovers = async (entry: Entry): Promise<void> => {
    const { pod, namespace } = entry;
    if (pod === undefined || namespace === undefined) return;
    if (entry.clearedInode === namespace.netnsInode) return;
    let left: AttachedPod;
    try {
      left = adoptPod(options.redirect, { pod, ...namespace });
    } catch (error) {
      // The namespace is gone, and with it what stood there.
      logger.debug('no namespace to clear', { pod: entry.uid, error });
      entry.clearedInode = namespace.netnsInode;
      return;
    }
    try {
      await inLane(async () => {
        if (!(await left.isPresent())) return;
        await left.detach();
        leaving.add(left.captured);
      });
      entry.clearedInode = namespace.netnsInode;
    } finally {
      left.close();
    }
  };

  const unenrol = async (entry: Entry): Promise<void> => {
    if (!entry.redirecting) await clearLeftovers(entry);
    if (entry.published === undefined) {
      report(entry, undefined);
      if (entry.pod === undefined && entry.namespace === undefined) entries.delete(entry.uid);
      return;
    }
    if (entry.redirecting) {
      entry.redirecting = false;
      options.reconciler.remove(entry.uid);
      if (entry.pod !== undefined) await entry.attached?.detach();
      entry.clearedInode = entry.namespace?.netnsInode;
    }
    report(entry, undefined);
    entry.lingerUntilMs ??= clock.nowMs() + (entry.pod === undefined ? 0 : LINGER_MS);
    const leftMs = entry.lingerUntilMs - clock.nowMs();
    if (leftMs > 0) {
      clock.after(leftMs + 1, () => work(entry));
      return;
    }
    entry.lingerUntilMs = undefined;
    if (entry.pod !== undefined && entry.clearedInode !== undefined) leaving.add(entry.published);
    await forget(entry);
    if (entry.pod === undefined && entry.namespace === undefined) entries.delete(entry.uid);
  };

  const step = async (entry: Entry): Promise<void> => {
    const { pod, namespace } = entry;
    if (pod?.enrolled === true && namespace !== undefined) await enrol(entry, pod, namespace);
    else if (pod?.enrolled === true && entry.published === undefined) {
      report(entry, 'pending', 'waiting for its network namespace');
    } else await unenrol(entry);
  };

  const work = (entry: Entry): void => {
    if (stopped || retired) return;
    entry.again = true;
    if (entry.working) return;
    entry.working = true;
    void (async () => {
      while (entry.again) {
        entry.again = false;
        try {
          await step(entry);
        } catch (error) {
          const reason = error instanceof Error ? error.message : String(error);
          report(entry, 'failed', reason);
          clock.after(entry.backoff.nextMs(), () => work(entry));
        }
      }
      entry.working = false;
    })();
  };

  const settled = (entry: Entry): boolean => {
    if (entry.report?.state === 'captured') return true;
    return entry.pod?.enrolled !== true;
  };

  return {
    get captured() {
      return published();
    },
    get homeless() {
      const uids = [...entries.values()]
        .filter(({ pod, namespace }) => pod?.enrolled === true && namespace === undefined)
        .map(({ uid }) => uid);
      return new Set(uids);
    },
    get reports() {
      return reports();
    },
    setPod(pod) {
      const entry = entryOf(pod.podUid);
      entry.pod = pod;
      work(entry);
    },
    removePod(uid) {
      const entry = entries.get(uid);
      if (entry === undefined) return;
      entry.pod = undefined;
      void leaving.remove(uid);
      work(entry);
    },
    setNamespace(uid, namespace) {
      const entry = entryOf(uid);
      entry.namespace = namespace;
      work(entry);
    },
    poke() {
      for (const entry of entries.values()) if (entry.published !== undefined) work(entry);
    },
    async whenSettled(uid, signal) {
      const entry = entryOf(uid);
      while (!settled(entry)) {
        signal.throwIfAborted();
        await new Promise<void>((resolve) => {
          const wake = (): void => {
            entry.waiters.delete(wake);
            signal.removeEventListener('abort', wake);
            resolve();
          };
          entry.waiters.add(wake);
          signal.addEventListener('abort', wake, { once: true });
        });
      }
    },
    retire() {
      retired = true;
      leaving.stop();
      for (const uid of entries.keys()) options.reconciler.remove(uid);
    },
    stop() {
      stopped = true;
      leaving.stop();
      for (const entry of entries.values()) {
        options.reconciler.remove(entry.uid);
        entry.attached?.close();
      }
    },
  };
}

/** Whether nothing that workers or rules depend on differs. */
function samePod(a: LocalPod, b: LocalPod): boolean {
  return (
    a.probePorts.join() === b.probePorts.join() &&
    a.addresses.join() === b.addresses.join() &&
    a.workloadUid === b.workloadUid
  );
}
