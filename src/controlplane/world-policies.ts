/** Policies, one at a time: what nodes and waypoints get of them, and what their owners should read about them. */

import { authorizationView } from './authorization.ts';
import type { TargetLookup } from './http-policy-views.ts';
import type { ObjectKey } from './objects.ts';
import { CONVERTED_PREFIX, convertedPolicy } from './peer-authentication.ts';
import type { Publication } from './publication.ts';
import { serviceObjectKey } from './service-view.ts';
import { trafficCondition } from './traffic-views.ts';
import type { WorldParts } from './world-parts.ts';

export class WorldPolicies {
  readonly #parts: WorldParts;
  /** The policy that each AuthorizationPolicy was last published as. */
  readonly #authorizationKeys = new Map<ObjectKey, string>();

  constructor(parts: WorldParts) {
    this.#parts = parts;
  }

  viewAuthorization(key: ObjectKey, out: Publication): void {
    const object = this.#parts.state.policies.authorization(key);
    const view = object && authorizationView(object, this.#parts.istioLabels);
    const policy =
      view?.policy &&
      this.#parts.exemptions.exempted(view.policy, object?.meta.namespace ?? '', object?.selector);
    const before = this.#authorizationKeys.get(key);
    if (before !== undefined && before !== policy?.key) {
      if (object === undefined) this.#parts.published.set(before, undefined, out);
      else this.#parts.published.replace(before, out);
      this.#authorizationKeys.delete(key);
    }
    if (policy !== undefined) {
      this.#parts.published.set(policy.key, policy, out);
      this.#authorizationKeys.set(key, policy.key);
    }
    if (view?.condition === undefined) this.#parts.conditions.delete(key);
    else this.#parts.conditions.set(key, view.condition);
    if (object?.targetsWaypoint === true) this.#parts.marks.httpPolicies.add(key);
  }

  viewHttpPolicy(key: ObjectKey, out: Publication): void {
    const { httpPolicies, services, gateways } = this.#parts.state;
    const lookup: TargetLookup = {
      service: (name) => {
        const object = services.get(name);
        if (object === undefined) return undefined;
        const waypoint = this.#parts.waypoints.waypointOf(name);
        return { key: serviceObjectKey(object, this.#parts.state.config.clusterDomain), waypoint };
      },
      hasGateway: (name) => gateways.get(name) !== undefined,
    };
    const condition = httpPolicies.view(key, lookup, this.#parts.istioLabels, out);
    const isPlain = this.#parts.state.policies.authorization(key)?.targetsWaypoint === false;
    if (condition !== undefined) this.#parts.conditions.set(key, condition);
    else if (!isPlain) this.#parts.conditions.delete(key);
  }

  viewPeer(key: ObjectKey, out: Publication): void {
    const object = this.#parts.state.policies.peer(key);
    const [, namespace = '', name = ''] = key.split('/');
    const inherited = this.#parts.state.policies.inheritedMode(namespace);
    const policy = object && convertedPolicy(object, inherited);
    this.#parts.published.set(`${namespace}/${CONVERTED_PREFIX}${name}`, policy, out);
  }

  viewTrafficPolicy(key: ObjectKey): void {
    const policy = this.#parts.state.traffic.get(key);
    const condition =
      policy &&
      trafficCondition(key, policy, this.#parts.state.traffic, (target) =>
        this.#parts.state.targetProblem(target, policy.meta.namespace),
      );
    if (condition === undefined) this.#parts.conditions.delete(key);
    else this.#parts.conditions.set(key, condition);
  }
}
