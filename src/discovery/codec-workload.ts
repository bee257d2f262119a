/**
 * Workloads and services between `istio.workload.Address` and `core/workload.ts`.
 *
 * Decoding is strict about what decides where bytes go or who may answer (identity, addresses, ports, tunnel
 * protocol, waypoint) and takes the default for what only ranks or labels. A failure concerns one resource.
 */

import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf';

import type { Result } from '../base/result.ts';
import { addressBytes } from '../core/address.ts';
import { isNamespaceName, isServiceAccountName, isTrustDomain } from '../core/identity.ts';
import { PORTS } from '../core/pod.ts';
import {
  APP_PROTOCOLS,
  BALANCING_SCOPES,
  serviceKey,
  WORKLOAD_TYPES,
  type Balancing,
  type GatewayAddress,
  type Service,
  type ServiceKey,
  type ServicePort,
  type ServiceVip,
  type Workload,
} from '../core/workload.ts';
import {
  decodeBounded,
  invalidField,
  readAddress,
  readChecked,
  readCidr,
  readList,
  readPort,
  readRequired,
  readText,
} from './codec-fields.ts';
import {
  AddressSchema,
  IPFamilies,
  LoadBalancing_HealthPolicy,
  LoadBalancing_Mode,
  NetworkMode,
  Service_Visibility,
  TunnelProtocol,
  WorkloadStatus,
  type AppProtocol as AppProtocolNumber,
  type GatewayAddress as GatewayAddressMessage,
  type GatewayAddressSchema,
  type LoadBalancing as LoadBalancingMessage,
  type LoadBalancing_Scope,
  type NetworkAddress as NetworkAddressMessage,
  type Port as PortMessage,
  type PortSchema,
  type Service as ServiceMessage,
  type Workload as WorkloadMessage,
  type WorkloadType as WorkloadTypeNumber,
} from './gen/istio/workload/workload_pb.ts';
import { createWireResource, type WireResource } from './wire-resource.ts';

export type AddressValue =
  | { readonly kind: 'workload'; readonly workload: Workload }
  | { readonly kind: 'service'; readonly service: Service };

/** The extension that says that the same-node direct path may be used. */
export const LOCAL_DELIVERY_EXTENSION = 'nodemesh.dev/local-delivery';

/** The extension of a service that says that a client's connections go to one endpoint. */
export const CLIENT_AFFINITY_EXTENSION = 'nodemesh.dev/client-affinity';

export const WORKLOAD_ADDRESSES_MAX = 64;
export const WORKLOAD_SERVICES_MAX = 1_000;
export const WORKLOAD_POLICIES_MAX = 1_000;
export const SERVICE_VIPS_MAX = 256;
export const SERVICE_NAMES_MAX = 1_000;
export const PORTS_MAX = 1_000;
const WAYPOINTS_MAX = 64;
/** Twice the number of scopes there are; a repeated one changes nothing. */
const PREFERENCE_MAX = 14;
const EXTENSIONS_MAX = 64;
/** A weight, not a count of anything we allocate. */
const CAPACITY_MAX = 1_000_000;

const IP_FAMILIES = ['AUTOMATIC', 'IPV4_ONLY', 'IPV6_ONLY', 'DUAL'] as const;
const BALANCING_MODES = ['UNSPECIFIED', 'STRICT', 'FAILOVER', 'PASSTHROUGH'] as const;

/** Reads the `Any` value of an `istio.workload.Address`. */
export function decodeAddress(body: Uint8Array): Result<AddressValue> {
  return decodeBounded(AddressSchema, body, ({ type }): AddressValue => {
    switch (type.case) {
      case 'workload':
        return { kind: 'workload', workload: readWorkload(type.value) };
      case 'service':
        return { kind: 'service', service: readService(type.value) };
      case undefined:
        throw invalidField('type', 'neither a workload nor a service');
    }
  });
}

/** The name under which an address travels and is removed. */
export function addressName(address: AddressValue): string {
  return address.kind === 'workload' ? address.workload.uid : address.service.key;
}

/** As it travels: named by uid, found by `network/ip` too, and brought along by its services. */
export function workloadResource(workload: Workload): WireResource {
  const aliases = workload.hostNetwork
    ? []
    : workload.addresses.map((ip) => `${workload.network}/${ip}`);
  return createWireResource(workload.uid, encodeWorkload(workload), aliases, [
    ...workload.services.keys(),
  ]);
}

/** As it travels: named `namespace/hostname`, found by the `network/ip` of its single-address VIPs too. */
export function serviceResource(service: Service): WireResource {
  const whole = service.vips.filter(
    ({ cidr }) => cidr.prefixLength === addressBytes(cidr.ip).length * 8,
  );
  const aliases = whole.map(({ network, cidr }) => `${network}/${cidr.ip}`);
  return createWireResource(service.key, encodeService(service), aliases);
}

/** The `Any` value; equal workloads give equal bytes. */
export function encodeWorkload(workload: Workload): Uint8Array {
  // The map is sorted: the version is a hash of the bytes and must not depend on the order of discovery.
  const services = [...workload.services].toSorted(([a], [b]) => (a < b ? -1 : 1));
  const message = create(AddressSchema, {
    type: {
      case: 'workload',
      value: {
        uid: workload.uid,
        name: workload.name,
        namespace: workload.namespace,
        addresses: workload.addresses.map((ip) => Uint8Array.from(addressBytes(ip))),
        hostname: workload.hostname,
        network: workload.network,
        tunnelProtocol:
          workload.tunnelProtocol === 'hbone' ? TunnelProtocol.HBONE : TunnelProtocol.NONE,
        trustDomain: workload.trustDomain,
        serviceAccount: workload.serviceAccount,
        waypoint: gatewayInit(workload.waypoint),
        networkGateway: gatewayInit(workload.networkGateway),
        node: workload.node,
        canonicalName: workload.canonicalName,
        canonicalRevision: workload.canonicalRevision,
        workloadType: WORKLOAD_TYPES.indexOf(workload.workloadType) as WorkloadTypeNumber,
        workloadName: workload.workloadName,
        nativeTunnel: workload.nativeTunnel,
        services: Object.fromEntries(
          services.map(([key, ports]) => [key, { ports: ports.map(portInit) }]),
        ),
        authorizationPolicies: [...workload.authorizationPolicies],
        status: workload.healthy ? WorkloadStatus.HEALTHY : WorkloadStatus.UNHEALTHY,
        clusterId: workload.clusterId,
        locality: { ...workload.locality },
        networkMode: workload.hostNetwork ? NetworkMode.HOST_NETWORK : NetworkMode.STANDARD,
        extensions: workload.localDelivery ? [{ name: LOCAL_DELIVERY_EXTENSION }] : [],
        capacity: workload.capacity,
      },
    },
  });
  return toBinary(AddressSchema, message);
}

/** The `Any` value; equal services give equal bytes. */
export function encodeService(service: Service): Uint8Array {
  const message = create(AddressSchema, {
    type: {
      case: 'service',
      value: {
        name: service.name,
        namespace: service.namespace,
        hostname: service.hostname,
        addresses: service.vips.map(({ network, cidr }) => ({
          network,
          address: Uint8Array.from(addressBytes(cidr.ip)),
          ...(cidr.prefixLength === addressBytes(cidr.ip).length * 8
            ? {}
            : { length: cidr.prefixLength }),
        })),
        ports: service.ports.map(portInit),
        subjectAltNames: [...service.subjectAltNames],
        waypoint: gatewayInit(service.waypoint),
        loadBalancing: {
          routingPreference: service.balancing.preference.map(
            (scope) => BALANCING_SCOPES.indexOf(scope) as LoadBalancing_Scope,
          ),
          mode: BALANCING_MODES.indexOf(service.balancing.mode) as LoadBalancing_Mode,
          healthPolicy: service.balancing.includeUnhealthy
            ? LoadBalancing_HealthPolicy.ALLOW_ALL
            : LoadBalancing_HealthPolicy.ONLY_HEALTHY,
        },
        ipFamilies: IP_FAMILIES.indexOf(service.ipFamilies) as IPFamilies,
        extensions: service.clientAffinity ? [{ name: CLIENT_AFFINITY_EXTENSION }] : [],
        canonical: service.canonical,
        visibility:
          service.visibility === 'NAMESPACE'
            ? Service_Visibility.NAMESPACE
            : Service_Visibility.PUBLIC,
      },
    },
  });
  return toBinary(AddressSchema, message);
}

function portInit(port: ServicePort): MessageInitShape<typeof PortSchema> {
  return {
    servicePort: port.servicePort,
    targetPort: port.targetPort,
    appProtocol: APP_PROTOCOLS.indexOf(port.appProtocol) as AppProtocolNumber,
  };
}

function gatewayInit(
  gateway: GatewayAddress | undefined,
): MessageInitShape<typeof GatewayAddressSchema> | undefined {
  if (gateway === undefined) return undefined;
  const { target, hbonePort } = gateway;
  if (target.kind === 'hostname') {
    const { namespace, hostname } = target;
    return {
      destination: { case: 'hostname', value: { namespace, hostname } },
      hboneMtlsPort: hbonePort,
    };
  }
  const address = Uint8Array.from(addressBytes(target.ip));
  return {
    destination: { case: 'address', value: { network: target.network, address } },
    hboneMtlsPort: hbonePort,
  };
}

function readWorkload(message: WorkloadMessage): Workload {
  const extensions = readList('extensions', message.extensions, EXTENSIONS_MAX, (one) => one.name);
  return {
    uid: readRequired('uid', message.uid),
    name: readText('name', message.name),
    namespace: readChecked('namespace', message.namespace, isNamespaceName),
    addresses: readList('addresses', message.addresses, WORKLOAD_ADDRESSES_MAX, (bytes) =>
      readAddress('addresses', bytes),
    ),
    hostname: readText('hostname', message.hostname),
    network: readText('network', message.network),
    tunnelProtocol: readTunnelProtocol(message.tunnelProtocol),
    trustDomain: readChecked('trust_domain', message.trustDomain || 'cluster.local', isTrustDomain),
    serviceAccount: readChecked(
      'service_account',
      message.serviceAccount || 'default',
      isServiceAccountName,
    ),
    node: readText('node', message.node),
    canonicalName: readText('canonical_name', message.canonicalName),
    canonicalRevision: readText('canonical_revision', message.canonicalRevision),
    workloadType: WORKLOAD_TYPES[message.workloadType] ?? 'POD',
    workloadName: readText('workload_name', message.workloadName),
    services: readServices(message.services),
    authorizationPolicies: readList(
      'authorization_policies',
      message.authorizationPolicies,
      WORKLOAD_POLICIES_MAX,
      (key) => readRequired('authorization_policies', key),
    ),
    healthy: message.status === WorkloadStatus.HEALTHY,
    clusterId: readText('cluster_id', message.clusterId),
    locality: {
      region: readText('region', message.locality?.region ?? ''),
      zone: readText('zone', message.locality?.zone ?? ''),
      subzone: readText('subzone', message.locality?.subzone ?? ''),
    },
    hostNetwork: readHostNetwork(message.networkMode),
    waypoint: readGateway('waypoint', message.waypoint),
    networkGateway: readGateway('network_gateway', message.networkGateway),
    nativeTunnel: message.nativeTunnel,
    capacity: Math.min(message.capacity ?? 1, CAPACITY_MAX),
    localDelivery: extensions.includes(LOCAL_DELIVERY_EXTENSION),
  };
}

function readTunnelProtocol(value: number): Workload['tunnelProtocol'] {
  if (value === TunnelProtocol.NONE) return 'none';
  if (value === TunnelProtocol.HBONE) return 'hbone';
  // Guessing here would be plain text where a tunnel was meant.
  throw invalidField('tunnel_protocol', `${value} is not supported`);
}

function readHostNetwork(value: number): boolean {
  if (value === NetworkMode.STANDARD) return false;
  if (value === NetworkMode.HOST_NETWORK) return true;
  throw invalidField('network_mode', `${value} is not known`);
}

function readServices(
  services: WorkloadMessage['services'],
): ReadonlyMap<ServiceKey, readonly ServicePort[]> {
  const entries = readList('services', Object.entries(services), WORKLOAD_SERVICES_MAX, (entry) => {
    const [key, { ports }] = entry;
    const slash = key.indexOf('/');
    if (slash < 1 || slash === key.length - 1) {
      throw invalidField('services', 'a key is not NAMESPACE/HOSTNAME');
    }
    const name = serviceKey(key.slice(0, slash), readText('services', key).slice(slash + 1));
    return [name, readPorts(ports)] as const;
  });
  return new Map(entries);
}

function readPorts(ports: readonly PortMessage[]): ServicePort[] {
  return readList('ports', ports, PORTS_MAX, (port) => ({
    servicePort: readPort('service_port', port.servicePort),
    targetPort: readPort('target_port', port.targetPort, true),
    appProtocol: APP_PROTOCOLS[port.appProtocol] ?? 'UNKNOWN',
  }));
}

function readGateway(
  field: string,
  message: GatewayAddressMessage | undefined,
): GatewayAddress | undefined {
  if (message === undefined) return undefined;
  const hbonePort = readPort(field, message.hboneMtlsPort, true) || PORTS.hbone;
  const { destination } = message;
  switch (destination.case) {
    case 'hostname': {
      const namespace = readRequired(field, destination.value.namespace);
      const hostname = readRequired(field, destination.value.hostname);
      return { target: { kind: 'hostname', namespace, hostname }, hbonePort };
    }
    case 'address': {
      const ip = readAddress(field, destination.value.address);
      const network = readText(field, destination.value.network);
      return { target: { kind: 'address', network, ip }, hbonePort };
    }
    case undefined:
      // Taking it for "no waypoint" would skip one that was declared.
      throw invalidField(field, 'neither a hostname nor an address');
  }
}

function readService(message: ServiceMessage): Service {
  const extensions = readList('extensions', message.extensions, EXTENSIONS_MAX, (one) => one.name);
  const namespace = readRequired('namespace', message.namespace);
  const hostname = readRequired('hostname', message.hostname);
  return {
    key: serviceKey(readChecked('namespace', namespace, isNamespaceName), hostname),
    name: readText('name', message.name),
    namespace,
    hostname,
    vips: readList('addresses', message.addresses, SERVICE_VIPS_MAX, readVip),
    ports: readPorts(message.ports),
    subjectAltNames: readList(
      'subject_alt_names',
      message.subjectAltNames,
      SERVICE_NAMES_MAX,
      (name) => readText('subject_alt_names', name, 2_048),
    ),
    waypoint: readServiceWaypoint(message),
    balancing: readBalancing(message.loadBalancing),
    clientAffinity: extensions.includes(CLIENT_AFFINITY_EXTENSION),
    ipFamilies: IP_FAMILIES[message.ipFamilies] ?? IP_FAMILIES[IPFamilies.AUTOMATIC],
    canonical: message.canonical,
    visibility: message.visibility === Service_Visibility.PUBLIC ? 'PUBLIC' : 'NAMESPACE',
  };
}

/** With weighted waypoints alone, the heaviest stands for all: one is needed, so that none is skipped. */
function readServiceWaypoint(message: ServiceMessage): GatewayAddress | undefined {
  const weighted = readList(
    'weighted_waypoints',
    message.weightedWaypoints,
    WAYPOINTS_MAX,
    (w) => w,
  );
  const heaviest = weighted.toSorted((a, b) => b.weight - a.weight)[0];
  if (message.waypoint !== undefined) return readGateway('waypoint', message.waypoint);
  if (heaviest === undefined) return undefined;
  if (heaviest.destination === undefined) {
    throw invalidField('weighted_waypoints', 'a destination is missing');
  }
  return readGateway('weighted_waypoints', heaviest.destination);
}

function readVip(message: NetworkAddressMessage): ServiceVip {
  const cidr = readCidr('addresses', message.address, message.length);
  return { network: readText('addresses', message.network), cidr };
}

function readBalancing(message: LoadBalancingMessage | undefined): Balancing {
  const preference = readList(
    'routing_preference',
    message?.routingPreference ?? [],
    PREFERENCE_MAX,
    (scope) => BALANCING_SCOPES[scope] ?? 'UNSPECIFIED',
  );
  const mode = message?.mode ?? LoadBalancing_Mode.UNSPECIFIED_MODE;
  return {
    preference,
    mode: BALANCING_MODES[mode] ?? 'UNSPECIFIED',
    includeUnhealthy: message?.healthPolicy === LoadBalancing_HealthPolicy.ALLOW_ALL,
  };
}
