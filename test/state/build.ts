/** Workloads, services and pods for the tests of `state/`: short to write, complete in type. */

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import { unwrap } from '../../src/base/result.ts';
import {
  parseAddress,
  parseCidr,
  type IpAddress,
  type SocketAddress,
} from '../../src/core/address.ts';
import type { CapturedPod, LocalPod, NodeSettings, PodUid } from '../../src/core/pod.ts';
import {
  serviceKey,
  type GatewayAddress,
  type Service,
  type ServiceKey,
  type ServicePort,
  type Workload,
} from '../../src/core/workload.ts';
import type { Demand, NodeState } from '../../src/state/contract.ts';
import { createNodeState } from '../../src/state/node-state.ts';

export const NETWORK = 'net1';

export const ip = (text: string): IpAddress => unwrap(parseAddress(text));
export const at = (text: string, port = 80): SocketAddress => ({ ip: ip(text), port });
export const port = (servicePort: number, targetPort = servicePort): ServicePort => ({
  servicePort,
  targetPort,
  appProtocol: 'UNKNOWN',
});
export const key = (name: string, namespace = 'shop'): ServiceKey =>
  serviceKey(namespace, `${name}.${namespace}.svc.cluster.local`);

export interface WorkloadFields extends Partial<Omit<Workload, 'addresses' | 'services'>> {
  readonly addresses?: readonly string[];
  /** Names of services in the workload's namespace, all with no ports of their own; or the real thing. */
  readonly services?: readonly string[] | Workload['services'];
}

export function workload(name: string, fields: WorkloadFields = {}): Workload {
  const namespace = fields.namespace ?? 'shop';
  const { services = [], addresses = [], ...rest } = fields;
  const listed: Workload['services'] =
    services instanceof Map
      ? services
      : new Map((services as readonly string[]).map((service) => [key(service, namespace), []]));
  return {
    uid: `cluster1//Pod/${namespace}/${name}`,
    name,
    namespace,
    addresses: addresses.map(ip),
    hostname: '',
    network: NETWORK,
    tunnelProtocol: 'hbone',
    trustDomain: 'cluster.local',
    serviceAccount: 'default',
    node: 'node1',
    canonicalName: name,
    canonicalRevision: 'latest',
    workloadType: 'DEPLOYMENT',
    workloadName: name,
    services: listed,
    authorizationPolicies: [],
    healthy: true,
    clusterId: 'cluster1',
    locality: { region: 'r1', zone: 'z1', subzone: '' },
    hostNetwork: false,
    waypoint: undefined,
    networkGateway: undefined,
    nativeTunnel: false,
    capacity: 1,
    localDelivery: false,
    ...rest,
  };
}

export interface ServiceFields extends Partial<Omit<Service, 'vips'>> {
  /** Addresses or blocks, in the test's network. */
  readonly vips?: readonly string[];
}

export function service(name: string, fields: ServiceFields = {}): Service {
  const namespace = fields.namespace ?? 'shop';
  const { vips = [], ...rest } = fields;
  return {
    key: key(name, namespace),
    name,
    namespace,
    hostname: `${name}.${namespace}.svc.cluster.local`,
    vips: vips.map((text) => ({ network: NETWORK, cidr: unwrap(parseCidr(text)) })),
    ports: [port(80, 8080)],
    subjectAltNames: [],
    waypoint: undefined,
    balancing: { preference: [], mode: 'UNSPECIFIED', includeUnhealthy: false },
    clientAffinity: false,
    ipFamilies: 'AUTOMATIC',
    canonical: false,
    visibility: 'PUBLIC',
    ...rest,
  };
}

export function gatewayService(
  name: string,
  namespace = 'shop',
  hbonePort = 15008,
): GatewayAddress {
  const hostname = `${name}.${namespace}.svc.cluster.local`;
  return { target: { kind: 'hostname', namespace, hostname }, hbonePort };
}

export function gatewayIp(text: string, network = NETWORK, hbonePort = 15008): GatewayAddress {
  return { target: { kind: 'address', network, ip: ip(text) }, hbonePort };
}

export function localPod(name: string, fields: Partial<LocalPod> = {}): LocalPod {
  return {
    podUid: `uid-${name}` as PodUid,
    name,
    namespace: 'shop',
    serviceAccount: 'default',
    trustDomain: 'cluster.local',
    workloadUid: `cluster1//Pod/shop/${name}`,
    addresses: [],
    enrolled: true,
    probePorts: [],
    ...fields,
  };
}

export function capturedPod(
  name: string,
  address: string,
  fields: Partial<LocalPod> = {},
): CapturedPod {
  const pod = localPod(name, { addresses: [ip(address)], ...fields });
  return { pod, netnsPath: `/proc/${name}/ns/net`, netnsInode: 1 };
}

export const SETTINGS: NodeSettings = {
  localDelivery: 'auto',
  node: 'node1',
  clusterId: 'cluster1',
  network: NETWORK,
  region: 'r1',
  zone: 'z1',
  subzone: '',
  trustDomain: 'cluster.local',
};

export interface TestState {
  readonly state: NodeState;
  readonly clock: FakeClock;
}

/** A state that has everything it was given and nothing more will come unasked. */
export function stateWith(
  workloads: readonly Workload[],
  services: readonly Service[] = [],
  seed = 1,
): NodeState {
  const { state } = emptyState(undefined, seed);
  state.applyAddresses({ workloads, services });
  state.markAddressesSynced();
  return state;
}

export function emptyState(demand?: Demand, seed = 1): TestState {
  const clock = createFakeClock();
  const random = createSeededRandom(seed);
  const state = createNodeState(
    demand === undefined ? { clock, random } : { clock, random, demand },
  );
  return { state, clock };
}
