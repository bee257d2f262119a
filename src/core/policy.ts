/**
 * L4 authorization as plain values: Istio's `authorization.proto` plus AUDIT (our own type on the wire).
 *
 * Rules are OR; clauses of a rule are AND; matches of a clause are OR; fields of a match are AND; values of
 * one field are OR; `not` values must not hit (reference: Istio ambient, ztunnel rbac).
 */

import type { Cidr } from './address.ts';

export type StringMatch =
  | { readonly kind: 'exact'; readonly value: string }
  | { readonly kind: 'prefix'; readonly value: string }
  | { readonly kind: 'suffix'; readonly value: string }
  | { readonly kind: 'presence' };

export interface ServiceAccountMatch {
  readonly namespace: string;
  readonly serviceAccount: string;
}

/** Empty lists are fields that are not set; a match with no field set is skipped. */
export interface PolicyMatch {
  readonly namespaces: readonly StringMatch[];
  readonly notNamespaces: readonly StringMatch[];
  /** Compared with the identity without its `spiffe://`. */
  readonly principals: readonly StringMatch[];
  readonly notPrincipals: readonly StringMatch[];
  readonly serviceAccounts: readonly ServiceAccountMatch[];
  readonly notServiceAccounts: readonly ServiceAccountMatch[];
  readonly sourceIps: readonly Cidr[];
  readonly notSourceIps: readonly Cidr[];
  readonly destinationIps: readonly Cidr[];
  readonly notDestinationIps: readonly Cidr[];
  readonly destinationPorts: readonly number[];
  readonly notDestinationPorts: readonly number[];
}

export interface PolicyClause {
  readonly matches: readonly PolicyMatch[];
}

export interface PolicyRule {
  readonly clauses: readonly PolicyClause[];
}

export type PolicyScope = 'GLOBAL' | 'NAMESPACE' | 'WORKLOAD_SELECTOR';
export type PolicyAction = 'ALLOW' | 'DENY' | 'AUDIT';

export interface Policy {
  /** `namespace/name`; the namespace is empty for GLOBAL ones. */
  readonly key: string;
  readonly name: string;
  readonly namespace: string;
  readonly scope: PolicyScope;
  readonly action: PolicyAction;
  readonly rules: readonly PolicyRule[];
  /** Only logged and counted. */
  readonly dryRun: boolean;
  /**
   * An extension or enum value we do not know: the policy's targets are denied and the report says so
   * (T104). Empty when everything was understood.
   */
  readonly unknown: string;
}

/**
 * Name of the policies that open a pod's governed ports to its waypoint alone; the rest of the name is their content.
 * They are for the pod's own node: a waypoint judges with the client's identity, which they would always refuse.
 * Kubernetes names have no underscore, so nobody's policy is called so.
 */
export const WAYPOINT_ONLY_PREFIX = 'nodemesh_waypoint_only_';

export function isWaypointOnly(key: string): boolean {
  return key.slice(key.indexOf('/') + 1).startsWith(WAYPOINT_ONLY_PREFIX);
}
