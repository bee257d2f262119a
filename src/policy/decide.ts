/**
 * The one L4 decision of the mesh: may this connection reach this workload. A pure function of the facts and
 * the policies that govern the destination; tunnel, plain text and the same-node path all ask here (T23, T24).
 *
 * Order: no snapshot yet → deny. A DENY matches → deny. A policy is missing (T103) or not understood (T104) →
 * deny. No ALLOW policies → allow. An ALLOW matches → allow. Else deny. AUDIT and dry-run policies are
 * reported with every decision and change none. STRICT is no case of its own: the control plane sends it as
 * a DENY for "no principal".
 */

import { MeshError, type ErrorCode, type ResponseFlag } from '../base/errors.ts';
import type { PolicyAction } from '../core/policy.ts';
import { subjectOf, type CompiledPolicy, type ConnectionFacts, type Subject } from './match.ts';
import type { PolicySet } from './policy-set.ts';

/** What one dry-run policy would have done. */
export interface DryRunResult {
  readonly policy: string;
  readonly action: PolicyAction;
  readonly matched: boolean;
  /** Whether enforcing it, alone among the dry-run policies, would have denied this connection. */
  readonly wouldDeny: boolean;
}

export interface Decision {
  readonly allowed: boolean;
  /** Key of the policy that decided, known or not; empty when none did. */
  readonly policy: string;
  /** For operators, e.g. `denied by AuthorizationPolicy shop/db-only (rule 0)`. */
  readonly reason: string;
  /** `-` when allowed. */
  readonly flag: ResponseFlag;
  /** Undefined when allowed. */
  readonly code: ErrorCode | undefined;
  /** Keys of the AUDIT policies that match. */
  readonly audited: readonly string[];
  readonly dryRun: readonly DryRunResult[];
}

/** Policies named in one reason text; the rest is counted. */
const REASON_POLICIES_MAX = 5;

export function decide(facts: ConnectionFacts, set: PolicySet): Decision {
  const subject = subjectOf(facts);
  if (subject === undefined) {
    return denied('', 'denied: the source identity is malformed', 'MESH_IDENTITY_INVALID', [], []);
  }
  const allowing = firstMatch(set.allow, subject);
  const audited = set.audit
    .filter((entry) => entry.matchingRule(subject) >= 0)
    .map((entry) => entry.policy.key);
  const dryRun = set.dryRun.map((entry) => tryOut(entry, subject, allowing !== undefined));
  const refuse = (policy: string, reason: string, code: ErrorCode): Decision =>
    denied(policy, reason, code, audited, dryRun);

  if (!set.synced) {
    const reason = 'denied: the first complete set of policies has not arrived yet';
    return refuse('', reason, 'MESH_CONFIG_UNAVAILABLE');
  }
  const denying = firstMatch(set.deny, subject);
  if (denying !== undefined) {
    const { entry, rule } = denying;
    const reason = `denied by ${describe(entry)} (rule ${rule})`;
    return refuse(entry.policy.key, reason, 'MESH_POLICY_DENIED');
  }
  const [missing] = set.missing;
  if (missing !== undefined) {
    const reason = `denied: the workload names AuthorizationPolicy ${missing}, which is not known here yet`;
    return refuse(missing, reason, 'MESH_POLICY_UNKNOWN');
  }
  const [unknown] = set.unknown;
  if (unknown !== undefined) {
    const reason = `denied: ${describe(unknown)} holds content that is not understood here: ${unknown.unknown}`;
    return refuse(unknown.policy.key, reason, 'MESH_POLICY_UNKNOWN');
  }
  if (set.allow.length === 0) return allowed('', 'no ALLOW policy applies', audited, dryRun);
  if (allowing !== undefined) {
    const { entry, rule } = allowing;
    const reason = `allowed by ${describe(entry)} (rule ${rule})`;
    return allowed(entry.policy.key, reason, audited, dryRun);
  }
  return refuse('', `no ALLOW policy matched; tried ${listed(set.allow)}`, 'MESH_POLICY_DENIED');
}

/** The error that ends a denied connection. */
export function decisionError(decision: Decision): MeshError {
  const message = decision.reason.charAt(0).toUpperCase() + decision.reason.slice(1);
  return new MeshError(decision.code ?? 'MESH_POLICY_DENIED', message, {
    flag: decision.flag,
    details: { policy: decision.policy },
  });
}

interface Match {
  readonly entry: CompiledPolicy;
  readonly rule: number;
}

function firstMatch(entries: readonly CompiledPolicy[], subject: Subject): Match | undefined {
  for (const entry of entries) {
    const rule = entry.matchingRule(subject);
    if (rule >= 0) return { entry, rule };
  }
  return undefined;
}

function tryOut(entry: CompiledPolicy, subject: Subject, otherAllows: boolean): DryRunResult {
  const { key, action } = entry.policy;
  if (entry.unknown !== '') return { policy: key, action, matched: false, wouldDeny: true };
  const matched = entry.matchingRule(subject) >= 0;
  const wouldDeny = action === 'DENY' ? matched : action === 'ALLOW' && !matched && !otherAllows;
  return { policy: key, action, matched, wouldDeny };
}

function describe(entry: CompiledPolicy): string {
  const { policy } = entry;
  return policy.scope === 'GLOBAL'
    ? `mesh-wide AuthorizationPolicy ${policy.name}`
    : `AuthorizationPolicy ${policy.key}`;
}

function listed(entries: readonly CompiledPolicy[]): string {
  const named = entries.slice(0, REASON_POLICIES_MAX).map((entry) => describe(entry));
  const more = entries.length - named.length;
  return named.join(', ') + (more > 0 ? ` and ${more} more` : '');
}

function allowed(
  policy: string,
  reason: string,
  audited: readonly string[],
  dryRun: readonly DryRunResult[],
): Decision {
  return { allowed: true, policy, reason, flag: '-', code: undefined, audited, dryRun };
}

function denied(
  policy: string,
  reason: string,
  code: ErrorCode,
  audited: readonly string[],
  dryRun: readonly DryRunResult[],
): Decision {
  const flag =
    code === 'MESH_POLICY_DENIED' || code === 'MESH_IDENTITY_INVALID' ? 'DENY' : 'CONFIG';
  return { allowed: false, policy, reason, flag, code, audited, dryRun };
}
