/**
 * A pod behind a waypoint sees the waypoint's identity, whoever the client is. So the waypoint evaluates the
 * pod's L4 policies with the client's identity, and the policies as node proxies get them let the waypoint in:
 * ALLOW gains a rule for it, each rule of DENY a clause that spares it, on the target ports of the services
 * bound to it. As an ordinary `Authorization`, so that any HBONE node proxy, also a foreign one, enforces the same.
 *
 * - A policy spares the waypoints of its reach: its namespace; for one of the root namespace, every namespace. With a
 *   selector, only those of services whose own selector may take a pod that the policy's takes.
 * - STRICT stays as it is: a waypoint has an identity.
 * - AUDIT stays as it is: it refuses nothing.
 */

import { isDeepStrictEqual } from 'node:util';

import type { Policy, PolicyClause, PolicyRule, StringMatch } from '../core/policy.ts';
import { EMPTY_MATCH } from './authorization.ts';
import { ROOT_NAMESPACE, type LabelSelector, type ServiceObject } from './objects.ts';
import type { ServiceName } from './service-registry.ts';
import { splitName, type WaypointName } from './waypoint-scope.ts';

interface Exemption {
  readonly waypoint: WaypointName;
  /** Undefined: any, since a named target port is each pod's own. */
  readonly ports: readonly number[] | undefined;
}

interface BoundService extends Exemption {
  /** Undefined: whose pods they are stands in EndpointSlices. */
  readonly selector: LabelSelector | undefined;
}

export class WaypointExemptions {
  readonly #trustDomain: string;
  /** By namespace of the service. */
  readonly #bound = new Map<string, Map<ServiceName, BoundService>>();

  constructor(trustDomain: string) {
    this.#trustDomain = trustDomain;
  }

  /** Whether policies of the service's namespace now read otherwise. */
  bind(name: ServiceName, waypoint: WaypointName | undefined, service: ServiceObject): boolean {
    const [namespace] = splitName(name);
    const before = this.#bound.get(namespace)?.get(name);
    if (waypoint === undefined) return this.forget(name);
    const bound = { waypoint, ports: targetPorts(service), selector: service.selector };
    if (isDeepStrictEqual(before, bound)) return false;
    const inNamespace = this.#bound.get(namespace) ?? new Map<ServiceName, BoundService>();
    this.#bound.set(namespace, inNamespace.set(name, bound));
    return true;
  }

  forget(name: ServiceName): boolean {
    const [namespace] = splitName(name);
    const inNamespace = this.#bound.get(namespace);
    const forgotten = inNamespace?.delete(name) ?? false;
    if (inNamespace?.size === 0) this.#bound.delete(namespace);
    return forgotten;
  }

  /** The policy with the waypoints of its reach let through; itself when there are none. `selector`: of its object. */
  exempted(policy: Policy, namespace: string, selector: LabelSelector | undefined): Policy {
    if (policy.action === 'AUDIT') return policy;
    const exemptions = this.#reach(namespace, selector);
    if (exemptions.length === 0) return policy;
    if (policy.action === 'ALLOW') {
      return { ...policy, rules: [...policy.rules, ...exemptions.map((one) => this.#allow(one))] };
    }
    const spared = exemptions.map((one) => this.#spare(one));
    const rules = policy.rules.map(({ clauses }) => ({ clauses: [...clauses, ...spared] }));
    return { ...policy, rules };
  }

  /** Each waypoint once, sorted, so that the same facts always make the same bytes. */
  #reach(namespace: string, selector: LabelSelector | undefined): Exemption[] {
    const everywhere = namespace === ROOT_NAMESPACE || namespace === '';
    const bound = everywhere ? [...this.#bound.values()] : [this.#bound.get(namespace)];
    const ports = new Map<WaypointName, Set<number> | undefined>();
    for (const services of bound) {
      for (const exemption of services?.values() ?? []) {
        if (areDisjoint(selector, exemption.selector)) continue;
        const known = ports.has(exemption.waypoint)
          ? ports.get(exemption.waypoint)
          : new Set<number>();
        const any = known === undefined || exemption.ports === undefined;
        ports.set(exemption.waypoint, any ? undefined : new Set([...known, ...exemption.ports]));
      }
    }
    return [...ports]
      .map(([waypoint, set]) => ({ waypoint, ports: set && [...set].toSorted((a, b) => a - b) }))
      .toSorted((a, b) => (a.waypoint < b.waypoint ? -1 : 1));
  }

  #principal(waypoint: WaypointName): StringMatch {
    const [namespace, account] = splitName(waypoint);
    return { kind: 'exact', value: `${this.#trustDomain}/ns/${namespace}/sa/${account}` };
  }

  #allow({ waypoint, ports }: Exemption): PolicyRule {
    const principals = [this.#principal(waypoint)];
    const match = { ...EMPTY_MATCH, principals, destinationPorts: ports ?? [] };
    return { clauses: [{ matches: [match] }] };
  }

  /** True for everybody but the waypoint, and for it too on ports that are none of its services'. */
  #spare({ waypoint, ports }: Exemption): PolicyClause {
    const others = { ...EMPTY_MATCH, notPrincipals: [this.#principal(waypoint)] };
    const elsewhere = { ...EMPTY_MATCH, notDestinationPorts: ports ?? [] };
    return { matches: ports === undefined ? [others] : [others, elsewhere] };
  }
}

function targetPorts(service: ServiceObject): readonly number[] | undefined {
  const ports = new Set<number>();
  for (const { targetPort } of service.ports) {
    if (typeof targetPort === 'string') return undefined;
    ports.add(targetPort);
  }
  return [...ports].toSorted((a, b) => a - b);
}

/** Both demand one label with different values: no pod has them. */
function areDisjoint(a: LabelSelector | undefined, b: LabelSelector | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  for (const [key, value] of a.matchLabels) {
    const other = b.matchLabels.get(key);
    if (other !== undefined && other !== value) return true;
  }
  return false;
}
