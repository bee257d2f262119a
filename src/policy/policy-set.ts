/**
 * Which policies govern one destination, compiled and sorted into what a decision needs. A set is a value:
 * it holds for one version of the policies and one destination, and is shared by all its connections.
 */

import type { Policy, PolicyScope } from '../core/policy.ts';
import { compilePolicy, type CompiledPolicy } from './match.ts';

/** Where policies come from; `state/` has one. */
export interface PolicySource {
  /** Whether the first complete snapshot has arrived. */
  readonly synced: boolean;
  /** Changes whenever any policy or `synced` does. */
  readonly version: number;
  get(key: string): Policy | undefined;
  /** Policies of scope GLOBAL. */
  globals(): Iterable<Policy>;
  /** Policies of scope NAMESPACE in this namespace. */
  inNamespace(namespace: string): Iterable<Policy>;
}

/** What selects policies: a `Workload` is one. */
export interface PolicyTarget {
  readonly namespace: string;
  /** Keys of the policies listed on the workload. */
  readonly authorizationPolicies: readonly string[];
}

export interface PolicySet {
  readonly synced: boolean;
  readonly deny: readonly CompiledPolicy[];
  readonly allow: readonly CompiledPolicy[];
  readonly audit: readonly CompiledPolicy[];
  /** Of any action; never enforced. */
  readonly dryRun: readonly CompiledPolicy[];
  /** Keys that the workload names and nobody has sent (T103). */
  readonly missing: readonly string[];
  /** Policies with content that is not understood (T104). */
  readonly unknown: readonly CompiledPolicy[];
}

const SCOPE_ORDER: Readonly<Record<PolicyScope, number>> = {
  GLOBAL: 0,
  NAMESPACE: 1,
  WORKLOAD_SELECTOR: 2,
};

/** Mesh-wide, then namespace, then listed on the workload; each by key, so that arrival order is no input. */
function compareOrder(a: CompiledPolicy, b: CompiledPolicy): number {
  const byScope = SCOPE_ORDER[a.policy.scope] - SCOPE_ORDER[b.policy.scope];
  if (byScope !== 0) return byScope;
  if (a.policy.key === b.policy.key) return 0;
  return a.policy.key < b.policy.key ? -1 : 1;
}

export function selectPolicies(
  source: PolicySource,
  target: PolicyTarget,
  compile: (policy: Policy) => CompiledPolicy = compilePolicy,
): PolicySet {
  const chosen = new Map<string, Policy>();
  for (const policy of source.globals()) chosen.set(policy.key, policy);
  for (const policy of source.inNamespace(target.namespace)) chosen.set(policy.key, policy);
  const missing = new Set<string>();
  for (const key of target.authorizationPolicies) {
    const policy = source.get(key);
    if (policy === undefined) missing.add(key);
    else chosen.set(key, policy);
  }
  const all = [...chosen.values()].map((policy) => compile(policy));
  all.sort(compareOrder);
  const enforced = all.filter((entry) => !entry.policy.dryRun);
  const understood = enforced.filter((entry) => entry.unknown === '');
  return {
    synced: source.synced,
    deny: understood.filter((entry) => entry.policy.action === 'DENY'),
    allow: understood.filter((entry) => entry.policy.action === 'ALLOW'),
    audit: understood.filter((entry) => entry.policy.action === 'AUDIT'),
    dryRun: all.filter((entry) => entry.policy.dryRun),
    missing: [...missing].toSorted(),
    unknown: enforced.filter((entry) => entry.unknown !== ''),
  };
}
