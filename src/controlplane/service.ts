/**
 * The control plane as one thing: objects in, and out the hooks that the discovery server and the CA service
 * ask: who are you, what may you see, what do you report, may you have this certificate.
 *
 * It owns its caches, timers and waits; the CA, the authenticator and the source belong to their maker.
 */

import type { KeyObject } from 'node:crypto';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { formatIdentity, parseIdentity, type SpiffeId } from '../core/identity.ts';
import type { CaptureReport, PodUid } from '../core/pod.ts';
import type { CertificateCall } from '../discovery/ca-service.ts';
import { decodeCaptureReport } from '../discovery/codec-local.ts';
import type { GrpcMetadata } from '../discovery/grpc-client.ts';
import type { ClientInfo, View } from '../discovery/server.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { WireResource } from '../discovery/wire-resource.ts';
import type { CertificateAuthority } from '../identity/ca.ts';
import { parseCsr } from '../identity/csr.ts';
import type { PluggedCa } from '../identity/plugged-ca.ts';
import type { SelfSignedCa } from '../identity/self-signed-ca.ts';
import { createAcknowledgements, type NodesBehind } from './acknowledgements.ts';
import type { CaptureStore } from './capture-store.ts';
import { callerId, unauthenticated, type Authenticator, type CallerIdentity } from './caller.ts';
import type { EnrolmentSharing } from './enrolment-sharing.ts';
import { createLeafLedger, type Holder } from './leaf-ledger.ts';
import { createControlPlaneMetrics } from './metrics.ts';
import type { GatewayApiView } from './gateway-status.ts';
import type { ObjectChange, ObjectCondition } from './objects.ts';
import { createPublisher } from './publisher.ts';
import { ResourceCaches } from './resource-caches.ts';
import { createRootRotation, type RootRotation } from './root-rotation.ts';
import { createSigningLimits, maySign } from './signing.ts';
import { waypointName } from './waypoint-scope.ts';
import { World, type PodStatus } from './world.ts';

/** A token of the tokens file stands for all replicas of a waypoint, an upgrade's besides. */
const ACCOUNT_STREAMS_MAX = 200;

/** A caller that proved who it is. */
export interface MeshClient extends ClientInfo {
  readonly caller: CallerIdentity;
}

export interface ControlPlaneOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly registry: Registry;
  /** With `phase`, roots can be rotated; a plugged-in CA's are its operator's. */
  readonly ca: CertificateAuthority | PluggedCa | SelfSignedCa;
  readonly authenticator: Authenticator;
  readonly captureStore: CaptureStore;
  /** Istio's ambient labels mean the same as ours. Default false. */
  readonly istioLabels?: boolean;
  /** The longest life of a certificate. Default 24 h. */
  readonly leafTtlMaxMs?: number;
  /**
   * Which nodes have not acknowledged something published; the discovery server knows. Without it, waits take
   * a fixed time.
   */
  readonly behind?: NodesBehind;
  readonly tuning?: ControlPlaneTuning;
  /** How several controllers lead pods into the mesh together. Default: this is the only one. */
  readonly sharing?: EnrolmentSharing;
  /** Whether this controller, of several, rotates the root. Default: always. */
  readonly leads?: () => boolean;
  /** Another root issues from now on: whoever holds a certificate of the CA's should renew it. */
  readonly onIssuerChanged?: () => void;
  /** The trusted roots have changed. */
  readonly onRootsChanged?: () => void;
  /** After each batch of changes. */
  readonly onPublished?: () => void;
}

/** Waits, for tests that have no time; the defaults are those of publisher, acknowledgements and rotation. */
export interface ControlPlaneTuning {
  readonly gatherMs?: number;
  readonly acknowledgeMarginMs?: number;
  readonly rotationMarginMs?: number;
  readonly absentNodeWaitMs?: number;
}

export interface ControlPlaneStatus {
  readonly nodes: readonly string[];
  /** Workloads that speak for themselves and are connected: waypoints. */
  readonly workloads: readonly string[];
  readonly pods: readonly PodStatus[];
  readonly conditions: readonly ObjectCondition[];
  readonly resources: { readonly addresses: number; readonly policies: number };
  readonly batches: number;
  readonly rootRotation: { readonly phase: string; readonly count: number } | undefined;
}

export interface ControlPlane extends AsyncDisposable {
  /** Takes changes from the source; published soon after `sourceSynced`. */
  apply(changes: readonly ObjectChange[]): void;
  /** The source has told everything once: from now on nodes are answered. */
  sourceSynced(): Promise<void>;
  /** Resolves when everything applied until now is in the caches. */
  flush(): Promise<void>;
  /** Begins one root rotation, unless one runs; false when the CA is plugged in. */
  rotateRoot(): boolean;
  /** Whether the source has told of a pod with this UID. */
  hasPod(uid: PodUid): boolean;
  /** Another controller has changed the roots or the issuer of the CA. */
  authorityChanged(): void;
  status(): ControlPlaneStatus;
  /** Gateway API objects of ours, and what is to be said of them. Walks all routes. */
  gatewayApi(): GatewayApiView;
  /** Everything that an object's owner should know: policies, services, and pods that cannot be captured. */
  troubles(): Iterable<ObjectCondition>;
  readonly hooks: ControlPlaneHooks;
}

/** For `createDiscoveryServer` and `createCaMethod`, as they are. */
export interface ControlPlaneHooks {
  authenticate(metadata: GrpcMetadata): Promise<Result<MeshClient>>;
  viewFor(client: MeshClient): Promise<View>;
  onReports(client: MeshClient, typeUrl: string, resources: readonly WireResource[]): void;
  onClientGone(client: MeshClient): void;
  issue(client: MeshClient, call: CertificateCall): Promise<Result<readonly string[]>>;
}

const LEAF_TTL_DEFAULT_MS = 24 * 3600 * 1000;
/** Reports of one node read at a time: more pods than any kubelet runs. */
const REPORTS_MAX = 10_000;
/** As in acknowledgements.ts, where nobody can tell who is behind. */
const BLIND_MS = 1_000;
/** Longer than another controller may take to notice that the issuer has changed: a dead watch is seen in 60 s. */
const SHARED_ROTATION_MARGIN_MS = 120_000;
const BEARER = /^Bearer ([\x21-\x7e]{1,4096})$/i;

/** Reads what the controller's former life stored, then waits for objects. */
export async function createControlPlane(options: ControlPlaneOptions): Promise<ControlPlane> {
  const restored = await options.captureStore.load();
  const { trustDomain } = options.ca;
  const world = new World({ trustDomain, istioLabels: options.istioLabels ?? false, restored });
  return new Service(options, world);
}

class Service implements ControlPlane {
  readonly hooks: ControlPlaneHooks;
  readonly #options: ControlPlaneOptions;
  readonly #world: World;
  readonly #caches = new ResourceCaches();
  readonly #acknowledgements;
  readonly #publisher;
  readonly #limits;
  readonly #ledger;
  readonly #rotation: RootRotation | undefined;
  readonly #metrics;
  readonly #nodes = new Set<string>();
  readonly #workloads = new Map<string, Extract<CallerIdentity, { kind: 'workload' }>>();
  readonly #synced: Promise<void>;
  #resolveSynced: () => void = () => {};
  #bundlePublishedMs = 0;
  #issuerId: string;

  constructor(options: ControlPlaneOptions, world: World) {
    const { clock, logger, ca } = options;
    this.#options = options;
    this.#world = world;
    this.#issuerId = ca.issuerId;
    this.#synced = new Promise((resolve) => {
      this.#resolveSynced = resolve;
    });
    this.#metrics = createControlPlaneMetrics(options.registry);
    this.#limits = createSigningLimits(clock);
    this.#ledger = createLeafLedger(clock, this.#leafTtlMaxMs, options.sharing !== undefined);
    const { gatherMs, acknowledgeMarginMs } = options.tuning ?? {};
    this.#acknowledgements = createAcknowledgements({
      clock,
      behind: options.behind,
      marginMs: acknowledgeMarginMs,
    });
    this.#publisher = createPublisher({
      clock,
      logger,
      world,
      caches: this.#caches,
      acknowledgements: this.#acknowledgements,
      captureStore: options.captureStore,
      sharing: options.sharing,
      onPublished: () => this.#published(),
      gatherMs,
    });
    this.#publishBundle();
    this.#rotation = 'phase' in ca ? this.#createRotation(ca) : undefined;
    this.hooks = {
      authenticate: (metadata) => this.#authenticate(metadata),
      viewFor: (client) => this.#viewFor(client),
      onReports: (client, typeUrl, resources) => this.#takeReports(client, typeUrl, resources),
      onClientGone: (client) => this.#clientGone(client),
      issue: (client, call) => Promise.resolve(this.#issue(client, call)),
    };
  }

  apply(changes: readonly ObjectChange[]): void {
    this.#publisher.apply(changes);
  }

  async sourceSynced(): Promise<void> {
    await this.#startSharing();
    await this.#publisher.start();
    this.#resolveSynced();
  }

  async #startSharing(): Promise<void> {
    const { sharing } = this.#options;
    await sharing?.start(
      ({ node, phases, isHome }) => {
        if (isHome) this.#world.enrolments.lead(node, phases);
        else this.#world.enrolments.follow(node, phases);
        this.#publisher.poke();
      },
      (version) => this.#publisher.settleAll(() => sharing.acknowledge(version)),
    );
  }

  async flush(): Promise<void> {
    await this.#publisher.flush();
  }

  rotateRoot(): boolean {
    if (!('beginRotation' in this.#options.ca)) return false;
    this.#rotation?.rotate();
    return true;
  }

  hasPod(uid: PodUid): boolean {
    return this.#world.pods.byUid(uid) !== undefined;
  }

  authorityChanged(): void {
    const { ca } = this.#options;
    this.#publishBundle();
    this.#options.onRootsChanged?.();
    if (ca.issuerId !== this.#issuerId) this.#options.onIssuerChanged?.();
    this.#issuerId = ca.issuerId;
  }

  status(): ControlPlaneStatus {
    const { address, authorization, auditPolicy } = this.#caches;
    const rotation = this.#rotation;
    return {
      nodes: [...this.#nodes].toSorted(),
      workloads: [...this.#workloads.keys()].toSorted(),
      pods: [...this.#world.statuses()],
      conditions: [...this.#world.conditions()],
      resources: { addresses: address.size, policies: authorization.size + auditPolicy.size },
      batches: this.#publisher.batchCount,
      rootRotation: rotation && { phase: rotation.phase, count: rotation.count },
    };
  }

  troubles(): Iterable<ObjectCondition> {
    return this.#world.troubles();
  }

  gatewayApi(): GatewayApiView {
    return this.#world.gatewayApi();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#rotation?.[Symbol.dispose]();
    this.#acknowledgements[Symbol.dispose]();
    await this.#publisher[Symbol.asyncDispose]();
  }

  get #leafTtlMaxMs(): number {
    return this.#options.leafTtlMaxMs ?? LEAF_TTL_DEFAULT_MS;
  }

  async #authenticate(metadata: GrpcMetadata): Promise<Result<MeshClient>> {
    const token = BEARER.exec(metadata.get('authorization') ?? '')?.[1];
    if (token === undefined) return unauthenticated('no bearer token');
    const caller = await this.#options.authenticator.authenticate(token);
    if (!caller.ok) return caller;
    const client = { id: callerId(caller.value), caller: caller.value };
    const isShared = caller.value.kind === 'workload' && caller.value.pod === undefined;
    return ok(isShared ? { ...client, streamsMax: ACCOUNT_STREAMS_MAX } : client);
  }

  async #viewFor({ id, caller }: MeshClient): Promise<View> {
    // Before any wait: a client that goes meanwhile is taken out after it was put in.
    if (caller.kind === 'workload') {
      this.#workloads.set(id, caller);
    } else {
      this.#nodes.add(caller.node);
      this.#metrics.nodes.set(this.#nodes.size);
      this.#world.connect(caller.node);
    }
    await this.#synced;
    if (caller.kind === 'node') this.#options.sharing?.claim(caller.node);
    // A node's settings are part of its first answer.
    await this.#publisher.flush();
    if (caller.kind === 'node') return this.#caches.view(caller.node);
    return this.#caches.waypointView(waypointName(caller.namespace, caller.serviceAccount));
  }

  #clientGone({ id, caller }: MeshClient): void {
    this.#limits.forget(id);
    if (caller.kind === 'workload') {
      this.#workloads.delete(id);
      return;
    }
    this.#nodes.delete(caller.node);
    this.#metrics.nodes.set(this.#nodes.size);
    this.#world.disconnect(caller.node);
    this.#publisher.poke();
  }

  #takeReports(client: MeshClient, typeUrl: string, resources: readonly WireResource[]): void {
    const { caller } = client;
    if (typeUrl !== TYPE_URL.captureReport || caller.kind !== 'node') return;
    const { node } = caller;
    const reports: CaptureReport[] = [];
    let refused = Math.max(0, resources.length - REPORTS_MAX);
    for (const { body } of resources.slice(0, REPORTS_MAX)) {
      const report = decodeCaptureReport(body);
      if (report.ok) reports.push(report.value);
      else refused++;
    }
    if (refused > 0) this.#options.logger.warn('Capture reports refused', { node, count: refused });
    this.#options.sharing?.claim(node);
    this.#world.report(node, reports);
    this.#publisher.poke();
  }

  #issue(client: MeshClient, call: CertificateCall): Result<readonly string[]> {
    const place = this.#limits.enter(client.id);
    if (!place.ok) return place;
    using _ = place.value;
    const { ca, clock } = this.#options;
    if (call.identity === undefined) {
      const message = `Cannot sign for "${client.id}": no identity asked for`;
      return fail(new MeshError('MESH_CA_REFUSED', message));
    }
    const identity = parseIdentity(call.identity);
    if (!identity.ok) return identity;
    const { caller } = client;
    const pod = maySign(this.#world, caller, identity.value, ca.trustDomain, clock.wallMs());
    if (!pod.ok) return pod;
    const key: Result<KeyObject> = parseCsr(call.csrPem);
    if (!key.ok) return key;
    const issuerId = ca.issuerId;
    const ttlMs = Math.min(call.ttlMs, this.#leafTtlMaxMs);
    const issued = ca.issue(key.value, call.identity, ttlMs);
    if (!issued.ok) return issued;
    const { chainPem, notAfterMs } = issued.value;
    this.#ledger.record(client.id, call.identity, { issuerId, notAfterMs });
    return ok([...chainPem, this.#rootPems().join('')]);
  }

  #rootPems(): readonly string[] {
    const { bundle, trustDomain } = this.#options.ca;
    return (bundle.domains.get(trustDomain) ?? []).map(({ pem }) => pem);
  }

  #publishBundle(): void {
    const { ca, clock } = this.#options;
    this.#caches.setTrustBundle({
      trustDomain: ca.trustDomain,
      rootPems: this.#rootPems(),
      generation: ca.bundle.generation,
      issuingRootFingerprint: ca.issuerId,
    });
    this.#bundlePublishedMs = clock.nowMs();
  }

  #createRotation(ca: PluggedCa | SelfSignedCa): RootRotation {
    const { clock, logger } = this.#options;
    return createRootRotation({
      clock,
      logger,
      ca,
      // An operator's authority is each replica's own to follow; ours is stored, so that one acts for all.
      ...('beginRotation' in ca ? { active: this.#options.leads } : {}),
      publishBundle: () => this.authorityChanged(),
      bundleTaken: () => this.#bundleTaken(),
      absentNodes: () => this.#absentNodes(),
      outdated: () => this.#ledger.outdated(this.#holders(), ca.issuerId),
      marginMs:
        this.#options.tuning?.rotationMarginMs ??
        (this.#options.sharing === undefined ? undefined : SHARED_ROTATION_MARGIN_MS),
      absentNodeWaitMs: this.#options.tuning?.absentNodeWaitMs,
    });
  }

  #bundleTaken(): boolean {
    const { behind, clock } = this.#options;
    if (behind === undefined) return clock.nowMs() - this.#bundlePublishedMs >= BLIND_MS;
    const { generation } = this.#caches.trustBundle;
    for (const _ of behind({ typeUrl: TYPE_URL.trustBundle, generation })) return false;
    return true;
  }

  #absentNodes(): string[] {
    const absent = new Set<string>();
    for (const { pod } of this.#world.attachedPods()) {
      if (!this.#nodes.has(pod.node)) absent.add(pod.node);
    }
    return [...absent];
  }

  *#holders(): Iterable<Holder> {
    const { trustDomain } = this.#options.ca;
    for (const { pod, tunnelled } of this.#world.attachedPods()) {
      const { namespace } = pod.meta;
      const { serviceAccount, node } = pod;
      const identity: SpiffeId = formatIdentity({ trustDomain, namespace, serviceAccount });
      yield { node, identity, surely: tunnelled };
    }
    for (const [node, { namespace, serviceAccount }] of this.#workloads) {
      const identity = formatIdentity({ trustDomain, namespace, serviceAccount });
      yield { node, identity, surely: true };
    }
  }

  #published(): void {
    this.#rotation?.setWanted(this.#world.config.rootRotation);
    const waypoints = new Set<string>();
    for (const { namespace, serviceAccount } of this.#workloads.values()) {
      waypoints.add(waypointName(namespace, serviceAccount));
    }
    this.#caches.prune((name) => this.#nodes.has(name) || waypoints.has(name));
    this.#metrics.addresses.set(this.#caches.address.size);
    this.#metrics.batches.add(1);
    this.#options.onPublished?.();
  }
}
