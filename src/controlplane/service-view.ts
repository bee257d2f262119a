/** Service object → what the mesh publishes about it: host name, VIPs, ports and balancing. */

import { isIPv4 } from 'node:net';

import {
  serviceKey,
  type Balancing,
  type BalancingScope,
  type GatewayAddress,
  type Service,
  type ServiceKey,
} from '../core/workload.ts';
import {
  TRAFFIC_DISTRIBUTIONS,
  type MeshConfig,
  type Namespace,
  type ServiceObject,
  type TrafficDistribution,
} from './objects.ts';

type Settings = Pick<MeshConfig, 'clusterDomain' | 'network'>;

const DISTRIBUTION_ANNOTATION = 'networking.istio.io/traffic-distribution';

const PREFERENCES: Readonly<Record<TrafficDistribution, readonly BalancingScope[]>> = {
  PreferClose: ['NETWORK', 'REGION', 'ZONE'],
  PreferSameZone: ['NETWORK', 'REGION', 'ZONE'],
  PreferSameNode: ['NETWORK', 'REGION', 'ZONE', 'SUBZONE', 'NODE'],
};

export function serviceHostname(service: ServiceObject, clusterDomain: string): string {
  return `${service.meta.name}.${service.meta.namespace}.svc.${clusterDomain}`;
}

export function serviceObjectKey(service: ServiceObject, clusterDomain: string): ServiceKey {
  return serviceKey(service.meta.namespace, serviceHostname(service, clusterDomain));
}

/** Undefined for what the mesh does not carry: `ExternalName`. */
export function serviceView(
  service: ServiceObject,
  namespace: Namespace | undefined,
  waypoint: GatewayAddress | undefined,
  settings: Settings,
): Service | undefined {
  if (service.type === 'ExternalName') return undefined;
  return {
    key: serviceObjectKey(service, settings.clusterDomain),
    name: service.meta.name,
    namespace: service.meta.namespace,
    hostname: serviceHostname(service, settings.clusterDomain),
    vips: service.clusterIps.map((ip) => ({
      network: settings.network,
      cidr: { ip, prefixLength: isIPv4(ip) ? 32 : 128 },
    })),
    ports: service.ports.map(({ port, targetPort, appProtocol }) => ({
      servicePort: port,
      targetPort: typeof targetPort === 'number' ? targetPort : 0,
      appProtocol,
    })),
    subjectAltNames: [],
    waypoint,
    balancing: balancingOf(service, namespace),
    clientAffinity: service.clientAffinity,
    ipFamilies: familiesOf(service),
    canonical: true,
    visibility: 'PUBLIC',
  };
}

/** `internalTrafficPolicy` first; then the service's field, its annotation, its namespace's annotation. */
function balancingOf(service: ServiceObject, namespace: Namespace | undefined): Balancing {
  const includeUnhealthy = service.publishNotReadyAddresses;
  if (service.internalTrafficPolicy === 'Local') {
    return { preference: ['NODE'], mode: 'STRICT', includeUnhealthy };
  }
  const annotated =
    service.meta.annotations.get(DISTRIBUTION_ANNOTATION) ??
    namespace?.meta.annotations.get(DISTRIBUTION_ANNOTATION);
  const distribution =
    service.trafficDistribution ?? TRAFFIC_DISTRIBUTIONS.find((word) => word === annotated);
  if (distribution === undefined) return { preference: [], mode: 'UNSPECIFIED', includeUnhealthy };
  return { preference: PREFERENCES[distribution], mode: 'FAILOVER', includeUnhealthy };
}

/** As declared, else as the VIPs show. */
function familiesOf(service: ServiceObject): Service['ipFamilies'] {
  const declared = service.ipFamilies;
  const v4 = declared.includes('IPv4') || (declared.length === 0 && service.clusterIps.some(isV4));
  const v6 =
    declared.includes('IPv6') || (declared.length === 0 && !service.clusterIps.every(isV4));
  if (v4 && v6) return 'DUAL';
  if (v4) return 'IPV4_ONLY';
  return v6 ? 'IPV6_ONLY' : 'AUTOMATIC';
}

function isV4(ip: string): boolean {
  return isIPv4(ip);
}
