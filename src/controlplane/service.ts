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
import type { CaptureReport } from '../core/pod.ts';
import type { CertificateCall } from '../discovery/ca-service.ts';
import { decodeCaptureReport } from '../discovery/codec-local.ts';
import type { GrpcMetadata } from '../discovery/grpc-client.ts';
import type { ClientInfo, View } from '../discovery/server.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { WireResource } from '../discovery/wire-resource.ts';
import type { CertificateAuthority } from '../identity/ca.ts';
import { parseCsr } from '../identity/csr.ts';
import type { SelfSignedCa } from '../identity/self-signed-ca.ts';
import { createAcknowledgements, type NodesBehind } from './acknowledgements.ts';
import type { CaptureStore } from './capture-store.ts';
import { createLeafLedger, type Holder } from './leaf-ledger.ts';
import { createControlPlaneMetrics } from './metrics.ts';
import type { ObjectChange, ObjectCondition } from './objects.ts';
import { createPublisher } from './publisher.ts';
import { ResourceCaches } from './resource-caches.ts';
import { createRootRotation, type RootRotation } from './root-rotation.ts';
import { createSigningLimits, maySign } from './signing.ts';
import type { NodeAuthenticator } from './tokens.ts';
import { World, type PodStatus } from './world.ts';

/** A node proxy that proved its node. */
export interface NodeClient extends ClientInfo {
  readonly node: string;
}

export interface ControlPlaneOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly registry: Registry;
  /** With `phase`, roots can be rotated; a plugged-in CA's are its operator's. */
  readonly ca: CertificateAuthority | SelfSignedCa;
  readonly authenticator: NodeAuthenticator;
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
  /** Another root issues from now on: whoever holds a certificate of the CA's should renew it. */
  readonly onIssuerChanged?: () => void;
  /** The trusted roots have changed. */
  readonly onRootsChanged?: () => void;
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
  status(): ControlPlaneStatus;
  readonly hooks: ControlPlaneHooks;
}

/** For `createDiscoveryServer` and `createCaMethod`, as they are. */
export interface ControlPlaneHooks {
  authenticate(metadata: GrpcMetadata): Promise<Result<NodeClient>>;
  viewFor(client: NodeClient): Promise<View>;
  onReports(client: NodeClient, typeUrl: string, resources: readonly WireResource[]): void;
  onClientGone(client: NodeClient): void;
  issue(client: NodeClient, call: CertificateCall): Promise<Result<readonly string[]>>;
}

const LEAF_TTL_DEFAULT_MS = 24 * 3600 * 1000;
/** Reports of one node read at a time: more pods than any kubelet runs. */
const REPORTS_MAX = 10_000;
/** As in acknowledgements.ts, where nobody can tell who is behind. */
const BLIND_MS = 1_000;
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
  readonly #connected = new Set<string>();
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
    this.#ledger = createLeafLedger(clock, this.#leafTtlMaxMs);
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
    await this.#publisher.start();
    this.#resolveSynced();
  }

  async flush(): Promise<void> {
    await this.#publisher.flush();
  }

  rotateRoot(): boolean {
    this.#rotation?.rotate();
    return this.#rotation !== undefined;
  }

  status(): ControlPlaneStatus {
    const { address, authorization, auditPolicy } = this.#caches;
    const rotation = this.#rotation;
    return {
      nodes: [...this.#connected].toSorted(),
      pods: [...this.#world.statuses()],
      conditions: [...this.#world.conditions()],
      resources: { addresses: address.size, policies: authorization.size + auditPolicy.size },
      batches: this.#publisher.batchCount,
      rootRotation: rotation && { phase: rotation.phase, count: rotation.count },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#rotation?.[Symbol.dispose]();
    this.#acknowledgements[Symbol.dispose]();
    await this.#publisher[Symbol.asyncDispose]();
  }

  get #leafTtlMaxMs(): number {
    return this.#options.leafTtlMaxMs ?? LEAF_TTL_DEFAULT_MS;
  }

  async #authenticate(metadata: GrpcMetadata): Promise<Result<NodeClient>> {
    const token = BEARER.exec(metadata.get('authorization') ?? '')?.[1];
    if (token === undefined) {
      const message = 'Cannot authenticate node: no bearer token';
      return fail(new MeshError('MESH_DISCOVERY_UNAUTHENTICATED', message));
    }
    const node = await this.#options.authenticator.authenticate(token);
    return node.ok ? ok({ id: node.value, node: node.value }) : node;
  }

  async #viewFor({ node }: NodeClient): Promise<View> {
    // Before any wait: a client that goes meanwhile is taken out after it was put in.
    this.#connected.add(node);
    this.#metrics.nodes.set(this.#connected.size);
    this.#world.connect(node);
    await this.#synced;
    // Its settings are part of its first answer.
    await this.#publisher.flush();
    return this.#caches.view(node);
  }

  #clientGone({ node }: NodeClient): void {
    this.#connected.delete(node);
    this.#metrics.nodes.set(this.#connected.size);
    this.#world.disconnect(node);
    this.#limits.forget(node);
    this.#publisher.poke();
  }

  #takeReports({ node }: NodeClient, typeUrl: string, resources: readonly WireResource[]): void {
    if (typeUrl !== TYPE_URL.captureReport) return;
    const reports: CaptureReport[] = [];
    let refused = Math.max(0, resources.length - REPORTS_MAX);
    for (const { body } of resources.slice(0, REPORTS_MAX)) {
      const report = decodeCaptureReport(body);
      if (report.ok) reports.push(report.value);
      else refused++;
    }
    if (refused > 0) this.#options.logger.warn('Capture reports refused', { node, count: refused });
    this.#world.report(node, reports);
    this.#publisher.poke();
  }

  #issue(client: NodeClient, call: CertificateCall): Result<readonly string[]> {
    const place = this.#limits.enter(client.node);
    if (!place.ok) return place;
    using _ = place.value;
    const { ca, clock } = this.#options;
    if (call.identity === undefined) {
      const message = `Cannot sign for node "${client.node}": no identity asked for`;
      return fail(new MeshError('MESH_CA_REFUSED', message));
    }
    const identity = parseIdentity(call.identity);
    if (!identity.ok) return identity;
    const pod = maySign(this.#world, client.node, identity.value, ca.trustDomain, clock.wallMs());
    if (!pod.ok) return pod;
    const key: Result<KeyObject> = parseCsr(call.csrPem);
    if (!key.ok) return key;
    const issuerId = ca.issuerId;
    const ttlMs = Math.min(call.ttlMs, this.#leafTtlMaxMs);
    const issued = ca.issue(key.value, call.identity, ttlMs);
    if (!issued.ok) return issued;
    const { chainPem, notAfterMs } = issued.value;
    this.#ledger.record(client.node, call.identity, { issuerId, notAfterMs });
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

  #createRotation(ca: SelfSignedCa): RootRotation {
    const { clock, logger } = this.#options;
    return createRootRotation({
      clock,
      logger,
      ca,
      publishBundle: () => {
        this.#publishBundle();
        this.#options.onRootsChanged?.();
        if (ca.issuerId !== this.#issuerId) this.#options.onIssuerChanged?.();
        this.#issuerId = ca.issuerId;
      },
      bundleTaken: () => this.#bundleTaken(),
      absentNodes: () => this.#absentNodes(),
      outdated: () => this.#ledger.outdated(this.#holders(), ca.issuerId),
      marginMs: this.#options.tuning?.rotationMarginMs,
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
      if (!this.#connected.has(pod.node)) absent.add(pod.node);
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
  }

  #published(): void {
    this.#rotation?.setWanted(this.#world.config.rootRotation);
    this.#caches.prune((node) => this.#connected.has(node));
    this.#metrics.addresses.set(this.#caches.address.size);
    this.#metrics.batches.add(1);
  }
}
