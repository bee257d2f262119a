/**
 * Routes and ReferenceGrants, filed by the services they concern: those a route is attached to, and those it
 * leads to. A change touches only what it concerns; what follows for waypoints is `route-compiler.ts`'s.
 */

import type { BackendRef, ParentRef, ReferenceGrant, RouteObject } from './gateway-objects.ts';
import { addTo, removeFrom } from './multi-map.ts';
import { objectKey, type ObjectKey } from './objects.ts';
import { serviceName, type ServiceName } from './service-registry.ts';

export class RouteRegistry {
  readonly #routes = new Map<ObjectKey, RouteObject>();
  readonly #byParent = new Map<ServiceName, Set<ObjectKey>>();
  readonly #byBackend = new Map<ServiceName, Set<ObjectKey>>();
  /** Routes with a backend in another namespace, by that namespace. */
  readonly #crossing = new Map<string, Set<ObjectKey>>();
  readonly #grants = new Map<string, Map<string, ReferenceGrant>>();

  get(key: ObjectKey): RouteObject | undefined {
    return this.#routes.get(key);
  }

  all(): Iterable<RouteObject> {
    return this.#routes.values();
  }

  /** Returns what the route was. */
  put(route: RouteObject): RouteObject | undefined {
    const key = objectKey(route);
    const before = this.remove(key);
    this.#routes.set(key, route);
    for (const parent of parentServices(route)) addTo(this.#byParent, parent, key);
    for (const ref of backendRefs(route)) {
      addTo(this.#byBackend, serviceName(ref.namespace, ref.name), key);
      if (ref.namespace !== route.meta.namespace) addTo(this.#crossing, ref.namespace, key);
    }
    return before;
  }

  remove(key: ObjectKey): RouteObject | undefined {
    const before = this.#routes.get(key);
    if (before === undefined) return undefined;
    this.#routes.delete(key);
    for (const parent of parentServices(before)) removeFrom(this.#byParent, parent, key);
    for (const ref of backendRefs(before)) {
      removeFrom(this.#byBackend, serviceName(ref.namespace, ref.name), key);
      removeFrom(this.#crossing, ref.namespace, key);
    }
    return before;
  }

  putGrant(grant: ReferenceGrant): void {
    const { namespace, name } = grant.meta;
    const grants = this.#grants.get(namespace);
    if (grants === undefined) this.#grants.set(namespace, new Map([[name, grant]]));
    else grants.set(name, grant);
  }

  removeGrant(namespace: string, name: string): void {
    const grants = this.#grants.get(namespace);
    grants?.delete(name);
    if (grants?.size === 0) this.#grants.delete(namespace);
  }

  *attachedTo(service: ServiceName): Iterable<RouteObject> {
    for (const key of this.#byParent.get(service) ?? []) {
      const route = this.#routes.get(key);
      if (route !== undefined) yield route;
    }
  }

  /** Services whose routes lead to this one: what they say of it may have changed. */
  *parentsLeadingTo(service: ServiceName): Iterable<ServiceName> {
    for (const key of this.#byBackend.get(service) ?? []) yield* this.#parentsOf(key);
  }

  /** Services whose routes need a grant of this namespace. */
  *parentsCrossingInto(namespace: string): Iterable<ServiceName> {
    for (const key of this.#crossing.get(namespace) ?? []) yield* this.#parentsOf(key);
  }

  /** Whether a grant of the backend's namespace lets the route refer to it. */
  isGranted(route: RouteObject, ref: BackendRef): boolean {
    for (const { from, to } of this.#grants.get(ref.namespace)?.values() ?? []) {
      const mayRefer = from.some(
        ({ group, kind, namespace }) =>
          group === 'gateway.networking.k8s.io' &&
          kind === route.kind &&
          namespace === route.meta.namespace,
      );
      const mayBeReferred = to.some(
        ({ group, kind, name }) =>
          group === ref.group && kind === ref.kind && (name === '' || name === ref.name),
      );
      if (mayRefer && mayBeReferred) return true;
    }
    return false;
  }

  *#parentsOf(key: ObjectKey): Iterable<ServiceName> {
    const route = this.#routes.get(key);
    if (route !== undefined) yield* parentServices(route);
  }
}

export function isServiceParent({ group, kind }: ParentRef): boolean {
  return group === '' && kind === 'Service';
}

/** Each once. */
export function parentServices(route: RouteObject): Set<ServiceName> {
  const found = new Set<ServiceName>();
  for (const parent of route.parents) {
    if (isServiceParent(parent)) found.add(serviceName(parent.namespace, parent.name));
  }
  return found;
}

/** Of rules, and of mirrors wherever they are. */
function* backendRefs(route: RouteObject): Iterable<BackendRef> {
  for (const rule of route.rules) {
    for (const filter of rule.filters) if (filter.kind === 'mirror') yield filter.backendRef;
    for (const { ref, filters } of rule.backends) {
      yield ref;
      for (const filter of filters) if (filter.kind === 'mirror') yield filter.backendRef;
    }
  }
}
