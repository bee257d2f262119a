/** Services, one at a time: what clients go through, and what waypoints know of those bound to them. */

import type { GatewayAddress } from '../core/workload.ts';
import { waypointAddress } from './gateway-registry.ts';
import { formatObjectKey, objectKey, type Namespace, type ServiceObject } from './objects.ts';
import { isTerminal } from './pod-registry.ts';
import type { Publication } from './publication.ts';
import type { Lookup } from './route-compiler.ts';
import type { ServiceName } from './service-registry.ts';
import { serviceObjectKey, serviceView } from './service-view.ts';
import { leadsTo } from './traffic-views.ts';
import { waypointCondition } from './waypoint-condition.ts';
import { splitName, type WaypointName } from './waypoint-scope.ts';
import type { WorldParts } from './world-parts.ts';
import { prefersWaypoint } from './world-state.ts';

export class WorldServices {
  readonly #parts: WorldParts;

  constructor(parts: WorldParts) {
    this.#parts = parts;
  }

  viewService(name: ServiceName, out: Publication): void {
    const object = this.#parts.state.services.get(name);
    this.#parts.marks.bound.add(name);
    if (object === undefined) {
      this.#parts.state.gateways.forgetService(name);
      this.#parts.waypoints.bind(name, undefined);
      if (this.#parts.exemptions.forget(name)) this.#markPolicies(name);
      this.#parts.only.govern(name, undefined);
      this.#parts.conditions.delete(formatObjectKey('Service', ...splitName(name)));
      return;
    }
    const key = serviceObjectKey(object, this.#parts.state.config.clusterDomain);
    const namespace = this.#parts.state.namespaces.get(object.meta.namespace);
    const waypoint = this.#bindService(name, object, namespace);
    out.services.set(key, serviceView(object, namespace, waypoint, this.#parts.state.config));
  }

  /** What clients of the service go through, and what its owner should read about it. */
  #bindService(
    name: ServiceName,
    object: ServiceObject,
    namespace: Namespace | undefined,
  ): GatewayAddress | undefined {
    const binding = this.#parts.state.gateways.bindService(name, object.meta, namespace);
    this.#parts.waypoints.bind(name, binding);
    const usable = binding?.problem === undefined ? binding?.waypoint : undefined;
    const { httpPolicies } = this.#parts.state;
    const governed =
      binding !== undefined &&
      httpPolicies.governs(name, binding.waypoint, this.#parts.istioLabels);
    if (this.#parts.only.govern(name, governed ? { waypoint: usable } : undefined)) {
      this.#parts.state.markBehind(name);
    }
    if (this.#parts.exemptions.bind(name, usable, object)) this.#markPolicies(name);
    const ready = binding?.problem === undefined && this.isReady(binding?.waypoint);
    // What a policy governs is never led around it, whatever its owner prefers.
    const bypassed = binding !== undefined && !ready && !governed && prefersWaypoint(object);
    const key = objectKey(object);
    const condition = binding && waypointCondition(key, binding, bypassed);
    if (condition === undefined) this.#parts.conditions.delete(key);
    else this.#parts.conditions.set(key, condition);
    if (binding === undefined || bypassed) return undefined;
    return waypointAddress(binding, this.#parts.state.config.clusterDomain);
  }

  /** Policies that reach the service let its waypoint through. */
  #markPolicies(service: ServiceName): void {
    const [namespace] = splitName(service);
    for (const key of this.#parts.state.policies.authorizationsReaching(namespace)) {
      this.#parts.marks.authorizations.add(key);
    }
  }

  /** Whether one of its processes is. */
  isReady(waypoint: WaypointName | undefined): boolean {
    if (waypoint === undefined) return false;
    const [namespace, account] = splitName(waypoint);
    for (const { pod } of this.#parts.state.pods.withAccountAnywhere(namespace, account)) {
      const ready = pod.ready && pod.deletionMs === undefined && !isTerminal(pod);
      if (ready && this.#parts.state.gateways.isWaypointPod(pod)) return true;
    }
    return false;
  }

  viewBound(name: ServiceName, out: Publication): void {
    const { services, routes } = this.#parts.state;
    const lookup: Lookup = {
      clusterDomain: this.#parts.state.config.clusterDomain,
      service: (other) => services.get(other),
      isGranted: (route, ref) => routes.isGranted(route, ref),
    };
    this.#parts.waypoints.view(name, services.get(name), lookup, out);
    const waypoint = this.#parts.waypoints.waypointOf(name);
    const to = leadsTo(routes.attachedTo(name), (route, ref) => routes.isGranted(route, ref));
    for (const led of this.#parts.traffic.lead(name, waypoint, to))
      this.#parts.marks.traffic.add(led);
    this.#parts.marks.traffic.add(name);
    for (const key of this.#parts.state.httpPolicies.ofService(name))
      this.#parts.marks.httpPolicies.add(key);
  }

  viewTraffic(name: ServiceName, out: Publication): void {
    const { services, routes } = this.#parts.state;
    const service = services.get(name);
    if (service === undefined || service.type === 'ExternalName') return;
    const waypoint = this.#parts.waypoints.waypointOf(name);
    const { clusterDomain } = this.#parts.state.config;
    const facts = { service, waypoint, routes: routes.attachedTo(name), clusterDomain };
    this.#parts.traffic.view(name, facts, out.traffic);
  }
}
