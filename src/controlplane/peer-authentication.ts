/**
 * PeerAuthentication → ordinary policies that deny peers without an identity, named as Istio names them, so
 * that a foreign node proxy enforces STRICT without knowing what it is.
 *
 * - The mode of a workload: its own object (by selector), else its namespace's, else the root namespace's,
 *   else MeshConfig's. Of several at one level the oldest counts, then the first by name.
 * - Wholly STRICT: the workload lists the one static policy. With ports of another mode: it lists the policy
 *   made from its object, which says everything about the workload, and not the static one.
 */

import type { Policy, PolicyMatch } from '../core/policy.ts';
import { EMPTY_MATCH } from './authorization.ts';
import { selectorMatches } from './labels.ts';
import { ROOT_NAMESPACE, type Labels, type MtlsMode, type PeerAuthentication } from './objects.ts';

export const STATIC_STRICT_NAME = 'istio_converted_static_strict';
/** Kubernetes names have no underscore, so no AuthorizationPolicy can have either name. */
export const CONVERTED_PREFIX = 'converted_peer_authentication_';
export const STATIC_STRICT_KEY: string = `${ROOT_NAMESPACE}/${STATIC_STRICT_NAME}`;

/** Oldest first, then by name: the order in which objects of one level count. */
export function comparePrecedence(
  a: Pick<PeerAuthentication, 'meta'>,
  b: Pick<PeerAuthentication, 'meta'>,
): number {
  if (a.meta.createdMs !== b.meta.createdMs) return a.meta.createdMs - b.meta.createdMs;
  return a.meta.name < b.meta.name ? -1 : a.meta.name > b.meta.name ? 1 : 0;
}

function denyWithoutIdentity(key: string, namespace: string, match: Partial<PolicyMatch>): Policy {
  const matches = [{ ...EMPTY_MATCH, notPrincipals: [{ kind: 'presence' as const }], ...match }];
  return {
    key,
    name: key.slice(namespace.length + 1),
    namespace,
    scope: 'WORKLOAD_SELECTOR',
    action: 'DENY',
    rules: [{ clauses: [{ matches }] }],
    dryRun: false,
    unknown: '',
  };
}

/** Always published, so that no workload ever names it before it is there. */
export function staticStrictPolicy(): Policy {
  return denyWithoutIdentity(STATIC_STRICT_KEY, ROOT_NAMESPACE, {});
}

export interface PeerAuthenticationSet {
  readonly meshMode: MtlsMode;
  /** Objects without selector of the root namespace and of the workload's own, each by precedence. */
  readonly root: readonly PeerAuthentication[];
  readonly namespace: readonly PeerAuthentication[];
}

/** The mode of a namespace's workloads that have no object of their own. */
export function namespaceMode(set: PeerAuthenticationSet): MtlsMode {
  return set.namespace[0]?.mode ?? set.root[0]?.mode ?? set.meshMode;
}

/** The object that speaks for one workload, if any; candidates are the namespace's with a selector. */
export function ownPeerAuthentication(
  candidates: readonly PeerAuthentication[],
  labels: Labels,
): PeerAuthentication | undefined {
  let best: PeerAuthentication | undefined;
  for (const object of candidates) {
    if (object.selector === undefined || !selectorMatches(object.selector, labels)) continue;
    if (best === undefined || comparePrecedence(object, best) < 0) best = object;
  }
  return best;
}

/** Ports whose mode differs from the rest of the workload, sorted. */
export function exceptionPorts(object: PeerAuthentication, base: MtlsMode): number[] {
  const ports: number[] = [];
  for (const [port, mode] of object.portModes) if (mode !== base) ports.push(port);
  return ports.toSorted((a, b) => a - b);
}

/**
 * The policy of an object whose ports differ from the mode of the rest, else undefined. One match says it
 * all: no identity, and (STRICT) none of the exempted ports, or (PERMISSIVE) one of the strict ports.
 */
export function convertedPolicy(
  object: PeerAuthentication,
  inherited: MtlsMode,
): Policy | undefined {
  const base = object.mode ?? inherited;
  const ports = exceptionPorts(object, base);
  if (ports.length === 0) return undefined;
  const match = base === 'STRICT' ? { notDestinationPorts: ports } : { destinationPorts: ports };
  return denyWithoutIdentity(convertedKey(object), object.meta.namespace, match);
}

export function convertedKey(object: PeerAuthentication): string {
  return `${object.meta.namespace}/${CONVERTED_PREFIX}${object.meta.name}`;
}

/** The key of the policy that a workload must list for its mode, if it is strict anywhere. */
export function strictPolicyKey(
  own: PeerAuthentication | undefined,
  inherited: MtlsMode,
): string | undefined {
  const base = own?.mode ?? inherited;
  if (own !== undefined && exceptionPorts(own, base).length > 0) return convertedKey(own);
  return base === 'STRICT' ? STATIC_STRICT_KEY : undefined;
}
