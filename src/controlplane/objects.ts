/**
 * The controller's input as plain values: the few facts of Kubernetes objects, and of our own kinds, from
 * which everything the nodes must know is derived. Both sources (files/, kubernetes/) produce these; nothing
 * here knows where they came from, and no Kubernetes library is named.
 *
 * Objects are immutable: a change is a new value under the same key.
 */

import type { Cidr, IpAddress } from '../core/address.ts';
import type { JwtRule } from '../core/http-policy.ts';
import type { PodUid } from '../core/pod.ts';
import type { TrafficSettings } from '../core/traffic-policy.ts';
import type { AppProtocol, WorkloadType } from '../core/workload.ts';
import type {
  Gateway,
  GatewayClass,
  MeshDeclaration,
  ReferenceGrant,
  RouteObject,
} from './gateway-objects.ts';

export type Labels = ReadonlyMap<string, string>;

export interface ObjectMeta {
  readonly name: string;
  /** Empty for kinds without a namespace. */
  readonly namespace: string;
  readonly labels: Labels;
  readonly annotations: Labels;
  /** Milliseconds since the Unix epoch; 0 when not given. */
  readonly createdMs: number;
}

export interface SelectorTerm {
  readonly key: string;
  readonly operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
  readonly values: readonly string[];
}

/** All of `matchLabels` and all of `terms`; an empty selector selects everything. */
export interface LabelSelector {
  readonly matchLabels: Labels;
  readonly terms: readonly SelectorTerm[];
}

export interface Namespace {
  readonly kind: 'Namespace';
  readonly meta: ObjectMeta;
}

export interface ContainerPort {
  readonly name: string;
  readonly port: number;
}

export interface Pod {
  readonly kind: 'Pod';
  readonly meta: ObjectMeta;
  readonly uid: PodUid;
  readonly serviceAccount: string;
  /** Empty until scheduled. */
  readonly node: string;
  readonly addresses: readonly IpAddress[];
  readonly phase: 'Pending' | 'Running' | 'Succeeded' | 'Failed' | 'Unknown';
  readonly ready: boolean;
  /** When the pod is to be gone (its `deletionTimestamp`); undefined while nobody deletes it. */
  readonly deletionMs: number | undefined;
  readonly hostNetwork: boolean;
  /** From a file of its node: it has no service account, and so no identity. */
  readonly isStatic: boolean;
  readonly workloadName: string;
  readonly workloadType: WorkloadType;
  /** Declared TCP ports of all containers, for named target ports. */
  readonly ports: readonly ContainerPort[];
  /** TCP ports of HTTP, TCP and gRPC probes, names resolved, sorted, each once. */
  readonly probePorts: readonly number[];
}

export interface ServiceObjectPort {
  readonly name: string;
  readonly port: number;
  /** A number, or the name of a container port that each pod resolves for itself. */
  readonly targetPort: number | string;
  readonly appProtocol: AppProtocol;
}

/** The condition of a Service, and of a route's parent, that says whether a waypoint serves it. */
export const WAYPOINT_BOUND = 'nodemesh.dev/WaypointBound';

/** A condition as it stands in a status, without its times. */
export interface StatedCondition {
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}

export interface ServiceObject {
  readonly kind: 'Service';
  readonly meta: ObjectMeta;
  /** `ExternalName` services are kept as objects and publish nothing. */
  readonly type: 'ClusterIP' | 'NodePort' | 'LoadBalancer' | 'ExternalName';
  /** Empty for headless services. */
  readonly clusterIps: readonly IpAddress[];
  /** TCP only: other protocols never enter the mesh. */
  readonly ports: readonly ServiceObjectPort[];
  /** Undefined: endpoints come from EndpointSlices alone. */
  readonly selector: LabelSelector | undefined;
  readonly internalTrafficPolicy: 'Cluster' | 'Local';
  readonly trafficDistribution: TrafficDistribution | undefined;
  /** `sessionAffinity: ClientIP`. */
  readonly clientAffinity: boolean;
  readonly publishNotReadyAddresses: boolean;
  readonly ipFamilies: readonly ('IPv4' | 'IPv6')[];
  /** What its status says of its waypoint, in our words; undefined: nothing, as always in a folder. */
  readonly waypointBound: StatedCondition | undefined;
}

export const TRAFFIC_DISTRIBUTIONS = ['PreferClose', 'PreferSameZone', 'PreferSameNode'] as const;
export type TrafficDistribution = (typeof TRAFFIC_DISTRIBUTIONS)[number];

export interface SliceEndpoint {
  readonly addresses: readonly IpAddress[];
  readonly ready: boolean;
  readonly node: string;
}

export interface EndpointSlice {
  readonly kind: 'EndpointSlice';
  readonly meta: ObjectMeta;
  /** Name of the service, in the slice's namespace. */
  readonly service: string;
  readonly ports: readonly ContainerPort[];
  readonly endpoints: readonly SliceEndpoint[];
}

export interface NodeObject {
  readonly kind: 'Node';
  readonly meta: ObjectMeta;
  readonly addresses: readonly IpAddress[];
}

/**
 * Whatever may filter packets of pods. Only whom it selects matters: a pod that one selects is not reached
 * by the same-node direct path. A CNI's own kind selects its whole namespace, a cluster-wide one everything.
 */
export interface NetworkPolicyObject {
  readonly kind: 'NetworkPolicy';
  readonly meta: ObjectMeta;
  readonly selector: LabelSelector;
}

export type MtlsMode = 'STRICT' | 'PERMISSIVE';

export interface MeshConfig {
  readonly kind: 'MeshConfig';
  readonly meta: ObjectMeta;
  /** Empty: the CA's, which is also the only one it can be. */
  readonly trustDomain: string;
  readonly clusterId: string;
  /** Suffix of service host names: `NAME.NAMESPACE.svc.CLUSTERDOMAIN`. */
  readonly clusterDomain: string;
  readonly network: string;
  readonly localDelivery: 'auto' | 'tunnel';
  /** Mesh-wide mode where no PeerAuthentication says otherwise. */
  readonly mtlsMode: MtlsMode;
  /** Raising it rotates the root once; see root-rotation.ts. */
  readonly rootRotation: number;
}

export interface PeerAuthentication {
  readonly kind: 'PeerAuthentication';
  readonly meta: ObjectMeta;
  /** Undefined: the whole namespace (the whole mesh in the root namespace). */
  readonly selector: LabelSelector | undefined;
  /** Undefined: inherited. */
  readonly mode: MtlsMode | undefined;
  /** Only with a selector. */
  readonly portModes: ReadonlyMap<number, MtlsMode>;
}

export interface SourceMatch {
  readonly principals: readonly string[];
  readonly notPrincipals: readonly string[];
  readonly namespaces: readonly string[];
  readonly notNamespaces: readonly string[];
  /** `ACCOUNT` (in the policy's namespace) or `NAMESPACE/ACCOUNT`. */
  readonly serviceAccounts: readonly string[];
  readonly notServiceAccounts: readonly string[];
  readonly ipBlocks: readonly Cidr[];
  readonly notIpBlocks: readonly Cidr[];
  readonly requestPrincipals: readonly string[];
  readonly notRequestPrincipals: readonly string[];
  readonly remoteIpBlocks: readonly Cidr[];
  readonly notRemoteIpBlocks: readonly Cidr[];
  /** Names of the L7 fields that were present; a node proxy cannot evaluate them. */
  readonly l7Fields: readonly string[];
}

export interface OperationMatch {
  readonly ports: readonly number[];
  readonly notPorts: readonly number[];
  readonly hosts: readonly string[];
  readonly notHosts: readonly string[];
  readonly methods: readonly string[];
  readonly notMethods: readonly string[];
  readonly paths: readonly string[];
  readonly notPaths: readonly string[];
  readonly l7Fields: readonly string[];
}

export const CONDITION_KEYS = [
  'source.ip',
  'source.namespace',
  'source.principal',
  'destination.ip',
  'destination.port',
] as const;
export type ConditionKey = (typeof CONDITION_KEYS)[number];

export type WhenCondition =
  | {
      readonly key: ConditionKey;
      readonly values: readonly string[];
      readonly notValues: readonly string[];
    }
  | {
      /** `request.headers[NAME]`, `request.auth.…`, `remote.ip` and what we do not know of L7. */
      readonly l7Key: string;
      readonly values: readonly string[];
      readonly notValues: readonly string[];
    };

export interface AuthorizationRule {
  readonly from: readonly SourceMatch[];
  readonly to: readonly OperationMatch[];
  readonly when: readonly WhenCondition[];
}

/** In the policy's own namespace: a Service bound to a waypoint, or the waypoint's Gateway. */
export interface PolicyTargetRef {
  readonly kind: 'Service' | 'Gateway';
  readonly name: string;
}

export interface AuthorizationPolicy {
  readonly kind: 'AuthorizationPolicy';
  readonly meta: ObjectMeta;
  readonly action: 'ALLOW' | 'DENY' | 'AUDIT';
  readonly selector: LabelSelector | undefined;
  /** Bound to a waypoint or service: not enforced by node proxies. */
  readonly targetsWaypoint: boolean;
  readonly targets: readonly PolicyTargetRef[];
  readonly rules: readonly AuthorizationRule[];
}

export interface RequestAuthenticationObject {
  readonly kind: 'RequestAuthentication';
  readonly meta: ObjectMeta;
  /** Never empty. */
  readonly targets: readonly PolicyTargetRef[];
  readonly rules: readonly JwtRule[];
  /** Why it cannot be followed, and so no request is answered; empty: it can. */
  readonly invalid: string;
}

const TRAFFIC_TARGET_KINDS = ['Service', 'HTTPRoute', 'GRPCRoute', 'Gateway', 'Namespace'] as const;

/** An object in the policy's own namespace. */
export interface TrafficTarget {
  readonly kind: (typeof TRAFFIC_TARGET_KINDS)[number];
  readonly name: string;
  /** A port (name or number) of a Service, a rule of a route; empty: all of it. */
  readonly sectionName: string;
}

/** A service in the policy's own namespace. */
export interface FailoverTarget {
  readonly name: string;
  readonly port: number;
}

/** Before the name of an `XBackendTrafficPolicy`: a colon cannot be in a real name, so both kinds keep apart. */
export const BACKEND_POLICY_PREFIX = 'XBackendTrafficPolicy:';

/** Ours, or Gateway API's `XBackendTrafficPolicy` read into the same. */
export interface TrafficPolicyObject {
  readonly kind: 'TrafficPolicy';
  readonly meta: ObjectMeta;
  /** Never empty. */
  readonly targets: readonly TrafficTarget[];
  /** Of the specification that was read; 0 in a folder. */
  readonly generation: number;
  /** Its status has entries of ours; only of `XBackendTrafficPolicy`. */
  readonly stated: boolean;
  /** Why it sets nothing; empty: it is fine. Only of `XBackendTrafficPolicy`. */
  readonly invalid: string;
  /** Its `balancing.failover` is empty: see `failover`. */
  readonly settings: TrafficSettings;
  readonly failover: readonly FailoverTarget[];
}

export type MeshObject =
  | GatewayClass
  | MeshDeclaration
  | Gateway
  | RouteObject
  | ReferenceGrant
  | Namespace
  | Pod
  | ServiceObject
  | EndpointSlice
  | NodeObject
  | NetworkPolicyObject
  | MeshConfig
  | PeerAuthentication
  | AuthorizationPolicy
  | RequestAuthenticationObject
  | TrafficPolicyObject;

export type ObjectKind = MeshObject['kind'];

/** `KIND/NAMESPACE/NAME`: what a change replaces or removes. */
export type ObjectKey = string & { readonly __brand: 'ObjectKey' };

export function formatObjectKey(kind: ObjectKind, namespace: string, name: string): ObjectKey {
  return `${kind}/${namespace}/${name}` as ObjectKey;
}

export function objectKey(object: MeshObject): ObjectKey {
  return formatObjectKey(object.kind, object.meta.namespace, object.meta.name);
}

export type ObjectChange =
  | { readonly type: 'put'; readonly object: MeshObject }
  | {
      readonly type: 'delete';
      readonly kind: ObjectKind;
      readonly namespace: string;
      readonly name: string;
    };

/** Something an object's owner should read: it becomes a status condition or a line of a report. */
export interface ObjectCondition {
  readonly key: ObjectKey;
  /** A word from a closed set, e.g. `L7Ignored`. */
  readonly reason: string;
  readonly message: string;
}

/** What the mesh uses where no MeshConfig is given. */
export const DEFAULT_MESH_CONFIG: Omit<MeshConfig, 'kind' | 'meta'> = {
  trustDomain: '',
  clusterId: 'Kubernetes',
  clusterDomain: 'cluster.local',
  network: '',
  localDelivery: 'auto',
  mtlsMode: 'PERMISSIVE',
  rootRotation: 0,
};

/** The one MeshConfig that counts: this name in the root namespace. */
export const MESH_CONFIG_NAME = 'default';
/** Where mesh-wide policies live, and where the controller itself runs. */
export const ROOT_NAMESPACE = 'nodemesh-system';
