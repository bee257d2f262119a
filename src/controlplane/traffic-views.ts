/**
 * The traffic policies that bear on a service, for the waypoints that send requests to it: the one it is bound to, and
 * those whose routes lead to it. Compiled again when a policy, the service, its binding or such a route changes.
 */

import type {
  ServiceTraffic,
  TrafficLayer,
  TrafficScope,
  TrafficSettings,
} from '../core/traffic-policy.ts';
import { serviceKey, type ServiceKey } from '../core/workload.ts';
import type { BackendRef, RouteObject } from './gateway-objects.ts';
import { addTo, removeFrom } from './multi-map.ts';
import type {
  ObjectCondition,
  ObjectKey,
  ServiceObject,
  TrafficPolicyObject,
  TrafficTarget,
} from './objects.ts';
import { serviceName, type ServiceName } from './service-registry.ts';
import { serviceObjectKey } from './service-view.ts';
import { targetKey, type Attached, type TrafficRegistry } from './traffic-registry.ts';
import { setScoped, splitName, type Scoped, type WaypointName } from './waypoint-scope.ts';

/** What a service's layers are made of. */
export interface TrafficFacts {
  readonly service: ServiceObject;
  /** Undefined: none of ours. */
  readonly waypoint: WaypointName | undefined;
  readonly routes: Iterable<RouteObject>;
  readonly clusterDomain: string;
}

export class TrafficViews {
  readonly #registry: TrafficRegistry;
  /** By the service whose routes lead there. */
  readonly #leads = new Map<
    ServiceName,
    { readonly waypoint: WaypointName; readonly to: ReadonlySet<ServiceName> }
  >();
  readonly #ledFrom = new Map<ServiceName, Set<ServiceName>>();
  readonly #placed = new Map<ServiceKey, ReadonlySet<WaypointName>>();

  constructor(registry: TrafficRegistry) {
    this.#registry = registry;
  }

  /** Where the routes of a service lead now; names those for whom that changes something. */
  lead(
    from: ServiceName,
    waypoint: WaypointName | undefined,
    to: ReadonlySet<ServiceName>,
  ): ServiceName[] {
    const before = this.#leads.get(from);
    for (const name of before?.to ?? []) removeFrom(this.#ledFrom, name, from);
    if (waypoint === undefined || to.size === 0) this.#leads.delete(from);
    else {
      this.#leads.set(from, { waypoint, to });
      for (const name of to) addTo(this.#ledFrom, name, from);
    }
    const same = before?.waypoint === waypoint;
    return [...new Set([...(before?.to ?? []), ...to])].filter((name) => {
      return !same || before?.to.has(name) !== to.has(name);
    });
  }

  view(name: ServiceName, facts: TrafficFacts, out: Scoped<ServiceTraffic>): void {
    const layers = layersOf(facts, this.#registry);
    const key = serviceObjectKey(facts.service, facts.clusterDomain);
    const waypoints = new Set<WaypointName>();
    if (layers.length > 0) {
      if (facts.waypoint !== undefined) waypoints.add(facts.waypoint);
      for (const from of this.#ledFrom.get(name) ?? []) {
        const lead = this.#leads.get(from);
        if (lead !== undefined) waypoints.add(lead.waypoint);
      }
    }
    this.#place(key, waypoints, { key, layers }, out);
  }

  /** The service is no more, or is called otherwise. */
  forget(key: ServiceKey, out: Scoped<ServiceTraffic>): void {
    this.#place(key, new Set(), undefined, out);
  }

  #place(
    key: ServiceKey,
    waypoints: ReadonlySet<WaypointName>,
    traffic: ServiceTraffic | undefined,
    out: Scoped<ServiceTraffic>,
  ): void {
    for (const waypoint of this.#placed.get(key) ?? []) {
      if (!waypoints.has(waypoint)) setScoped(out, waypoint, key, undefined);
    }
    for (const waypoint of waypoints) setScoped(out, waypoint, key, traffic);
    if (waypoints.size === 0) this.#placed.delete(key);
    else this.#placed.set(key, waypoints);
  }
}

function layersOf(facts: TrafficFacts, registry: TrafficRegistry): TrafficLayer[] {
  const { service, waypoint, routes, clusterDomain } = facts;
  const { namespace, name } = service.meta;
  const layers: TrafficLayer[] = [];
  const add = (scope: TrafficScope, attached: Attached, owner: string): void => {
    const settings = withFailover(attached, owner, clusterDomain);
    layers.push({ scope, source: attached.source, settings });
  };
  for (const attached of registry.at(targetKey('Namespace', namespace, namespace))) {
    add({ kind: 'namespace' }, attached, namespace);
  }
  if (waypoint !== undefined) {
    const [owner, gateway] = splitName(waypoint);
    for (const attached of registry.at(targetKey('Gateway', owner, gateway))) {
      add({ kind: 'gateway' }, attached, owner);
    }
  }
  for (const attached of registry.at(targetKey('Service', namespace, name))) {
    const scopes = portScopes(service, attached.sectionName);
    for (const scope of scopes) add(scope, attached, namespace);
  }
  for (const route of routes) {
    if (route.kind !== 'HTTPRoute' && route.kind !== 'GRPCRoute') continue;
    const of = { routeKind: route.kind, namespace: route.meta.namespace, name: route.meta.name };
    for (const attached of registry.at(targetKey(route.kind, of.namespace, of.name))) {
      const { sectionName: rule } = attached;
      const scope: TrafficScope =
        rule === '' ? { kind: 'route', ...of } : { kind: 'rule', ...of, rule };
      add(scope, attached, of.namespace);
    }
  }
  return uniqueScopes(layers);
}

/** Services that the routes send requests to, as far as they may. */
export function leadsTo(
  routes: Iterable<RouteObject>,
  isGranted: (route: RouteObject, ref: BackendRef) => boolean,
): Set<ServiceName> {
  const found = new Set<ServiceName>();
  for (const route of routes) {
    for (const { backends } of route.rules) {
      for (const { ref } of backends) {
        const isService = ref.group === '' && ref.kind === 'Service';
        const allowed = ref.namespace === route.meta.namespace || isGranted(route, ref);
        if (isService && allowed) found.add(serviceName(ref.namespace, ref.name));
      }
    }
  }
  return found;
}

/** A port may be meant by name and by number; the first that says so counts, as of two equally old ones. */
function uniqueScopes(layers: readonly TrafficLayer[]): TrafficLayer[] {
  const seen = new Set<string>();
  return layers.filter(({ scope }) => {
    const text = JSON.stringify(scope);
    return !seen.has(text) && seen.add(text);
  });
}

function portScopes(service: ServiceObject, sectionName: string): TrafficScope[] {
  if (sectionName === '') return [{ kind: 'service' }];
  return service.ports
    .filter(({ name, port }) => name === sectionName || String(port) === sectionName)
    .map(({ port }) => ({ kind: 'port', port }));
}

function withFailover(
  { settings, failover }: Attached,
  namespace: string,
  clusterDomain: string,
): TrafficSettings {
  if (settings.balancing === undefined || failover.length === 0) return settings;
  const targets = failover.map(({ name, port }) => ({
    service: serviceKey(namespace, `${name}.${namespace}.svc.${clusterDomain}`),
    port,
  }));
  return { ...settings, balancing: { ...settings.balancing, failover: targets } };
}

/** What the owner of a policy should read about it; undefined: all is well. */
export function trafficCondition(
  key: ObjectKey,
  policy: TrafficPolicyObject,
  registry: TrafficRegistry,
  problemOf: (target: TrafficTarget) => string | undefined,
): ObjectCondition | undefined {
  if (policy.invalid !== '') {
    return { key, reason: 'Invalid', message: `${policy.invalid}; nothing of the policy counts` };
  }
  for (const target of policy.targets) {
    const problem = problemOf(target);
    if (problem === undefined) continue;
    const message = `${target.kind} "${target.name}" ${problem}; nothing of the policy counts there`;
    return { key, reason: 'TargetNotFound', message };
  }
  const conflicts = registry.conflicts(policy);
  const [first] = conflicts;
  if (first === undefined) return undefined;
  const sections = conflicts.map(({ section }) => section).join(', ');
  const message = `The older policy "${first.with}" has the same target; not in effect here: ${sections}`;
  return { key, reason: 'Conflicted', message };
}
