/** All of Gateway API that is ours, with its state, as whoever writes status needs it. */

import { isDeepStrictEqual } from 'node:util';

import { isNamespaceEnrolled } from './enrolment.ts';
import type { ParentRef, RouteObject } from './gateway-objects.ts';
import { gatewayName } from './gateway-registry.ts';
import {
  backendPolicyConditions,
  routeConditions,
  waypointBound,
  type BackendPolicyState,
  type GatewayApiView,
  type GatewayState,
  type RouteState,
  type ServiceState,
  type StatusCondition,
} from './gateway-status.ts';
import {
  BACKEND_POLICY_PREFIX,
  formatObjectKey,
  objectKey,
  type ObjectCondition,
  type StatedCondition,
} from './objects.ts';
import { isServiceParent, parentServices } from './route-registry.ts';
import { meansPort } from './route-compiler.ts';
import { serviceName, type ServiceName } from './service-registry.ts';
import { boundCondition } from './waypoint-condition.ts';
import { splitName, type WaypointName } from './waypoint-scope.ts';
import type { WaypointViews } from './waypoint-views.ts';
import type { WorldParts } from './world-parts.ts';
import type { WorldState } from './world-state.ts';

export function gatewayApiView(
  parts: WorldParts,
  isReady: (waypoint: WaypointName) => boolean,
): GatewayApiView {
  const { state, waypoints } = parts;
  const { gateways } = state;
  const ours = [...gateways.all()].filter((gateway) => gateways.isOurs(gateway));
  const routes: RouteState[] = [];
  const attached = new Map<WaypointName, number>();
  for (const route of state.routes.all()) {
    for (const waypoint of new Set(boundTo(route, waypoints))) {
      attached.set(waypoint, (attached.get(waypoint) ?? 0) + 1);
    }
    const parents = parentStates(route, parts);
    // One that is ours no longer loses what we said.
    if (parents.length > 0 || route.stated) routes.push({ route, parents });
  }
  return {
    classes: [...gateways.classes()].filter((object) => gateways.isOurClass(object)),
    meshes: [...gateways.meshes()].filter((object) => gateways.isOurClass(object)),
    services: [...serviceStates(parts)],
    backendPolicies: [...backendPolicies(parts)],
    gateways: ours.map((gateway): GatewayState => {
      const name = gatewayName(gateway);
      const bound = [...gateways.servicesOf(name)];
      return {
        gateway,
        ready: isReady(name),
        addresses: addressesOf(state, name as string as ServiceName),
        attachedRoutes: attached.get(name) ?? 0,
        boundServices: bound.filter((service) => waypoints.waypointOf(service) === name).length,
      };
    }),
    routes,
  };
}

function* boundTo(route: RouteObject, waypoints: WaypointViews): Iterable<WaypointName> {
  for (const service of parentServices(route)) {
    const waypoint = waypoints.waypointOf(service);
    if (waypoint !== undefined) yield waypoint;
  }
}

/** What a service of ours is; `unserved`: no waypoint of ours serves it, and why. */
interface Claim {
  readonly unserved: StatedCondition | undefined;
}

/** Undefined for services of other meshes and gateways: they name no waypoint of ours and are not enrolled. */
function claimOf(
  name: ServiceName,
  { state, waypoints, istioLabels, conditions }: WorldParts,
): Claim | undefined {
  if (waypoints.waypointOf(name) !== undefined) return { unserved: undefined };
  const binding = waypoints.bindingOf(name);
  const namespace = state.namespaces.get(splitName(name)[0]);
  const isEnrolled = namespace !== undefined && isNamespaceEnrolled(namespace, istioLabels);
  if (state.services.get(name) === undefined) {
    return isEnrolled || state.gateways.declares(namespace) ? { unserved: undefined } : undefined;
  }
  const isMissed = binding === undefined ? isEnrolled : binding.problem !== undefined;
  return isMissed ? { unserved: boundCondition(binding, saidOf(name, conditions)) } : undefined;
}

function parentStates(route: RouteObject, parts: WorldParts): RouteState['parents'] {
  const found: { ref: ParentRef; conditions: readonly StatusCondition[] }[] = [];
  for (const ref of route.parents) {
    if (!isServiceParent(ref)) continue;
    const name = serviceName(ref.namespace, ref.name);
    const claim = claimOf(name, parts);
    if (claim === undefined) continue;
    const service = parts.state.services.get(name);
    const outcome = parts.waypoints.outcomeOf(name, route);
    const governs = service?.ports.some((port) => meansPort(ref, port)) ?? false;
    const conditions = routeConditions(route, ref, outcome, governs, claim.unserved);
    found.push({ ref, conditions });
  }
  return found;
}

/** Only those whose status is not as it should be. */
function* serviceStates({ state, waypoints, conditions }: WorldParts): Iterable<ServiceState> {
  const { services } = state;
  for (const [service, binding] of waypoints.bindings()) {
    const bound = boundCondition(binding, saidOf(service, conditions));
    const stated = services.get(service)?.waypointBound;
    const [namespace, name] = splitName(service);
    if (isDeepStrictEqual(stated, bound)) continue;
    yield { namespace, name, bound: waypointBound(bound, 0) };
  }
  for (const service of services.stated()) {
    if (waypoints.bindingOf(service) !== undefined) continue;
    const [namespace, name] = splitName(service);
    yield { namespace, name, bound: undefined };
  }
}

/** What its owner reads about its waypoint elsewhere is what its status says. */
function saidOf(
  service: ServiceName,
  conditions: WorldParts['conditions'],
): ObjectCondition | undefined {
  return conditions.get(formatObjectKey('Service', ...splitName(service)));
}

function* backendPolicies(parts: WorldParts): Iterable<BackendPolicyState> {
  for (const policy of parts.state.traffic.all()) {
    const { meta, generation, targets } = policy;
    if (!meta.name.startsWith(BACKEND_POLICY_PREFIX)) continue;
    const said = parts.conditions.get(objectKey(policy));
    const { namespace } = meta;
    const ancestors = targets.flatMap(({ name: service }) => {
      const claim = claimOf(serviceName(namespace, service), parts);
      if (claim === undefined) return [];
      return [{ service, conditions: backendPolicyConditions(generation, said, claim.unserved) }];
    });
    const name = meta.name.slice(BACKEND_POLICY_PREFIX.length);
    if (ancestors.length > 0 || policy.stated) yield { namespace, name, ancestors };
  }
}

function addressesOf(state: WorldState, name: ServiceName): GatewayState['addresses'] {
  const service = state.services.get(name);
  return (service?.clusterIps ?? []).map((value) => ({ type: 'IPAddress', value }) as const);
}
