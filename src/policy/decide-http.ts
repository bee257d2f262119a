/**
 * The one L7 decision of the mesh: may this request reach this service. The order is that of `decide`: no snapshot yet
 * → deny; a DENY matches → deny; one is not understood (T104) → deny; no ALLOW policies → allow; an ALLOW matches →
 * allow; else deny. AUDIT and dry-run policies are reported and change nothing. A refusal names policy, rule and clause.
 */

import type { ErrorCode } from '../base/errors.ts';
import type { HttpPolicy } from '../core/http-policy.ts';
import type { ServiceKey } from '../core/workload.ts';
import type { Decision, DryRunResult } from './decide.ts';
import {
  compileHttpPolicy,
  httpSubjectOf,
  type CompiledHttpPolicy,
  type HttpFacts,
  type HttpSubject,
} from './http-match.ts';
import type { Subject } from './match.ts';

export interface HttpDecision extends Decision {
  /** Whether the caller may read `reason`. */
  readonly explain: boolean;
}

export interface HttpPolicySet {
  readonly synced: boolean;
  readonly deny: readonly CompiledHttpPolicy[];
  readonly allow: readonly CompiledHttpPolicy[];
  readonly audit: readonly CompiledHttpPolicy[];
  /** Of any action; never enforced. */
  readonly dryRun: readonly CompiledHttpPolicy[];
  readonly unknown: readonly CompiledHttpPolicy[];
}

/** Policies named in one reason text; the rest is counted. */
const REASON_POLICIES_MAX = 3;
const NO_KEYS: readonly string[] = [];
const NOT_TRIED: readonly DryRunResult[] = [];

/** Sorts the policies that govern one service (undefined: a pod that was addressed itself). */
export function selectHttpPolicies(
  policies: Iterable<HttpPolicy>,
  service: ServiceKey | undefined,
  synced: boolean,
): HttpPolicySet {
  const all = [...policies]
    .filter(({ services }) => {
      return services.length === 0 || (service !== undefined && services.includes(service));
    })
    .toSorted((a, b) => (a.key < b.key ? -1 : 1))
    .map(compileHttpPolicy);
  const enforced = all.filter(({ policy }) => !policy.dryRun);
  const understood = enforced.filter(({ unknown }) => unknown === '');
  return {
    synced,
    deny: understood.filter(({ policy }) => policy.action === 'DENY'),
    allow: understood.filter(({ policy }) => policy.action === 'ALLOW'),
    audit: understood.filter(({ policy }) => policy.action === 'AUDIT'),
    dryRun: all.filter(({ policy }) => policy.dryRun),
    unknown: enforced.filter(({ unknown }) => unknown !== ''),
  };
}

/** `known`: the connection's part of the facts, parsed before; by default it is parsed here. */
export function decideHttp(set: HttpPolicySet, facts: HttpFacts, known?: Subject): HttpDecision {
  const subject = httpSubjectOf(facts, known);
  if (subject === undefined) {
    const reason = 'denied: the source identity is malformed';
    return denied({ policy: '', reason, code: 'MESH_IDENTITY_INVALID', explain: false }, [], []);
  }
  const allowing = firstMatch(set.allow, subject);
  const audited =
    set.audit.length === 0
      ? NO_KEYS
      : set.audit
          .filter((entry) => entry.matchingRule(subject) >= 0)
          .map(({ policy }) => policy.key);
  const dryRun =
    set.dryRun.length === 0
      ? NOT_TRIED
      : set.dryRun.map((entry) => tryOut(entry, subject, allowing !== undefined));
  const refuse = (refusal: Refusal): HttpDecision => denied(refusal, audited, dryRun);

  if (!set.synced) {
    const reason = 'denied: the first complete set of policies has not arrived yet';
    return refuse({ policy: '', reason, code: 'MESH_CONFIG_UNAVAILABLE', explain: false });
  }
  const denying = firstMatch(set.deny, subject);
  if (denying !== undefined) {
    const { entry, rule } = denying;
    const reason = `denied by ${describe(entry)} (rule ${rule}: ${entry.describeRule(rule)})`;
    const { key, explain } = entry.policy;
    return refuse({ policy: key, reason, code: 'MESH_POLICY_DENIED', explain });
  }
  const [unknown] = set.unknown;
  if (unknown !== undefined) {
    const reason = `denied: ${describe(unknown)} holds content that is not understood here: ${unknown.unknown}`;
    const { key, explain } = unknown.policy;
    return refuse({ policy: key, reason, code: 'MESH_POLICY_UNKNOWN', explain });
  }
  const shared = { allowed: true, flag: '-', code: undefined, audited, dryRun } as const;
  if (set.allow.length === 0) {
    return { ...shared, policy: '', reason: 'no ALLOW policy applies', explain: false };
  }
  if (allowing !== undefined) {
    const { entry, rule } = allowing;
    const reason = `allowed by ${describe(entry)} (rule ${rule})`;
    return { ...shared, policy: entry.policy.key, reason, explain: false };
  }
  const reason = `no ALLOW policy matched; tried ${listMisses(set.allow, subject)}`;
  const explain = set.allow.every(({ policy }) => policy.explain);
  // One that stands alone is the one that refused.
  const policy = set.allow.length === 1 ? (set.allow[0]?.policy.key ?? '') : '';
  return refuse({ policy, reason, code: 'MESH_POLICY_DENIED', explain });
}

interface Refusal {
  readonly policy: string;
  readonly reason: string;
  readonly code: ErrorCode;
  readonly explain: boolean;
}

function denied(
  { policy, reason, code, explain }: Refusal,
  audited: readonly string[],
  dryRun: readonly DryRunResult[],
): HttpDecision {
  const byPolicy = code === 'MESH_POLICY_DENIED' || code === 'MESH_IDENTITY_INVALID';
  const flag = byPolicy ? 'DENY' : 'CONFIG';
  return { allowed: false, policy, reason, flag, code, audited, dryRun, explain };
}

function firstMatch(
  entries: readonly CompiledHttpPolicy[],
  subject: HttpSubject,
): { readonly entry: CompiledHttpPolicy; readonly rule: number } | undefined {
  for (const entry of entries) {
    const rule = entry.matchingRule(subject);
    if (rule >= 0) return { entry, rule };
  }
  return undefined;
}

function tryOut(
  entry: CompiledHttpPolicy,
  subject: HttpSubject,
  otherAllows: boolean,
): DryRunResult {
  const { key, action } = entry.policy;
  if (entry.unknown !== '') return { policy: key, action, matched: false, wouldDeny: true };
  const matched = entry.matchingRule(subject) >= 0;
  const wouldDeny = action === 'DENY' ? matched : action === 'ALLOW' && !matched && !otherAllows;
  return { policy: key, action, matched, wouldDeny };
}

function describe({ policy }: CompiledHttpPolicy): string {
  return `AuthorizationPolicy ${policy.key}`;
}

function listMisses(entries: readonly CompiledHttpPolicy[], subject: HttpSubject): string {
  const named = entries.slice(0, REASON_POLICIES_MAX).map((entry) => {
    const miss = entry.describeMiss(subject);
    return miss === '' ? describe(entry) : `${describe(entry)} (${miss})`;
  });
  const more = entries.length - named.length;
  return named.join(', ') + (more > 0 ? ` and ${more} more` : '');
}
