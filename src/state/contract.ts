/**
 * What the rest of a node proxy knows of its own view of the mesh: reading, applying, waiting. `node-state.ts`
 * implements it; nothing here does anything.
 *
 * - Everything given to an `apply…` is the state's own from then on and must not be changed; a newer version
 *   of a thing is a new object. Everything read from it is to be looked at only, and may be kept.
 * - A batch is applied as one step: listeners run after all of it, when every index agrees again. Callers
 *   with much to apply give it in slices.
 * - The result depends on what was applied last for each name, not on the order between names.
 */

import type { MeshError } from '../base/errors.ts';
import type { IpAddress, SocketAddress } from '../core/address.ts';
import type { CapturedPod, LocalPod, NodeSettings, PodUid } from '../core/pod.ts';
import type { Policy } from '../core/policy.ts';
import type { Locality, Service, ServiceKey, Workload } from '../core/workload.ts';

/** Upserts and removals of `istio.workload.Address`. A name in both counts as upserted. */
export interface AddressBatch {
  readonly workloads?: readonly Workload[];
  readonly services?: readonly Service[];
  /** Resource names: a workload's uid, a service's key, or `network/ip` for "there is no such thing". */
  readonly removed?: readonly string[];
}

/** Upserts and removals of policies of one type; a key in both counts as upserted. */
export interface PolicyBatch {
  readonly policies?: readonly Policy[];
  readonly removed?: readonly string[];
}

export interface PodBatch<Pod> {
  readonly pods?: readonly Pod[];
  readonly removed?: readonly PodUid[];
}

/** Stops a listener. Idempotent. */
export type Unsubscribe = () => void;

/**
 * How the state asks for what it does not hold. Given, the state is on demand: only what was asked for
 * arrives. Absent, everything arrives, and what is not there after the first snapshot does not exist.
 */
export interface Demand {
  /** Resource names never asked before, or forgotten since: subscribe to them. */
  subscribe(names: readonly string[]): void;
  /** Answers of the "there is none" kind that the state forgot to stay within its bound. */
  unsubscribe(names: readonly string[]): void;
}

/** Who opens a connection. A `Workload` is one. */
export interface Client {
  readonly uid: string;
  readonly namespace: string;
  readonly network: string;
  readonly clusterId: string;
  readonly node: string;
  readonly locality: Locality;
}

/** Straight to a workload: through its own tunnel port, or in plain text if it has none. */
export interface EndpointDestination {
  readonly kind: 'endpoint';
  readonly workload: Workload;
  /** Undefined when the workload itself was addressed. */
  readonly service: Service | undefined;
  /** The workload's address and target port: the CONNECT authority, or what to dial in plain text. */
  readonly address: SocketAddress;
  readonly protocol: 'hbone' | 'plain';
  /** For `hbone`: the identities of which the peer must show one (T46, T47). */
  readonly identities: readonly string[];
}

/** Through the waypoint that was declared for the service, or for the workload. */
export interface WaypointDestination {
  readonly kind: 'waypoint';
  /** The waypoint's workload that was chosen. */
  readonly waypoint: Workload;
  /** Where its tunnel listens. */
  readonly hop: SocketAddress;
  /** What was addressed: the CONNECT authority. */
  readonly address: SocketAddress;
  readonly identities: readonly string[];
  readonly service: Service | undefined;
  /** Set when a workload was addressed. */
  readonly workload: Workload | undefined;
}

/** A service's endpoint in another network: two tunnels, one inside the other, through its gateway. */
export interface GatewayDestination {
  readonly kind: 'gateway';
  readonly gateway: Workload;
  readonly hop: SocketAddress;
  /** Identities of the gateway, for the outer tunnel. */
  readonly identities: readonly string[];
  readonly service: Service;
  /** Authority of both tunnels, `hostname:port`. */
  readonly authority: string;
  /** Identities for the inner tunnel. */
  readonly serviceIdentities: readonly string[];
  /** The stand-in for the far endpoints; counts its load. */
  readonly workload: Workload;
}

/** Not the mesh's business: the original address, in plain text. */
export interface PassthroughDestination {
  readonly kind: 'passthrough';
  readonly address: SocketAddress;
  readonly service: Service | undefined;
}

/** Not known yet. Give the names to `whenKnown`, then resolve again. */
export interface PendingDestination {
  readonly kind: 'pending';
  /** Empty: the first snapshot is not complete. */
  readonly names: readonly string[];
}

/** Known, and not to be reached now; never a reason to go in plain text. */
export interface RefusedDestination {
  readonly kind: 'refused';
  readonly error: MeshError;
  readonly service: Service | undefined;
  readonly workload: Workload | undefined;
}

export type Destination =
  | EndpointDestination
  | WaypointDestination
  | GatewayDestination
  | PassthroughDestination
  | PendingDestination
  | RefusedDestination;

/** Counts one open connection on a workload, for balancing. */
export interface ConnectionHandle {
  /** Idempotent. */
  end(): void;
}

export interface WhenKnownOptions {
  readonly signal?: AbortSignal;
  /** Default 5,000. */
  readonly timeoutMs?: number;
}

/** Policies by key and by scope; fits `PolicySource` of `policy/`. */
export interface PolicyView {
  /** The first complete `Authorization` snapshot is here. */
  readonly synced: boolean;
  /** Changes whenever a policy or `synced` does. */
  readonly version: number;
  readonly size: number;
  get(key: string): Policy | undefined;
  globals(): Iterable<Policy>;
  inNamespace(namespace: string): Iterable<Policy>;
  all(): Iterable<Policy>;
}

export interface WorkloadView {
  readonly version: number;
  readonly size: number;
  get(uid: string): Workload | undefined;
  /** Never a hostNetwork workload. If several claim one address: tunnelled, then healthy ones first. */
  atAddress(network: string, ip: IpAddress): Workload | undefined;
  all(): Iterable<Workload>;
}

export interface ServiceView {
  readonly version: number;
  readonly size: number;
  get(key: ServiceKey): Service | undefined;
  /** What a client of this namespace means by the address (hbone.md 3.2). */
  atAddress(network: string, ip: IpAddress, clientNamespace: string): Service | undefined;
  /** All workloads that name it, usable or not. */
  endpoints(key: ServiceKey): Iterable<Workload>;
  /** Another number whenever one of them came, went or changed; 0 without any. */
  endpointsVersion(key: ServiceKey): number;
  all(): Iterable<Service>;
}

export interface PodView {
  local(podUid: PodUid): LocalPod | undefined;
  localPods(): Iterable<LocalPod>;
  captured(podUid: PodUid): CapturedPod | undefined;
  capturedPods(): Iterable<CapturedPod>;
  /** Undefined as well when two captured pods claim the address: only the network can tell them apart. */
  capturedByIp(ip: IpAddress): CapturedPod | undefined;
  capturedByWorkload(workloadUid: string): CapturedPod | undefined;
}

export interface CapturedChange {
  readonly added: readonly CapturedPod[];
  readonly removed: readonly CapturedPod[];
}

export interface NodeState {
  readonly policies: PolicyView;
  readonly workloads: WorkloadView;
  readonly services: ServiceView;
  readonly pods: PodView;
  /** Undefined until the controller sent them. */
  readonly settings: NodeSettings | undefined;
  /** PEM or DER as received, by name (trust domain). */
  readonly trustBundles: ReadonlyMap<string, Uint8Array>;
  readonly policiesSynced: boolean;
  readonly addressesSynced: boolean;

  applyAddresses(batch: AddressBatch): void;
  /** `istio.security.Authorization`. */
  applyPolicies(batch: PolicyBatch): void;
  /** Our own AUDIT type; its keys are apart from those above, so a policy may change its action. */
  applyAuditPolicies(batch: PolicyBatch): void;
  applyLocalPods(batch: PodBatch<LocalPod>): void;
  applyCapturedPods(batch: PodBatch<CapturedPod>): void;
  applySettings(settings: NodeSettings): void;
  applyTrustBundle(name: string, bytes: Uint8Array | undefined): void;
  /** The first complete snapshot of its type has been applied. Stays true when the stream is lost. */
  markPoliciesSynced(): void;
  markAddressesSynced(): void;

  onPolicyChange(listener: () => void): Unsubscribe;
  /** The workload was upserted (given) or removed (undefined). */
  onWorkloadChange(uid: string, listener: (workload: Workload | undefined) => void): Unsubscribe;
  onCapturedChange(listener: (change: CapturedChange) => void): Unsubscribe;
  onSettingsChange(listener: (settings: NodeSettings) => void): Unsubscribe;
  onTrustChange(listener: (name: string) => void): Unsubscribe;

  /**
   * Where a connection goes that `client` opened to `original`. Endpoints whose uid is in `exclude` (dials
   * that failed) are left out. Chooses anew on every call, but by `source`, the client's address, where the
   * service wants its clients to stay where they are; counts nothing until `beginConnection`.
   */
  resolveDestination(
    original: SocketAddress,
    client: Client,
    exclude?: ReadonlySet<string>,
    source?: IpAddress,
  ): Destination;
  /**
   * Asks for the names where needed and resolves when each is known, be it as "there is none". Rejects with
   * MESH_CONFIG_UNAVAILABLE after the timeout, MESH_LIMIT_EXCEEDED when too many wait, or the signal's
   * reason.
   */
  whenKnown(names: readonly string[], options?: WhenKnownOptions): Promise<void>;
  /** For the uid of an endpoint, waypoint or gateway stand-in that `resolveDestination` named. */
  beginConnection(uid: string): ConnectionHandle;
  /** Connections open now on a workload. */
  openConnections(uid: string): number;
  /**
   * The captured pod that a connection of `source` to `address` may be joined with directly, without a
   * tunnel: both are captured here, both may (`localDelivery`), and the address is that pod's (design 3.6).
   */
  sameNodeTarget(
    source: CapturedPod,
    destination: Workload,
    address: SocketAddress,
  ): CapturedPod | undefined;
}

/** Name under which an address is asked for on demand. */
export function addressName(network: string, ip: IpAddress): string {
  return `${network}/${ip}`;
}
