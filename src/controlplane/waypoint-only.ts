/**
 * Ports that an L7 policy governs are open to the service's waypoint alone: otherwise a client without a mesh, or
 * one that dials the pod's own address, would go around the policy (T49). As ordinary DENY policies that the pods
 * list, so that any HBONE node proxy enforces them; a policy is named by its content and is there while some pod
 * lists it.
 */

import { createHash } from 'node:crypto';

import {
  WAYPOINT_ONLY_PREFIX,
  type Policy,
  type PolicyRule,
  type StringMatch,
} from '../core/policy.ts';
import { EMPTY_MATCH } from './authorization.ts';
import type { PodName } from './pod-registry.ts';
import type { ServiceName } from './service-registry.ts';
import { splitName, type WaypointName } from './waypoint-scope.ts';

/** What a governed service asks of its pods; no waypoint: it cannot be used, so nobody may. */
export interface GovernedBy {
  readonly waypoint: WaypointName | undefined;
}

interface Governed extends GovernedBy {
  readonly ports: readonly number[];
}

const DIGEST_DIGITS = 16;

export class WaypointOnly {
  readonly #trustDomain: string;
  readonly #services = new Map<ServiceName, GovernedBy>();
  readonly #keyOf = new Map<PodName, string>();
  readonly #users = new Map<string, number>();

  constructor(trustDomain: string) {
    this.#trustDomain = trustDomain;
  }

  /** Undefined: not governed. Returns whether the service's pods must be looked at again. */
  govern(service: ServiceName, by: GovernedBy | undefined): boolean {
    const before = this.#services.get(service);
    if (by === undefined) return this.#services.delete(service);
    this.#services.set(service, by);
    return before === undefined || before.waypoint !== by.waypoint;
  }

  /**
   * The policy that the pod must list now; `publish` makes one known that is new, or takes back one that
   * nobody lists any more. `served`: the services that the pod is behind, with their ports on it.
   */
  keyFor(
    pod: PodName,
    served: Iterable<readonly [ServiceName, readonly number[]]>,
    publish: (key: string, policy: Policy | undefined) => void,
  ): string | undefined {
    const governed: Governed[] = [];
    for (const [service, ports] of served) {
      const by = this.#services.get(service);
      if (by !== undefined && ports.length > 0) governed.push({ ...by, ports });
    }
    const policy = governed.length === 0 ? undefined : this.#policy(pod, governed);
    const before = this.#keyOf.get(pod);
    if (before !== policy?.key) {
      if (policy !== undefined) this.#use(pod, policy, publish);
      if (before !== undefined) this.#release(before, publish);
      if (policy === undefined) this.#keyOf.delete(pod);
    }
    return policy?.key;
  }

  #use(
    pod: PodName,
    policy: Policy,
    publish: (key: string, policy: Policy | undefined) => void,
  ): void {
    const count = this.#users.get(policy.key) ?? 0;
    this.#users.set(policy.key, count + 1);
    this.#keyOf.set(pod, policy.key);
    if (count === 0) publish(policy.key, policy);
  }

  #release(key: string, publish: (key: string, policy: Policy | undefined) => void): void {
    const count = (this.#users.get(key) ?? 1) - 1;
    if (count > 0) {
      this.#users.set(key, count);
      return;
    }
    this.#users.delete(key);
    publish(key, undefined);
  }

  #policy(pod: PodName, governed: readonly Governed[]): Policy {
    const [namespace] = splitName(pod);
    const rules = governed
      .map((one) => this.#rule(one))
      .map((rule) => [JSON.stringify(rule), rule] as const)
      .toSorted(([a], [b]) => (a < b ? -1 : 1));
    const digest = createHash('sha256').update(rules.map(([text]) => text).join('\n'));
    const name = WAYPOINT_ONLY_PREFIX + digest.digest('hex').slice(0, DIGEST_DIGITS);
    return {
      key: `${namespace}/${name}`,
      name,
      namespace,
      scope: 'WORKLOAD_SELECTOR',
      action: 'DENY',
      rules: rules.map(([, rule]) => rule),
      dryRun: false,
      unknown: '',
    };
  }

  #rule({ waypoint, ports }: Governed): PolicyRule {
    const onPorts = { matches: [{ ...EMPTY_MATCH, destinationPorts: ports }] };
    if (waypoint === undefined) return { clauses: [onPorts] };
    const [namespace, account] = splitName(waypoint);
    const value = `${this.#trustDomain}/ns/${namespace}/sa/${account}`;
    const itself: StringMatch = { kind: 'exact', value };
    return { clauses: [onPorts, { matches: [{ ...EMPTY_MATCH, notPrincipals: [itself] }] }] };
  }
}
