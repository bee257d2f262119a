/** Pods and raw endpoints → the workloads, local pods and node settings that nodes receive. Pure. */

import type { IpAddress } from '../core/address.ts';
import type { LocalPod, NodeSettings } from '../core/pod.ts';
import type {
  GatewayAddress,
  Locality,
  ServiceKey,
  ServicePort,
  Workload,
} from '../core/workload.ts';
import { foreignTunnel, type EnrolmentEffect } from './enrolment.ts';
import type { EndpointSlice, Labels, MeshConfig, NodeObject, Pod } from './objects.ts';
import type { ServedService } from './service-registry.ts';
import { serviceObjectKey } from './service-view.ts';

/** As the codecs: what a reader takes of one workload. */
const WORKLOAD_SERVICES_MAX = 1_000;
const WORKLOAD_POLICIES_MAX = 1_000;
/** No policy has this key. A node that meets it denies, which is right when not every policy can be named. */
export const TOO_MANY_POLICIES_KEY = 'nodemesh-system/too_many_policies';

export interface PodFacts {
  readonly pod: Pod;
  /** Those that no newer pod has taken. */
  readonly addresses: readonly IpAddress[];
  readonly effect: EnrolmentEffect;
  readonly served: readonly ServedService[];
  readonly selectingKeys: readonly string[];
  readonly strictKey: string | undefined;
  readonly filtered: boolean;
  readonly node: NodeObject | undefined;
  /** A process of one of our waypoints: it speaks the tunnel itself. */
  readonly isWaypoint: boolean;
  /** What connections to its own address go through. */
  readonly waypoint: GatewayAddress | undefined;
}

/** Istio's form: `CLUSTER/GROUP/KIND/NAMESPACE/NAME`, the group of Pods being empty. */
export function podWorkloadUid(clusterId: string, namespace: string, name: string): string {
  return `${clusterId}//Pod/${namespace}/${name}`;
}

export function endpointWorkloadUid(
  clusterId: string,
  slice: EndpointSlice,
  ip: IpAddress,
): string {
  const { namespace, name } = slice.meta;
  return `${clusterId}/discovery.k8s.io/EndpointSlice/${namespace}/${name}/${ip}`;
}

export function localityOf(node: NodeObject | undefined): Locality {
  const label = (key: string): string => node?.meta.labels.get(key) ?? '';
  return {
    region: label('topology.kubernetes.io/region'),
    zone: label('topology.kubernetes.io/zone'),
    subzone: label('topology.istio.io/subzone'),
  };
}

export function podWorkload(facts: PodFacts, config: MeshConfig): Workload {
  const { pod, effect } = facts;
  const { labels, namespace, name } = pod.meta;
  const foreign = facts.isWaypoint ? 'native' : foreignTunnel(pod);
  const tunnelled = effect.hbone || foreign !== 'none';
  const strict = effect.strict || foreign !== 'none';
  return {
    uid: podWorkloadUid(config.clusterId, namespace, name),
    name,
    namespace,
    addresses: facts.addresses,
    hostname: '',
    network: config.network,
    tunnelProtocol: tunnelled ? 'hbone' : 'none',
    trustDomain: config.trustDomain,
    serviceAccount: pod.serviceAccount,
    node: pod.node,
    canonicalName: canonicalName(labels, pod),
    canonicalRevision: canonicalRevision(labels),
    workloadType: pod.workloadType,
    workloadName: pod.workloadName,
    services: servicesOf(facts.served, config.clusterDomain),
    authorizationPolicies: policiesOf(facts, strict),
    healthy: pod.ready && pod.deletionMs === undefined,
    clusterId: config.clusterId,
    locality: localityOf(facts.node),
    hostNetwork: pod.hostNetwork,
    waypoint: facts.waypoint,
    networkGateway: undefined,
    nativeTunnel: foreign === 'native',
    capacity: 1,
    localDelivery: config.localDelivery === 'auto' && !facts.filtered && !pod.hostNetwork,
  };
}

function canonicalName(labels: Labels, pod: Pod): string {
  return (
    labels.get('service.istio.io/canonical-name') ??
    labels.get('app.kubernetes.io/name') ??
    labels.get('app') ??
    pod.workloadName
  );
}

function canonicalRevision(labels: Labels): string {
  return (
    labels.get('service.istio.io/canonical-revision') ??
    labels.get('app.kubernetes.io/version') ??
    labels.get('version') ??
    'latest'
  );
}

/** Sorted, so that the same facts always make the same bytes. */
function servicesOf(
  served: readonly ServedService[],
  clusterDomain: string,
): ReadonlyMap<ServiceKey, readonly ServicePort[]> {
  const entries = served
    .map(({ service, ports }) => [serviceObjectKey(service, clusterDomain), ports] as const)
    .toSorted(([a], [b]) => (a < b ? -1 : 1));
  return new Map(entries.slice(0, WORKLOAD_SERVICES_MAX));
}

function policiesOf(facts: PodFacts, strict: boolean): string[] {
  const keys = [...facts.selectingKeys];
  if (strict && facts.strictKey !== undefined) keys.push(facts.strictKey);
  if (keys.length <= WORKLOAD_POLICIES_MAX) return keys;
  return [...keys.slice(0, WORKLOAD_POLICIES_MAX - 1), TOO_MANY_POLICIES_KEY];
}

/** An endpoint that is no pod of ours: an address without identity, policy or locality. */
export function endpointWorkload(
  slice: EndpointSlice,
  ip: IpAddress,
  served: ServedService | undefined,
  config: MeshConfig,
): Workload | undefined {
  const endpoint = slice.endpoints.find(({ addresses }) => addresses.includes(ip));
  if (endpoint === undefined || served === undefined) return undefined;
  return {
    uid: endpointWorkloadUid(config.clusterId, slice, ip),
    name: slice.meta.name,
    namespace: slice.meta.namespace,
    addresses: [ip],
    hostname: '',
    network: config.network,
    tunnelProtocol: 'none',
    trustDomain: config.trustDomain,
    serviceAccount: '',
    node: endpoint.node,
    canonicalName: slice.service,
    canonicalRevision: 'latest',
    workloadType: 'POD',
    workloadName: slice.meta.name,
    services: servicesOf([served], config.clusterDomain),
    authorizationPolicies: [],
    healthy: endpoint.ready,
    clusterId: config.clusterId,
    locality: localityOf(undefined),
    hostNetwork: false,
    waypoint: undefined,
    networkGateway: undefined,
    nativeTunnel: false,
    capacity: 1,
    localDelivery: false,
  };
}

/** What the pod's own node is told, from scheduling on. */
export function localPodView(pod: Pod, effect: EnrolmentEffect, config: MeshConfig): LocalPod {
  const { namespace, name } = pod.meta;
  return {
    podUid: pod.uid,
    name,
    namespace,
    serviceAccount: pod.serviceAccount,
    trustDomain: config.trustDomain,
    workloadUid: podWorkloadUid(config.clusterId, namespace, name),
    addresses: pod.addresses,
    enrolled: effect.attached,
    probePorts: pod.probePorts,
  };
}

export function nodeSettingsView(
  node: string,
  object: NodeObject | undefined,
  config: MeshConfig,
): NodeSettings {
  return {
    localDelivery: config.localDelivery,
    node,
    clusterId: config.clusterId,
    network: config.network,
    ...localityOf(object),
    trustDomain: config.trustDomain,
  };
}
