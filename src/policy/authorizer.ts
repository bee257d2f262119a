/**
 * Decisions at connection speed: remembers compiled policies, and the set that governs each destination,
 * until the source's version moves. Holds no truth of its own; with or without its memory the answers are
 * those of `decide`.
 */

import type { Policy } from '../core/policy.ts';
import { decide, type Decision } from './decide.ts';
import { compilePolicy, type CompiledPolicy, type ConnectionFacts } from './match.ts';
import {
  selectPolicies,
  type PolicySet,
  type PolicySource,
  type PolicyTarget,
} from './policy-set.ts';

export interface Authorizer {
  /** `target` is the destination's `Workload`; pass the same object for the memory to help. */
  decide(facts: ConnectionFacts, target: PolicyTarget): Decision;
  /** The policies that govern a destination now, for dumps. */
  policySet(target: PolicyTarget): PolicySet;
}

interface Remembered {
  readonly version: number;
  readonly set: PolicySet;
}

/**
 * Policies and targets must never be changed in place: a new version is a new object. `skips` names policies of a
 * target that are not for this judge. Default: none.
 */
export function createAuthorizer(
  source: PolicySource,
  skips: (key: string) => boolean = () => false,
): Authorizer {
  const compiled = new WeakMap<Policy, CompiledPolicy>();
  const sets = new WeakMap<PolicyTarget, Remembered>();
  const compile = (policy: Policy): CompiledPolicy => {
    let entry = compiled.get(policy);
    if (entry === undefined) {
      entry = compilePolicy(policy);
      compiled.set(policy, entry);
    }
    return entry;
  };
  const policySet = (target: PolicyTarget): PolicySet => {
    let remembered = sets.get(target);
    if (remembered === undefined || remembered.version !== source.version) {
      const authorizationPolicies = target.authorizationPolicies.filter((key) => !skips(key));
      const judged = { namespace: target.namespace, authorizationPolicies };
      remembered = { version: source.version, set: selectPolicies(source, judged, compile) };
      sets.set(target, remembered);
    }
    return remembered.set;
  };
  return { policySet, decide: (facts, target) => decide(facts, policySet(target)) };
}
