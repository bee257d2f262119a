/**
 * What is served behind one authority: the service (or the pod) that was addressed, its port, what is spoken there, and
 * its routes. Looked up once per connection, so that a connection sees every later change through it.
 */

import { fail, ok, type Result } from '../base/result.ts';
import type { Steps } from '../base/steps.ts';
import { MeshError } from '../base/errors.ts';
import type { SocketAddress } from '../core/address.ts';
import type { RouteSet, WaypointPort, WaypointService } from '../core/route.ts';
import type {
  AppProtocol,
  GatewayAddress,
  Service,
  ServiceKey,
  Workload,
} from '../core/workload.ts';
import type { Client, NodeState } from '../state/contract.ts';
import type { Authority } from '../tunnel/authority.ts';
import { compileRoutes, compileRoutesInSteps, type CompiledRoutes } from './compiled-routes.ts';

/** What a connection was made to. */
export interface Addressed {
  readonly service: Service | undefined;
  /** Set when a pod was addressed. */
  readonly workload: Workload | undefined;
  readonly port: number;
}

export interface ServicePlans {
  /** What is served to `clientNamespace` at this authority; refused when it is not ours to serve. */
  find(authority: Authority, client: Client, clientNamespace: string): Result<Addressed>;
  /** The newest configuration of a service's port; undefined: nothing is configured for it. */
  port(key: ServiceKey, port: number): WaypointPort | undefined;
  /** The routes for a client: its own namespace's, or else the service's. Compiled now unless `prepare` has done it. */
  routes(port: WaypointPort, clientNamespace: string): CompiledRoutes;
  /** Compiles what is large, before `apply` makes it count: until then requests go by the routes of before. */
  prepare(service: WaypointService): Steps<void>;
  apply(services: readonly WaypointService[], removed: readonly string[]): void;
  readonly size: number;
  all(): Iterable<WaypointService>;
}

/** Rules that take about a millisecond to compile. Fewer are compiled for the first request that asks. */
const PREPARED_MIN = 100;

function refuse(where: string, reason: string, status: 400 | 503): Result<never> {
  const message = `Cannot serve "${where}": ${reason}`;
  return fail(new MeshError('MESH_DESTINATION_UNKNOWN', message, { details: { status } }));
}

/** The waypoint itself: its Gateway's name, which is its service account's. */
export interface OwnGateway {
  readonly namespace: string;
  readonly name: string;
}

/** Whether that is us: by the host name of our service, or by an address of it. */
function isOwn(gateway: GatewayAddress | undefined, own: OwnGateway, state: NodeState): boolean {
  if (gateway === undefined) return false;
  const { target } = gateway;
  if (target.kind === 'hostname') {
    return (
      target.namespace === own.namespace &&
      target.hostname.startsWith(`${own.name}.${own.namespace}.svc.`)
    );
  }
  const service = state.services.atAddress(target.network, target.ip, own.namespace);
  return service?.name === own.name && service.namespace === own.namespace;
}

export function createServicePlans(state: NodeState, own: OwnGateway): ServicePlans {
  const services = new Map<string, WaypointService>();
  const compiled = new WeakMap<RouteSet, CompiledRoutes>();
  const byHostname = new Map<string, ServiceKey>();
  const atAddress = (
    { ip, port }: SocketAddress,
    client: Client,
    clientNamespace: string,
  ): Result<Addressed> => {
    const service = state.services.atAddress(client.network, ip, clientNamespace);
    if (service !== undefined) {
      if (!services.has(service.key))
        return refuse(service.key, 'it is not bound to this waypoint', 400);
      return ok({ service, workload: undefined, port });
    }
    const workload = state.workloads.atAddress(client.network, ip);
    if (workload === undefined) return refuse(ip, 'it is unknown here', 503);
    if (!isOwn(workload.waypoint, own, state)) {
      return refuse(workload.uid, 'it is not bound to this waypoint', 400);
    }
    return ok({ service: undefined, workload, port });
  };
  return {
    get size() {
      return services.size;
    },
    find(authority, client, clientNamespace) {
      if (authority.kind === 'address') return atAddress(authority, client, clientNamespace);
      const key = byHostname.get(authority.hostname);
      const service = key === undefined ? undefined : state.services.get(key);
      if (service === undefined) {
        return refuse(authority.hostname, 'it is not bound to this waypoint', 400);
      }
      return ok({ service, workload: undefined, port: authority.port });
    },
    all: () => services.values(),
    port: (key, port) => services.get(key)?.ports.find((candidate) => candidate.port === port),
    routes(port, clientNamespace) {
      const set = port.consumers.get(clientNamespace) ?? port.producer;
      let routes = compiled.get(set);
      if (routes === undefined) {
        routes = compileRoutes(set);
        compiled.set(set, routes);
      }
      return routes;
    },
    *prepare(service) {
      for (const { producer, consumers } of service.ports) {
        for (const set of [producer, ...consumers.values()]) {
          if (set.http.length >= PREPARED_MIN && !compiled.has(set)) {
            compiled.set(set, yield* compileRoutesInSteps(set));
          }
        }
      }
    },
    apply(changed, removed) {
      for (const key of removed) {
        services.delete(key);
        byHostname.delete(hostnameOf(key));
      }
      for (const service of changed) {
        services.set(service.key, service);
        byHostname.set(hostnameOf(service.key), service.key);
      }
    },
  };
}

/** Names are unique in a cluster: a service's hostname holds its namespace. */
function hostnameOf(key: string): string {
  return key.slice(key.indexOf('/') + 1);
}

/** What is spoken on a port: what the waypoint's configuration says, or else the service itself. */
export function appProtocolOf(
  service: Service | undefined,
  configured: WaypointPort | undefined,
  port: number,
): AppProtocol {
  if (configured !== undefined && configured.appProtocol !== 'UNKNOWN')
    return configured.appProtocol;
  const declared = service?.ports.find(({ servicePort }) => servicePort === port);
  return declared?.appProtocol ?? 'UNKNOWN';
}
