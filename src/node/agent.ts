/**
 * The agent: the node's one line to the controller. It keeps what the controller sent as received bytes, serves
 * it to the workers with the same protocol, captures pods, holds certificates, and tells upward what is captured.
 * No byte of a user passes here; workers and rules go on when it dies, and its successor starts from the last
 * good configuration on disk.
 */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Random } from '../base/random.ts';
import { ok } from '../base/result.ts';
import type { CapturedPod, CaptureReport, LocalPod, PodUid } from '../core/pod.ts';
import type { DiscoveryClient, TypeSubscription } from '../discovery/client.ts';
import type { TypeUpdate } from '../discovery/client-type.ts';
import {
  capturedPodResource,
  captureReportResource,
  decodeEnrolledNamespace,
  decodeListenerReport,
  decodeLocalPod,
  decodeTrafficDelta,
  decodeTrustBundle,
  workloadSecretResource,
  type TrafficDelta,
} from '../discovery/codec-local.ts';
import { ResourceCache } from '../discovery/resource-cache.ts';
import {
  createDiscoveryServer,
  type ClientInfo,
  type DiscoveryServer,
} from '../discovery/server.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { Rejection } from '../discovery/wire-messages.ts';
import type { WireResource } from '../discovery/wire-resource.ts';
import type { CertificateStore } from '../identity/certificate-store.ts';
import type { WorkloadCertificate } from '../identity/workload-certificate.ts';
import type { SpiffeId } from '../core/identity.ts';
import type { RedirectContext } from '../redirect/context.ts';
import type { Reconciler } from '../redirect/reconcile.ts';
import type { CniMarkers } from '../redirect/cni-markers.ts';
import type { CniRequest } from '../redirect/cni-request.ts';
import type { PodNamespaces } from '../redirect/namespaces.ts';
import { createCapture, type Capture } from './capture.ts';
import { createCniRequests } from './cni-requests.ts';
import { HEARTBEAT_MS, type ToChild, type ToSupervisor } from './messages.ts';
import { createNamespaceSearch } from './namespace-search.ts';
import type { ProbeTargets } from './probe-targets.ts';
import { createStuckPods } from './stuck-pods.ts';
import { loadSnapshot, saveSnapshot } from './snapshot-file.ts';

/** Types that come from the controller and go to workers or to disk as they are. */
const MIRRORED = [
  TYPE_URL.nodeSettings,
  TYPE_URL.trustBundle,
  TYPE_URL.authorization,
  TYPE_URL.auditPolicy,
  TYPE_URL.address,
  TYPE_URL.enrolledNamespace,
  TYPE_URL.localPod,
] as const;
/** What a worker may see. */
const FOR_WORKERS = [
  TYPE_URL.nodeSettings,
  TYPE_URL.trustBundle,
  TYPE_URL.authorization,
  TYPE_URL.auditPolicy,
  TYPE_URL.address,
  TYPE_URL.workloadSecret,
  TYPE_URL.capturedPod,
] as const;

/** Metadata a worker sends on its socket: its slot. */
export const WORKER_METADATA = 'x-nodemesh-worker';
const SAVE_DELAY_MS = 2000;
/** A large configuration that keeps changing is written a tenth of the time, not all the time. */
const SAVE_REST = 10;
const REPORT_HOLD_MS = 10_000;
const SEARCH_MS = 2000;
/**
 * What was restored may lack the pods of the last moments: whoever is replaced serves them until the controller has told
 * of them. Without a controller this long.
 */
const CONTROLLER_WAIT_MS = 3000;

export interface AgentOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly registry: Registry;
  readonly redirect: RedirectContext;
  readonly reconciler: Pick<Reconciler, 'add' | 'remove'>;
  /** Lets the kubelet's probes through to what is captured. */
  readonly probes: ProbeTargets;
  readonly certificates: CertificateStore;
  readonly namespaces: PodNamespaces;
  /** What the CNI script knows without asking. */
  readonly markers: { readonly enrolled: CniMarkers; readonly outside: CniMarkers };
  readonly restored: (identity: SpiffeId) => WorkloadCertificate | undefined;
  readonly snapshotPath: string;
  /** Makes the client to the controller with these subscriptions. */
  readonly createClient: (subscriptions: readonly TypeSubscription[]) => DiscoveryClient;
  readonly tell: (message: ToSupervisor) => void;
  readonly onTraffic: (worker: string, delta: TrafficDelta) => void;
  readonly onWorkerGone: (worker: string) => void;
}

export interface Agent {
  /** Serves until `signal` is aborted. */
  run(signal: AbortSignal): Promise<void>;
  /** For the workers' socket. */
  readonly server: DiscoveryServer<ClientInfo, undefined>;
  readonly capture: Capture;
  receive(message: ToChild): void;
  /** A request of the CNI: an ADD resolves when the pod may start; rejects with why it may not. */
  handleCni(request: CniRequest): Promise<void>;
}

export function createAgent(options: AgentOptions): Agent {
  const { clock, logger, certificates, markers, tell } = options;
  const caches = new Map<string, ResourceCache>(
    [...MIRRORED, TYPE_URL.workloadSecret, TYPE_URL.capturedPod].map((typeUrl) => [
      typeUrl,
      new ResourceCache(typeUrl),
    ]),
  );
  const cache = (typeUrl: string): ResourceCache => {
    const found = caches.get(typeUrl);
    if (found === undefined) throw new TypeError(`no cache for ${typeUrl}`);
    return found;
  };
  const listening = new Map<string, Map<PodUid, boolean>>();
  const localPods = new Map<PodUid, LocalPod>();
  let retired = false;
  let holdingReports = true;
  let complete: () => void = () => {};
  const whenComplete = new Promise<void>((resolve) => (complete = resolve));
  let readFromDisk: () => void = () => {};
  const whenRestored = new Promise<void>((resolve) => (readFromDisk = resolve));
  let blocker = 'waiting for the first configuration';
  let issuingRoot = '';
  let saving = false;
  let savePending = false;

  const stuckPods = createStuckPods(clock, logger, () => tellState());
  const tellState = (): void => {
    const blockers = blocker === '' ? [] : [blocker];
    // A pod that has no network yet blocks nobody: there is nothing to serve, and it may stay so for long.
    const { homeless } = capture;
    const stuck = stuckPods.of(capture.reports.filter(({ podUid }) => !homeless.has(podUid)));
    for (const { podUid, state, reason } of capture.reports) {
      if (state !== 'captured' && !homeless.has(podUid) && !stuck.has(podUid))
        blockers.push(`pod ${podUid} is ${state}: ${reason}`);
    }
    const captured = capture.captured.map(({ pod }) => pod.podUid).filter((uid) => !stuck.has(uid));
    tell({ kind: 'agent-state', captured, blockers });
  };

  const capture = createCapture({
    clock,
    random: options.random,
    logger,
    redirect: options.redirect,
    reconciler: options.reconciler,
    certificates,
    restored: options.restored,
    isListening(pod) {
      if (listening.size === 0) return false;
      return [...listening.values()].every((pods) => pods.get(pod) === true);
    },
    onPublish(captured: readonly CapturedPod[]) {
      const known = new Set(captured.map(({ pod }) => pod.podUid as string));
      const target = cache(TYPE_URL.capturedPod);
      const removed = [...target.names()].filter((name) => !known.has(name));
      target.update({ set: captured.map(capturedPodResource), removed });
      setProbes();
      tellState();
    },
    onReport: () => {
      report();
      tellState();
    },
  });

  const isSettling = (): boolean =>
    holdingReports && capture.reports.some(({ state }) => state === 'pending');
  const setProbes = (): void => {
    if (!isSettling()) options.probes.set(capture.captured);
  };

  /**
   * A restarted agent finds its pods as its predecessor left them, but learns so step by step. Until it has, it
   * says nothing, and the controller goes by what it was told before.
   */
  const report = (): void => {
    if (retired) return;
    const reports: readonly CaptureReport[] = capture.reports;
    if (isSettling()) return;
    setProbes();
    client.report(TYPE_URL.captureReport, reports.map(captureReportResource));
  };

  certificates.onChange((change) => {
    const target = cache(TYPE_URL.workloadSecret);
    if (change.kind === 'issued') {
      const { identity, privateKeyPem, chainPem, notBeforeMs, notAfterMs } = change.certificate;
      const chainPems = chainPem;
      const secret = { identity, privateKeyPem, chainPems, notBeforeMs, notAfterMs };
      target.update({ set: [workloadSecretResource(secret)] });
    } else target.update({ removed: [change.identity] });
    capture.poke();
  });

  /** Decodes what this agent itself must understand; the workers get the bytes. */
  const understand = (typeUrl: string, resources: readonly WireResource[]): Rejection[] => {
    const rejections: Rejection[] = [];
    const reject = (name: string, error: MeshError): void => {
      rejections.push({ name, reason: error.message });
    };
    for (const { name, body } of resources) {
      if (typeUrl === TYPE_URL.localPod) {
        const pod = decodeLocalPod(body);
        if (pod.ok) setPod(pod.value);
        else reject(name, pod.error);
      } else if (typeUrl === TYPE_URL.enrolledNamespace) {
        const namespace = decodeEnrolledNamespace(body);
        if (namespace.ok) markers.enrolled.add(namespace.value);
        else reject(name, namespace.error);
      } else if (typeUrl === TYPE_URL.trustBundle) {
        const bundle = decodeTrustBundle(body);
        if (!bundle.ok) {
          reject(name, bundle.error);
          continue;
        }
        const { trustDomain, rootPems, issuingRootFingerprint } = bundle.value;
        const set = certificates.setRoots(trustDomain, rootPems);
        if (!set.ok) reject(name, set.error);
        // Whoever has a successor opens no tunnel any more. The controller sees one certificate per node and
        // identity: were it the predecessor's, the old root would go while the successor still needs it.
        if (!retired && issuingRoot !== '' && issuingRoot !== issuingRootFingerprint) {
          logger.info('the CA issues under another root now; renewing certificates');
          certificates.reissueAll();
        }
        issuingRoot = issuingRootFingerprint;
      }
    }
    return rejections;
  };

  const cni = createCniRequests({
    clock,
    namespaces: options.namespaces,
    capture,
    pod: (uid) => localPods.get(uid),
    isEnrolled: (namespace) => markers.enrolled.has(namespace),
    onTold: (uid) => applyPod(uid),
  });

  const setPod = (pod: LocalPod): void => {
    const { podUid, enrolled } = pod;
    localPods.set(podUid, pod);
    if (enrolled) markers.outside.remove(podUid);
    else markers.outside.add(podUid);
    applyPod(podUid);
    cni.podKnown(podUid);
    if (enrolled) void search();
  };

  const applyPod = (uid: PodUid): void => {
    const pod = localPods.get(uid);
    if (pod === undefined) return;
    const addresses = cni.addresses(uid) ?? [];
    capture.setPod(addresses.length === 0 ? pod : { ...pod, addresses });
  };

  const search = createNamespaceSearch({
    logger,
    namespaces: options.namespaces,
    wanted: () => (retired ? new Set<PodUid>() : capture.homeless),
    found: (uid, namespace) => capture.setNamespace(uid, namespace),
  });

  /** Once: a pod that was un-enrolled while no agent lived may still have its rules, and with them no traffic. */
  const searchAll = async (): Promise<void> => {
    const local = new Set(localPods.keys());
    await options.namespaces.keepOnly(local);
    const found = await options.namespaces.findAll(local);
    for (const [uid, namespace] of found) capture.setNamespace(uid, namespace);
  };

  let saveTookMs = 0;
  const save = (): void => {
    if (retired) return;
    savePending = true;
    if (saving) return;
    saving = true;
    clock.after(Math.max(SAVE_DELAY_MS, SAVE_REST * saveTookMs), () => {
      savePending = false;
      const startMs = clock.nowMs();
      saveSnapshot(options.snapshotPath, MIRRORED.map(cache), clock)
        .catch((error: unknown) => logger.warn('cannot save the configuration', { error }))
        .finally(() => {
          saving = false;
          saveTookMs = clock.nowMs() - startMs;
          if (savePending) save();
        });
    });
  };

  /** Names the controller has sent since the start; what was restored and is not among them is gone. */
  let confirmed: Map<string, Set<string>> | undefined = new Map();
  const dropUnconfirmed = (): void => {
    for (const typeUrl of MIRRORED) {
      const names = confirmed?.get(typeUrl);
      const gone = [...cache(typeUrl).names()].filter((name) => names?.has(name) !== true);
      remove(typeUrl, gone);
    }
    confirmed = undefined;
  };

  const remove = (typeUrl: string, names: readonly string[]): void => {
    cache(typeUrl).update({ removed: names });
    if (typeUrl === TYPE_URL.enrolledNamespace) {
      for (const name of names) markers.enrolled.remove(name);
    }
    if (typeUrl !== TYPE_URL.localPod) return;
    for (const uid of names as readonly PodUid[]) {
      localPods.delete(uid);
      markers.outside.remove(uid);
      cni.podGone(uid);
      capture.removePod(uid);
    }
  };

  const subscriptions = MIRRORED.map((typeUrl): TypeSubscription => {
    return {
      typeUrl,
      mode: 'wildcard',
      apply: async ({ resources, removed }: TypeUpdate) => {
        const rejections = understand(typeUrl, resources);
        const bad = new Set(rejections.map(({ name }) => name));
        cache(typeUrl).update({
          set: bad.size === 0 ? resources : resources.filter(({ name }) => !bad.has(name)),
        });
        if (removed.length > 0) remove(typeUrl, removed);
        if (confirmed !== undefined) {
          const names = confirmed.get(typeUrl) ?? new Set();
          confirmed.set(typeUrl, names);
          for (const { name } of resources) names.add(name);
        }
        save();
        return Promise.resolve(rejections);
      },
    };
  });
  const client = options.createClient(subscriptions);

  const server = createDiscoveryServer<ClientInfo, undefined>({
    clock,
    logger,
    registry: options.registry,
    // Who reaches the 0600 socket is root on this node; the slot only tells workers apart.
    authenticate: (metadata) =>
      Promise.resolve(ok({ id: `worker-${metadata.get(WORKER_METADATA) ?? 'unknown'}` })),
    async viewFor() {
      await whenComplete;
      return new Map(FOR_WORKERS.map((typeUrl) => [typeUrl, cache(typeUrl)]));
    },
    onReports(worker, typeUrl, resources) {
      if (typeUrl === TYPE_URL.listenerReport) {
        const pods = new Map<PodUid, boolean>();
        for (const { body } of resources) {
          const told = decodeListenerReport(body);
          if (told.ok) pods.set(told.value.podUid, told.value.listening);
        }
        listening.set(worker.id, pods);
        capture.poke();
      } else if (typeUrl === TYPE_URL.trafficDelta) {
        for (const { body } of resources) {
          const delta = decodeTrafficDelta(body);
          if (delta.ok) options.onTraffic(worker.id, delta.value);
        }
      }
    },
    onRejected(worker, typeUrl, rejections) {
      logger.warn('a worker did not accept configuration', {
        worker: worker.id,
        typeUrl,
        rejections,
      });
    },
    onClientGone(worker) {
      listening.delete(worker.id);
      options.onWorkerGone(worker.id);
    },
  });

  /** From the last good configuration, so that workers and pods need not wait for the controller (G04). */
  const restore = async (): Promise<boolean> => {
    const stored = await loadSnapshot(options.snapshotPath, clock);
    if (stored === undefined) return false;
    for (const typeUrl of MIRRORED) {
      const resources = stored.get(typeUrl) ?? [];
      understand(typeUrl, resources);
      cache(typeUrl).update({ set: resources });
    }
    logger.info('starting from the last good configuration', {
      workloadsAndServices: cache(TYPE_URL.address).size,
      pods: localPods.size,
    });
    return true;
  };

  return {
    capture,
    server,
    async run(signal) {
      const restored = await restore();
      readFromDisk();
      const heartbeat = clock.every(HEARTBEAT_MS, () => tell({ kind: 'heartbeat' }));
      const ready = (): void => {
        blocker = '';
        complete();
        tellState();
      };
      const searcher = clock.every(SEARCH_MS, () => void search());
      if (restored) {
        // Workers that live on must not be told that their pods are gone.
        await search();
        complete();
        blocker = 'waiting for the controller';
        clock.after(CONTROLLER_WAIT_MS, ready);
      }
      tellState();
      const running = client.run(signal);
      client
        .whenSynced(MIRRORED, signal)
        .then(
          () => {
            dropUnconfirmed();
            markers.enrolled.keepOnlyWanted();
            markers.outside.keepOnlyWanted();
            // From now on: without the controller no certificate comes, and nobody hears of it.
            clock.after(REPORT_HOLD_MS, () => {
              holdingReports = false;
              report();
            });
            return search().then(ready).then(searchAll);
          },
          () => {},
        )
        .catch((error: unknown) => logger.warn('cannot look for pod namespaces', { error }));
      await running;
      heartbeat.cancel();
      searcher.cancel();
      capture.stop();
      stuckPods.stop();
    },
    receive(message) {
      if (message.kind !== 'retire') return;
      retired = true;
      options.probes.stop();
      markers.enrolled.stop();
      markers.outside.stop();
      capture.retire();
    },
    async handleCni(request) {
      // Asked before anything is known, a pod would look as if it were in no mesh.
      await whenRestored;
      await cni.handle(request);
    },
  };
}
