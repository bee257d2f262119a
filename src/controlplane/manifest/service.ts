/** Reads Services, EndpointSlices, Nodes and what selects pods for packet filtering. */

import { MeshError } from '../../base/errors.ts';
import { fail, type Result } from '../../base/result.ts';
import { parseAddress, type IpAddress } from '../../core/address.ts';
import type { AppProtocol } from '../../core/workload.ts';
import { EVERYTHING } from '../labels.ts';
import {
  TRAFFIC_DISTRIBUTIONS,
  WAYPOINT_BOUND,
  type ContainerPort,
  type EndpointSlice,
  type NetworkPolicyObject,
  type NodeObject,
  type ObjectMeta,
  type ServiceObject,
  type ServiceObjectPort,
  type SliceEndpoint,
  type TrafficDistribution,
} from '../objects.ts';
import type { Fields } from './fields.ts';
import { isPodAddress, readSelector, readStatusList, selectorOfLabels } from './metadata.ts';

const PORTS_MAX = 1000;
const ADDRESSES_MAX = 128;
/** Kubernetes bounds a slice at 1,000; files may be more generous. */
const ENDPOINTS_MAX = 10_000;
const SERVICE_TYPES = ['ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName'] as const;

export function readService(root: Fields, meta: ObjectMeta): ServiceObject {
  const spec = root.object('spec');
  const type = spec?.oneOf('type', SERVICE_TYPES) ?? 'ClusterIP';
  const selector = spec?.stringMap('selector');
  return {
    kind: 'Service',
    meta,
    type,
    clusterIps: spec === undefined ? [] : readClusterIps(spec),
    ports: spec === undefined ? [] : readServicePorts(spec),
    selector:
      selector === undefined || selector.size === 0 ? undefined : selectorOfLabels(selector),
    internalTrafficPolicy:
      spec?.oneOf('internalTrafficPolicy', ['Cluster', 'Local'] as const) ?? 'Cluster',
    trafficDistribution: spec === undefined ? undefined : readDistribution(spec),
    clientAffinity: spec?.oneOf('sessionAffinity', ['None', 'ClientIP'] as const) === 'ClientIP',
    publishNotReadyAddresses: spec?.boolean('publishNotReadyAddresses') ?? false,
    ipFamilies: readFamilies(spec),
    waypointBound: readBound(root),
  };
}

function readBound(root: Fields): ServiceObject['waypointBound'] {
  const stated = readStatusList(root, 'conditions').find(({ type }) => type === WAYPOINT_BOUND);
  if (stated === undefined) return undefined;
  const word = (name: string): string => (typeof stated[name] === 'string' ? stated[name] : '');
  return { status: word('status'), reason: word('reason'), message: word('message') };
}

/** An unknown word (a newer Kubernetes) means no preference, as for kube-proxy. */
function readDistribution(spec: Fields): TrafficDistribution | undefined {
  const word = spec.string('trafficDistribution');
  return TRAFFIC_DISTRIBUTIONS.find((known) => known === word);
}

function readFamilies(spec: Fields | undefined): ('IPv4' | 'IPv6')[] {
  const found: ('IPv4' | 'IPv6')[] = [];
  for (const word of spec?.strings('ipFamilies', 2) ?? []) {
    if (word === 'IPv4' || word === 'IPv6') found.push(word);
    else spec?.problem('ipFamilies', 'must hold IPv4 or IPv6');
  }
  return found;
}

function readClusterIps(spec: Fields): IpAddress[] {
  const texts = new Set([spec.string('clusterIP'), ...spec.strings('clusterIPs', ADDRESSES_MAX)]);
  texts.delete('');
  texts.delete('None');
  const found: IpAddress[] = [];
  for (const text of texts) {
    const parsed = parseAddress(text);
    if (parsed.ok) found.push(parsed.value);
    else spec.problem('clusterIP', parsed.error.message);
  }
  return found;
}

function readServicePorts(spec: Fields): ServiceObjectPort[] {
  const ports: ServiceObjectPort[] = [];
  for (const entry of spec.objects('ports', PORTS_MAX)) {
    const port = entry.integer('port', 1, 65535);
    if (port === undefined) entry.problem('port', 'is missing or wrong');
    if (port === undefined || entry.string('protocol', 'TCP') !== 'TCP') continue;
    const name = entry.string('name');
    const target = entry.raw('targetPort') ?? port;
    if (!isTargetPort(target)) {
      entry.problem('targetPort', 'must be a port number or the name of a container port');
      continue;
    }
    ports.push({ name, port, targetPort: target, appProtocol: readProtocol(entry, name) });
  }
  return ports;
}

function isTargetPort(value: unknown): value is number | string {
  if (typeof value === 'string') return value !== '' && value.length <= 63;
  return typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 65535;
}

const PROTOCOL_WORDS: ReadonlyMap<string, AppProtocol> = new Map([
  ['http', 'HTTP11'],
  ['http2', 'HTTP2'],
  ['h2c', 'HTTP2'],
  ['kubernetes.io/h2c', 'HTTP2'],
  ['grpc', 'GRPC'],
  ['tcp', 'TCP'],
  ['https', 'TLS'],
  ['tls', 'TLS'],
]);

/** `appProtocol`, else the first word of the port's name (`http-admin`), as Istio does. */
function readProtocol(entry: Fields, name: string): AppProtocol {
  const word = entry.string('appProtocol') || (name.split('-')[0] ?? '');
  return PROTOCOL_WORDS.get(word.toLowerCase()) ?? 'UNKNOWN';
}

export function readEndpointSlice(root: Fields, meta: ObjectMeta): EndpointSlice {
  const service = meta.labels.get('kubernetes.io/service-name') ?? '';
  if (service === '') root.problem('metadata', 'needs the label "kubernetes.io/service-name"');
  const ports: ContainerPort[] = [];
  for (const entry of root.objects('ports', PORTS_MAX)) {
    const port = entry.integer('port', 1, 65535);
    if (port === undefined || entry.string('protocol', 'TCP') !== 'TCP') continue;
    ports.push({ name: entry.string('name'), port });
  }
  const endpoints: SliceEndpoint[] = [];
  // Endpoints that are names (addressType FQDN) are nothing the mesh can reach.
  const named = root.string('addressType') === 'FQDN';
  for (const entry of named ? [] : root.objects('endpoints', ENDPOINTS_MAX)) {
    endpoints.push({
      addresses: entry.parsed('addresses', ADDRESSES_MAX, parseEndpointAddress),
      ready: entry.object('conditions')?.boolean('ready', true) ?? true,
      node: entry.string('nodeName'),
    });
  }
  return { kind: 'EndpointSlice', meta, service, ports, endpoints };
}

/** As the API server: an endpoint must not lead to the client's own host or link (T22). */
function parseEndpointAddress(text: string): Result<IpAddress> {
  const parsed = parseAddress(text);
  if (!parsed.ok || isPodAddress(parsed.value)) return parsed;
  const message = `Address ${JSON.stringify(text)} cannot be an endpoint: it is loopback, link-local or multicast`;
  return fail(new MeshError('MESH_MANIFEST_INVALID', message));
}

export function readNode(root: Fields, meta: ObjectMeta): NodeObject {
  const addresses: IpAddress[] = [];
  for (const entry of root.object('status')?.objects('addresses', ADDRESSES_MAX) ?? []) {
    const parsed = parseAddress(entry.string('address'));
    // Host names are listed beside addresses; only addresses matter here.
    if (parsed.ok) addresses.push(parsed.value);
  }
  return { kind: 'Node', meta, addresses };
}

export function readNetworkPolicy(root: Fields, meta: ObjectMeta): NetworkPolicyObject {
  const selector = root.object('spec')?.object('podSelector');
  return {
    kind: 'NetworkPolicy',
    meta,
    selector: selector === undefined ? EVERYTHING : readSelector(selector, true),
  };
}
