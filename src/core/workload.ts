/** Workloads (pods and VMs) and services as plain values: Istio's `workload.proto`, read and checked. */

import type { Cidr, IpAddress } from './address.ts';
import { formatIdentity, type SpiffeId } from './identity.ts';

export const APP_PROTOCOLS = ['UNKNOWN', 'HTTP11', 'HTTP2', 'GRPC', 'TCP', 'TLS'] as const;
export type AppProtocol = (typeof APP_PROTOCOLS)[number];

export interface ServicePort {
  readonly servicePort: number;
  /** The port of the workload. 0 in a service: see the workload's own list (named target ports). */
  readonly targetPort: number;
  readonly appProtocol: AppProtocol;
}

/** `namespace/hostname`, e.g. `shop/cart.shop.svc.cluster.local`. */
export type ServiceKey = string & { readonly __brand: 'ServiceKey' };

export function serviceKey(namespace: string, hostname: string): ServiceKey {
  return `${namespace}/${hostname}` as ServiceKey;
}

export interface Locality {
  readonly region: string;
  readonly zone: string;
  readonly subzone: string;
}

/** Where a waypoint or network gateway is: an address or a service, and its HBONE port. */
export interface GatewayAddress {
  readonly target:
    | { readonly kind: 'address'; readonly network: string; readonly ip: IpAddress }
    | { readonly kind: 'hostname'; readonly namespace: string; readonly hostname: string };
  readonly hbonePort: number;
}

export const WORKLOAD_TYPES = ['DEPLOYMENT', 'CRONJOB', 'POD', 'JOB'] as const;
export type WorkloadType = (typeof WORKLOAD_TYPES)[number];

export interface Workload {
  /** `cluster/group/kind/namespace/name`, unique in the mesh. */
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
  readonly addresses: readonly IpAddress[];
  /** Only for workloads without addresses. */
  readonly hostname: string;
  readonly network: string;
  /** How it is reached: `hbone` only after its node reported it captured (design, section 2). */
  readonly tunnelProtocol: 'none' | 'hbone';
  readonly trustDomain: string;
  readonly serviceAccount: string;
  readonly node: string;
  readonly canonicalName: string;
  readonly canonicalRevision: string;
  readonly workloadType: WorkloadType;
  readonly workloadName: string;
  readonly services: ReadonlyMap<ServiceKey, readonly ServicePort[]>;
  /** `namespace/name` of the selector policies that govern it. */
  readonly authorizationPolicies: readonly string[];
  readonly healthy: boolean;
  readonly clusterId: string;
  readonly locality: Locality;
  readonly hostNetwork: boolean;
  readonly waypoint: GatewayAddress | undefined;
  readonly networkGateway: GatewayAddress | undefined;
  /** The workload speaks HBONE itself; no node proxy stands in front of it. */
  readonly nativeTunnel: boolean;
  /** Weight for balancing, 1 when not given. */
  readonly capacity: number;
  /**
   * No NetworkPolicy selects it, so the same-node direct path may be used (design, section 3.6). Travels as
   * the extension `nodemesh.dev/local-delivery`; absent (a foreign control plane) means false.
   */
  readonly localDelivery: boolean;
}

export function workloadIdentity(workload: Workload): SpiffeId {
  return formatIdentity(workload);
}

export const BALANCING_SCOPES = [
  'UNSPECIFIED',
  'REGION',
  'ZONE',
  'SUBZONE',
  'NODE',
  'CLUSTER',
  'NETWORK',
] as const;
export type BalancingScope = (typeof BALANCING_SCOPES)[number];

export interface Balancing {
  /** Scopes from widest to narrowest that an endpoint should share with the client. */
  readonly preference: readonly BalancingScope[];
  /** STRICT: share all or be left out. FAILOVER: best share wins. PASSTHROUGH: the original address. */
  readonly mode: 'UNSPECIFIED' | 'STRICT' | 'FAILOVER' | 'PASSTHROUGH';
  /** `publishNotReadyAddresses`. */
  readonly includeUnhealthy: boolean;
}

export interface ServiceVip {
  readonly network: string;
  readonly cidr: Cidr;
}

export interface Service {
  readonly key: ServiceKey;
  readonly name: string;
  readonly namespace: string;
  readonly hostname: string;
  readonly vips: readonly ServiceVip[];
  readonly ports: readonly ServicePort[];
  /** Identities, besides a workload's own, that may answer for this service. */
  readonly subjectAltNames: readonly string[];
  readonly waypoint: GatewayAddress | undefined;
  readonly balancing: Balancing;
  /**
   * `sessionAffinity: ClientIP`: connections of one client address go to one endpoint. Travels as the extension
   * `nodemesh.dev/client-affinity`; absent (a foreign control plane) means false.
   */
  readonly clientAffinity: boolean;
  readonly ipFamilies: 'AUTOMATIC' | 'IPV4_ONLY' | 'IPV6_ONLY' | 'DUAL';
  readonly canonical: boolean;
  /** PUBLIC, or NAMESPACE: only clients of its own namespace resolve it. */
  readonly visibility: 'PUBLIC' | 'NAMESPACE';
}
