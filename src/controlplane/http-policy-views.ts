/**
 * AuthorizationPolicies and RequestAuthentications with targets: which waypoint gets which of them, and with which
 * services. A policy follows its services when they change their waypoint; what has a target without a waypoint is
 * enforced nowhere, and its owner is told so.
 */

import type { HttpPolicy, RequestAuthentication } from '../core/http-policy.ts';
import type { ServiceKey } from '../core/workload.ts';
import { isDryRun } from './authorization.ts';
import { httpPolicyView } from './http-authorization.ts';
import { addTo, removeFrom } from './multi-map.ts';
import {
  objectKey,
  type AuthorizationPolicy,
  type ObjectCondition,
  type ObjectKey,
  type PolicyTargetRef,
  type RequestAuthenticationObject,
} from './objects.ts';
import type { Publication } from './publication.ts';
import { serviceName, type ServiceName } from './service-registry.ts';
import { setScoped, waypointName, type Scoped, type WaypointName } from './waypoint-scope.ts';

export type HttpPolicyObject = AuthorizationPolicy | RequestAuthenticationObject;

/** What is known of the targets. */
export interface TargetLookup {
  /** The waypoint that the service's requests pass, and its key; undefined: there is no such service. */
  service(
    name: ServiceName,
  ): { readonly key: ServiceKey; readonly waypoint: WaypointName | undefined } | undefined;
  hasGateway(name: WaypointName): boolean;
}

export class HttpPolicyViews {
  readonly #objects = new Map<ObjectKey, HttpPolicyObject>();
  readonly #byService = new Map<ServiceName, Set<ObjectKey>>();
  readonly #byGateway = new Map<WaypointName, Set<ObjectKey>>();
  /** Where each was published last. */
  readonly #placed = new Map<ObjectKey, ReadonlySet<WaypointName>>();

  put(object: HttpPolicyObject): void {
    const key = objectKey(object);
    this.remove(key);
    this.#objects.set(key, object);
    this.#file(object, addTo);
  }

  remove(key: ObjectKey): void {
    const before = this.#objects.get(key);
    if (before === undefined) return;
    this.#objects.delete(key);
    this.#file(before, removeFrom);
  }

  #file(
    object: HttpPolicyObject,
    act: <K>(map: Map<K, Set<ObjectKey>>, at: K, key: ObjectKey) => void,
  ): void {
    const { namespace } = object.meta;
    for (const { kind, name } of object.targets) {
      if (kind === 'Service') act(this.#byService, serviceName(namespace, name), objectKey(object));
      else act(this.#byGateway, waypointName(namespace, name), objectKey(object));
    }
  }

  /** What it is attached to, in its own namespace; nothing when there is no such policy. */
  targetsOf(key: ObjectKey): readonly PolicyTargetRef[] {
    return this.#objects.get(key)?.targets ?? [];
  }

  /** Those that a change of the service's waypoint concerns. */
  ofService(name: ServiceName): Iterable<ObjectKey> {
    return this.#byService.get(name) ?? [];
  }

  ofGateway(name: WaypointName): Iterable<ObjectKey> {
    return this.#byGateway.get(name) ?? [];
  }

  /** Whether requests to the service are decided by an enforced policy at its waypoint. */
  governs(service: ServiceName, waypoint: WaypointName | undefined, istioLabels: boolean): boolean {
    const keys = [
      ...this.ofService(service),
      ...(waypoint === undefined ? [] : this.ofGateway(waypoint)),
    ];
    return keys.some((key) => {
      const object = this.#objects.get(key);
      if (object?.kind !== 'AuthorizationPolicy' || object.action === 'AUDIT') return false;
      return !isDryRun(object, istioLabels);
    });
  }

  /** Publishes the object as it stands; returns what its owner should read. */
  view(
    key: ObjectKey,
    lookup: TargetLookup,
    istioLabels: boolean,
    out: Publication,
  ): ObjectCondition | undefined {
    const object = this.#objects.get(key);
    const byWaypoint = new Map<WaypointName, ServiceKey[]>();
    const problems: string[] = [];
    for (const target of object?.targets ?? []) {
      const problem = resolve(target, object?.meta.namespace ?? '', lookup, byWaypoint);
      if (problem !== undefined) problems.push(problem);
    }
    const [, name = ''] = key.split(/\/(.*)/s);
    for (const waypoint of this.#placed.get(key) ?? []) {
      if (!byWaypoint.has(waypoint)) place(out, key, waypoint, name, undefined, undefined);
    }
    if (object === undefined) {
      this.#placed.delete(key);
      return undefined;
    }
    this.#placed.set(key, new Set(byWaypoint.keys()));
    for (const [waypoint, services] of byWaypoint) {
      if (object.kind === 'AuthorizationPolicy') {
        place(out, key, waypoint, name, httpPolicyView(object, services, istioLabels), undefined);
      } else {
        place(out, key, waypoint, name, undefined, authenticationView(object, services));
      }
    }
    if (problems.length === 0) return undefined;
    const message = `Not enforced for ${problems.join('; ')}`;
    return { key, reason: 'TargetNotFound', message };
  }
}

/** Adds the target to its waypoint; a whole waypoint is the empty list. Returns why it cannot be. */
function resolve(
  { kind, name }: PolicyTargetRef,
  namespace: string,
  lookup: TargetLookup,
  byWaypoint: Map<WaypointName, ServiceKey[]>,
): string | undefined {
  if (kind === 'Gateway') {
    const waypoint = waypointName(namespace, name);
    if (!lookup.hasGateway(waypoint)) return `Gateway "${name}", which does not exist`;
    byWaypoint.set(waypoint, []);
    return undefined;
  }
  const found = lookup.service(serviceName(namespace, name));
  if (found === undefined) return `Service "${name}", which does not exist`;
  if (found.waypoint === undefined) return `Service "${name}", which has no waypoint`;
  const services = byWaypoint.get(found.waypoint);
  if (services === undefined) byWaypoint.set(found.waypoint, [found.key]);
  else if (services.length > 0) services.push(found.key);
  return undefined;
}

function authenticationView(
  { meta: { namespace, name }, rules, invalid }: RequestAuthenticationObject,
  services: readonly ServiceKey[],
): RequestAuthentication {
  return { key: `${namespace}/${name}`, namespace, name, services, rules, unknown: invalid };
}

function place(
  out: Publication,
  key: ObjectKey,
  waypoint: WaypointName,
  name: string,
  policy: HttpPolicy | undefined,
  authentication: RequestAuthentication | undefined,
): void {
  const set = <T>(scoped: Scoped<T>, value: T | undefined): void =>
    setScoped(scoped, waypoint, name, value);
  if (key.startsWith('AuthorizationPolicy/')) set(out.httpPolicies, policy);
  else set(out.requestAuthentications, authentication);
}
