/**
 * What waypoints are told of the services bound to them, and what is to be said of the routes. Other kinds that
 * go to single waypoints are placed here too, each with its own `Placements`.
 */

import type { WaypointService } from '../core/route.ts';
import type { ServiceKey } from '../core/workload.ts';
import type { RouteObject } from './gateway-objects.ts';
import type { WaypointBinding } from './gateway-registry.ts';
import type { ServiceObject } from './objects.ts';
import { Placements } from './placements.ts';
import type { Publication } from './publication.ts';
import { compileService, type Lookup, type RouteOutcome } from './route-compiler.ts';
import type { RouteRegistry } from './route-registry.ts';
import type { ServiceName } from './service-registry.ts';
import { serviceObjectKey } from './service-view.ts';
import type { WaypointName } from './waypoint-scope.ts';

export class WaypointViews {
  readonly #routes: RouteRegistry;
  readonly #services = new Placements<WaypointService>();
  readonly #bindings = new Map<ServiceName, WaypointBinding>();
  readonly #outcomes = new Map<ServiceName, ReadonlyMap<RouteObject, RouteOutcome>>();

  constructor(routes: RouteRegistry) {
    this.#routes = routes;
  }

  /** What a service declares; undefined: no waypoint. */
  bind(service: ServiceName, binding: WaypointBinding | undefined): void {
    if (binding === undefined) this.#bindings.delete(service);
    else this.#bindings.set(service, binding);
  }

  bindings(): Iterable<readonly [ServiceName, WaypointBinding]> {
    return this.#bindings;
  }

  bindingOf(service: ServiceName): WaypointBinding | undefined {
    return this.#bindings.get(service);
  }

  /** The waypoint of ours that a service's requests pass, if they can. */
  waypointOf(service: ServiceName): WaypointName | undefined {
    const binding = this.#bindings.get(service);
    return binding?.ours === true && binding.problem === undefined ? binding.waypoint : undefined;
  }

  /**
   * Routes of a service; compiled again when it, a route, a backend or a grant changes. Those of one that is not
   * bound, only for what is to be said of them.
   */
  view(
    name: ServiceName,
    object: ServiceObject | undefined,
    lookup: Lookup,
    out: Publication,
  ): void {
    const waypoint = this.waypointOf(name);
    const routes = [...this.#routes.attachedTo(name)];
    const isIdle = waypoint === undefined && routes.length === 0;
    if (object === undefined || object.type === 'ExternalName' || isIdle) {
      this.#outcomes.delete(name);
      if (object !== undefined) this.forget(serviceObjectKey(object, lookup.clusterDomain), out);
      return;
    }
    const { service, outcomes } = compileService(object, routes, lookup);
    if (outcomes.length === 0) this.#outcomes.delete(name);
    else this.#outcomes.set(name, new Map(outcomes.map((outcome) => [outcome.route, outcome])));
    this.#services.place(service.key, waypoint, service, out.waypointServices);
  }

  /** The service is no more, or is called otherwise. */
  forget(key: ServiceKey, out: Publication): void {
    this.#services.place(key, undefined, undefined, out.waypointServices);
  }

  /** What a route is to a service that it is attached to. */
  outcomeOf(service: ServiceName, route: RouteObject): RouteOutcome | undefined {
    return this.#outcomes.get(service)?.get(route);
  }
}
