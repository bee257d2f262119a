/**
 * Where an outbound connection goes (hbone.md 1.8). Reads the indexes, changes nothing.
 *
 * - Fail closed: a declared waypoint that cannot be used, a service without a usable endpoint, and a remote
 *   network without a gateway are refusals, never a reason for plain text.
 * - Plain text only towards what is known to be outside the mesh, or unknown once the answer is in.
 * - An exact address, of a service or a workload, beats an address block: a wide egress block must not
 *   swallow a pod.
 */

import { isIPv4 } from 'node:net';

import { MeshError, type ErrorCode } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import { formatSocketAddress, type IpAddress, type SocketAddress } from '../core/address.ts';
import { PORTS } from '../core/pod.ts';
import {
  serviceKey,
  workloadIdentity,
  type GatewayAddress,
  type Service,
  type Workload,
} from '../core/workload.ts';
import { addressName, type Client, type Destination } from './contract.ts';
import { targetPort } from './endpoint-picker.ts';
import type { EndpointIndex } from './endpoint-index.ts';
import type { KnownNames } from './known-names.ts';
import type { ServiceIndex } from './service-index.ts';
import type { WorkloadIndex } from './workload-index.ts';

export interface ResolverParts {
  readonly random: Random;
  readonly workloads: WorkloadIndex;
  readonly services: ServiceIndex;
  readonly endpoints: EndpointIndex;
  readonly names: KnownNames;
}

/** What was addressed: one of the two is set. */
interface Addressed {
  readonly service: Service | undefined;
  readonly workload: Workload | undefined;
}

type Found = Addressed | { readonly pending: readonly string[] } | undefined;

/** One way to a waypoint or gateway. */
interface Hop {
  readonly workload: Workload;
  readonly hop: SocketAddress;
  readonly identities: readonly string[];
}

type HopResult = Hop | { readonly pending: readonly string[] } | { readonly problem: string };

export class Resolver {
  readonly #parts: ResolverParts;

  constructor(parts: ResolverParts) {
    this.#parts = parts;
  }

  /** `source`: the client's address, for services whose clients stay with one endpoint. */
  resolve(
    original: SocketAddress,
    client: Client,
    exclude: ReadonlySet<string>,
    source: IpAddress | undefined,
  ): Destination {
    const found = this.#atAddress(client.network, original.ip, client.namespace);
    if (found === undefined) return { kind: 'passthrough', address: original, service: undefined };
    if ('pending' in found) return { kind: 'pending', names: found.pending };
    const waypoint = (found.service ?? found.workload)?.waypoint;
    if (waypoint !== undefined && !this.#isBehind(waypoint, client)) {
      return this.#viaWaypoint(waypoint, found, original, client, exclude);
    }
    if (found.service !== undefined) {
      return this.#toService(found.service, original, client, exclude, source);
    }
    if (found.workload === undefined) throw new Error('Neither a service nor a workload was found');
    return toEndpoint(found.workload, undefined, original);
  }

  /** Undefined: it is known that there is none. */
  #atAddress(network: string, ip: IpAddress, clientNamespace: string): Found {
    const { services, workloads, names } = this.#parts;
    const exact = services.exactMatch(network, ip, clientNamespace);
    if (exact !== undefined) return { service: exact, workload: undefined };
    const record = workloads.atAddress(network, ip);
    if (record !== undefined) return { service: undefined, workload: record.workload };
    const name = addressName(network, ip);
    if (!names.isKnown(name)) return { pending: names.onDemand ? [name] : [] };
    const block = services.blockMatch(network, ip, clientNamespace);
    return block === undefined ? undefined : { service: block, workload: undefined };
  }

  #toService(
    service: Service,
    original: SocketAddress,
    client: Client,
    exclude: ReadonlySet<string>,
    source: IpAddress | undefined,
  ): Destination {
    if (service.balancing.mode === 'PASSTHROUGH') {
      return { kind: 'passthrough', address: original, service };
    }
    const picker = this.#parts.endpoints.picker(service, original.port, client, false);
    const sticky = service.clientAffinity ? source : undefined;
    const workload = picker?.pick(this.#parts.random, exclude, sticky)?.workload;
    if (workload === undefined) {
      const { names } = this.#parts;
      if (!names.onDemand && !names.synced) return { kind: 'pending', names: [] };
      const known = this.#parts.endpoints.members(service.key)?.size ?? 0;
      const declared = service.ports.some((port) => port.servicePort === original.port);
      const reason = declared
        ? `none of its ${known} endpoints is healthy, near enough and not tried yet`
        : 'it declares no such port';
      const message = `Cannot reach service "${service.key}" on port ${original.port}: ${reason}`;
      return refused('MESH_NO_HEALTHY_ENDPOINT', message, { service, workload: undefined });
    }
    if (workload.network !== client.network) {
      return this.#viaGateway(workload, service, original, client, exclude);
    }
    return toEndpoint(workload, service, original);
  }

  #viaWaypoint(
    gateway: GatewayAddress,
    addressed: Addressed,
    original: SocketAddress,
    client: Client,
    exclude: ReadonlySet<string>,
  ): Destination {
    const found = this.#hopTo(gateway, client, exclude);
    if ('pending' in found) return { kind: 'pending', names: found.pending };
    if ('problem' in found || found.workload.network !== client.network) {
      const reason = 'problem' in found ? found.problem : 'it is in another network';
      const message = `Cannot use the waypoint of "${nameOf(addressed)}": ${reason}`;
      return refused('MESH_WAYPOINT_UNAVAILABLE', message, addressed);
    }
    const { workload: waypoint, hop, identities } = found;
    return { kind: 'waypoint', waypoint, hop, address: original, identities, ...addressed };
  }

  /** Only services cross networks: an address means nothing in another one. */
  #viaGateway(
    workload: Workload,
    service: Service,
    original: SocketAddress,
    client: Client,
    exclude: ReadonlySet<string>,
  ): Destination {
    const found: HopResult =
      workload.networkGateway === undefined
        ? { problem: 'it has none' }
        : this.#hopTo(workload.networkGateway, client, exclude);
    if ('pending' in found) return { kind: 'pending', names: found.pending };
    if ('problem' in found) {
      const message = `Cannot use the gateway of network "${workload.network}" for "${service.key}": ${found.problem}`;
      return refused('MESH_NO_HEALTHY_ENDPOINT', message, { service, workload });
    }
    return {
      kind: 'gateway',
      gateway: found.workload,
      hop: found.hop,
      identities: found.identities,
      service,
      authority: `${service.hostname}:${original.port}`,
      serviceIdentities: service.subjectAltNames,
      workload,
    };
  }

  #hopTo(gateway: GatewayAddress, client: Client, exclude: ReadonlySet<string>): HopResult {
    const port = gateway.hbonePort === 0 ? PORTS.hbone : gateway.hbonePort;
    const found = this.#gateway(gateway);
    if (found === undefined) return { problem: `"${gatewayName(gateway)}" does not exist` };
    if ('pending' in found) return found;
    const { service } = found;
    let { workload } = found;
    let hopPort = port;
    if (service !== undefined) {
      const picker = this.#parts.endpoints.picker(service, port, client, true);
      workload = picker?.pick(this.#parts.random, exclude)?.workload;
      if (workload === undefined) {
        return { problem: `"${service.key}" has no healthy endpoint` };
      }
      hopPort = targetPort(workload, service, port) ?? port;
    }
    if (workload === undefined) throw new Error('Neither a service nor a workload was found');
    const wanted = gateway.target.kind === 'address' ? gateway.target.ip : undefined;
    const ip = chooseAddress(workload, service, wanted);
    if (ip === undefined) return { problem: `"${workload.uid}" has no address` };
    const own = workloadIdentity(workload);
    const identities = service === undefined ? [own] : [own, ...service.subjectAltNames];
    return { workload, hop: { ip, port: hopPort }, identities };
  }

  #gateway(gateway: GatewayAddress): Found {
    const { services, workloads, names } = this.#parts;
    const { target } = gateway;
    if (target.kind === 'address') {
      const service = services.exactMatch(target.network, target.ip, '');
      if (service !== undefined) return { service, workload: undefined };
      const record = workloads.atAddress(target.network, target.ip);
      if (record !== undefined) return { service: undefined, workload: record.workload };
    } else {
      const service = services.get(serviceKey(target.namespace, target.hostname));
      if (service !== undefined) return { service, workload: undefined };
      const record = workloads.withHostname(target.hostname);
      if (record !== undefined) return { service: undefined, workload: record.workload };
    }
    const name = gatewayName(gateway);
    return names.isKnown(name) ? undefined : { pending: names.onDemand ? [name] : [] };
  }

  /** The client is an instance of that waypoint itself: going through it again would never end. */
  #isBehind(gateway: GatewayAddress, client: Client): boolean {
    const found = this.#gateway(gateway);
    if (found === undefined || 'pending' in found) return false;
    if (found.workload !== undefined) return found.workload.uid === client.uid;
    const record = this.#parts.workloads.record(client.uid);
    if (record === undefined || found.service === undefined) return false;
    return this.#parts.endpoints.members(found.service.key)?.has(record) === true;
  }
}

function toEndpoint(
  workload: Workload,
  service: Service | undefined,
  original: SocketAddress,
): Destination {
  const ip = chooseAddress(workload, service, original.ip);
  const port = service === undefined ? original.port : targetPort(workload, service, original.port);
  if (ip === undefined || port === undefined) {
    const message = `Cannot reach "${workload.uid}" for ${formatSocketAddress(original)}: it has no address or port`;
    return refused('MESH_NO_HEALTHY_ENDPOINT', message, { service, workload });
  }
  const own = workloadIdentity(workload);
  return {
    kind: 'endpoint',
    workload,
    service,
    address: { ip, port },
    protocol: workload.tunnelProtocol === 'hbone' ? 'hbone' : 'plain',
    identities: service === undefined ? [own] : [own, ...service.subjectAltNames],
  };
}

/** The requested address itself; else one of the service's family, of the requested one's family, any. */
export function chooseAddress(
  workload: Workload,
  service: Service | undefined,
  requested: IpAddress | undefined,
): IpAddress | undefined {
  const { addresses } = workload;
  if (addresses.length < 2) return addresses[0];
  if (requested !== undefined && addresses.includes(requested)) return requested;
  const families = service?.ipFamilies ?? 'AUTOMATIC';
  const wantsIpv4 =
    families === 'IPV4_ONLY' ||
    (families !== 'IPV6_ONLY' && (requested === undefined || isIPv4(requested)));
  return addresses.find((ip) => isIPv4(ip) === wantsIpv4) ?? addresses[0];
}

function refused(code: ErrorCode, message: string, addressed: Addressed): Destination {
  const flag = code === 'MESH_WAYPOINT_UNAVAILABLE' ? 'WAYPOINT' : 'NO_ENDPOINT';
  return {
    kind: 'refused',
    error: new MeshError(code, message, { flag, retryable: true }),
    service: addressed.service,
    workload: addressed.workload,
  };
}

function nameOf(addressed: Addressed): string {
  return addressed.service?.key ?? addressed.workload?.uid ?? '';
}

/** Its resource name, to ask for it. */
function gatewayName(gateway: GatewayAddress): string {
  const { target } = gateway;
  return target.kind === 'address'
    ? addressName(target.network, target.ip)
    : serviceKey(target.namespace, target.hostname);
}
