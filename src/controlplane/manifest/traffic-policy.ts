/**
 * Reads `TrafficPolicy` of our own group, strictly, and `XBackendTrafficPolicy` of Gateway API's experimental
 * channel into the same object. Every number has a range, every default is written out, so that what travels
 * to a waypoint is complete.
 */

import { isServiceAccountName } from '../../core/identity.ts';
import {
  DEFAULT_BUDGET,
  DEFAULT_RETRIES,
  DEFAULT_TIMEOUTS,
  NO_TRAFFIC_SETTINGS,
  RETRY_CONDITIONS,
  type RetryBudget,
  type RetrySettings,
  type TimeoutSettings,
  type TrafficSettings,
} from '../../core/traffic-policy.ts';
import {
  BACKEND_POLICY_PREFIX,
  type ObjectMeta,
  type TrafficPolicyObject,
  type TrafficTarget,
} from '../objects.ts';
import type { Fields } from './fields.ts';
import { isStated } from './gateway.ts';
import { readGeneration } from './metadata.ts';
import { readBalancing, readSessionPersistence } from './traffic-balancing.ts';
import {
  HOUR_MS,
  readFaults,
  readGrpcStatuses,
  readLimits,
  readOutliers,
  readRateLimits,
} from './traffic-protection.ts';

const TARGETS_MAX = 16;
const TARGET_GROUPS: ReadonlyMap<TrafficTarget['kind'], string> = new Map([
  ['Service', ''],
  ['Namespace', ''],
  ['HTTPRoute', 'gateway.networking.k8s.io'],
  ['GRPCRoute', 'gateway.networking.k8s.io'],
  ['Gateway', 'gateway.networking.k8s.io'],
]);

export function readTrafficPolicy(root: Fields, meta: ObjectMeta): TrafficPolicyObject {
  const spec = root.object('spec');
  if (spec === undefined) root.problem('spec', 'is missing');
  const targets = spec === undefined ? [] : readTargets(spec, meta);
  const retries = spec?.object('retries');
  const timeouts = spec?.object('timeouts');
  const balancing = spec?.object('balancing');
  const limits = spec?.object('limits');
  const outliers = spec?.object('outliers');
  const read = balancing === undefined ? undefined : readBalancing(balancing);
  const settings: TrafficSettings = {
    ...NO_TRAFFIC_SETTINGS,
    retries: retries === undefined ? undefined : readRetries(retries),
    timeouts: timeouts === undefined ? undefined : readTimeouts(timeouts),
    balancing: read?.settings,
    limits: limits === undefined ? undefined : readLimits(limits),
    outliers: outliers === undefined ? undefined : readOutliers(outliers),
    rateLimits: spec?.has('rateLimits') === true ? readRateLimits(spec) : undefined,
    faults: spec?.has('faults') === true ? readFaults(spec) : undefined,
  };
  if (spec !== undefined) checkTogether(spec, settings, targets);
  for (const fields of [retries, timeouts, balancing, limits, outliers, spec]) {
    fields?.refuseUnknown();
  }
  return {
    kind: 'TrafficPolicy',
    meta,
    generation: readGeneration(root),
    stated: false,
    invalid: '',
    targets,
    settings,
    failover: read?.failover ?? [],
  };
}

function checkTogether(
  spec: Fields,
  settings: TrafficSettings,
  targets: readonly TrafficTarget[],
): void {
  const requestMs = settings.timeouts?.requestMs ?? 0;
  const perTryMs = settings.retries?.perTryTimeoutMs ?? 0;
  // Gateway API: the timeout of one backend request must not exceed that of the whole request.
  if (requestMs > 0 && perTryMs > requestMs) {
    spec.problem('retries', 'perTryTimeout must not exceed timeouts.request');
  }
  const onRoute = targets.some(({ kind }) => kind === 'HTTPRoute' || kind === 'GRPCRoute');
  const ofService = (['balancing', 'limits', 'outliers'] as const).find(
    (section) => settings[section] !== undefined,
  );
  if (onRoute && ofService !== undefined) {
    spec.problem(ofService, 'belongs to a Service; a route cannot be its target');
  }
}

function readTargets(spec: Fields, meta: ObjectMeta): TrafficTarget[] {
  const targets: TrafficTarget[] = [];
  for (const ref of spec.objects('targetRefs', TARGETS_MAX)) {
    const kind = ref.oneOf('kind', [...TARGET_GROUPS.keys()]);
    const group = ref.string('group', (kind && TARGET_GROUPS.get(kind)) ?? '');
    const name = ref.string('name');
    const sectionName = ref.string('sectionName');
    if (kind === undefined) ref.problem('kind', 'is missing or unknown');
    else if (group !== TARGET_GROUPS.get(kind)) ref.problem('group', `is not that of ${kind}`);
    if (!isServiceAccountName(name)) ref.problem('name', 'must be the name of an object');
    if (kind === 'Namespace' && name !== meta.namespace) {
      ref.problem('name', 'must be the namespace of the policy itself');
    }
    if (sectionName !== '' && (kind === 'Namespace' || kind === 'Gateway')) {
      ref.problem('sectionName', 'is for a port of a Service or a rule of a route');
    }
    ref.refuseUnknown();
    if (kind !== undefined) targets.push({ kind, name, sectionName });
  }
  if (targets.length === 0) spec.problem('targetRefs', 'must name at least one target');
  return targets;
}

function readRetries(fields: Fields): RetrySettings {
  const conditions = fields.parsed('on', RETRY_CONDITIONS.length, (text) => {
    const known = RETRY_CONDITIONS.find((word) => word === text);
    return known === undefined
      ? { ok: false, error: new Error(`must be one of ${RETRY_CONDITIONS.join(', ')}`) }
      : { ok: true, value: known };
  });
  const statusCodes = readStatusCodes(fields, 'statusCodes', 400);
  const grpcStatuses = readGrpcStatuses(fields) ?? [];
  const saysWhen = conditions.length + statusCodes.length + grpcStatuses.length > 0;
  const backoff = fields.object('backoff');
  const backoffBaseMs = backoff?.durationMs('base', 1, 60_000) ?? DEFAULT_RETRIES.backoffBaseMs;
  // Envoy's relation: ten times the base where only the base is said.
  const backoffMaxMs = backoff?.durationMs('max', 1, 300_000) ?? backoffBaseMs * 10;
  if (backoffMaxMs < backoffBaseMs) backoff?.problem('max', 'must not be below base');
  const backoffMinMs = backoff?.durationMs('min', 0, 60_000) ?? DEFAULT_RETRIES.backoffMinMs;
  backoff?.refuseUnknown();
  const budget = fields.object('budget');
  return {
    attempts: fields.integer('attempts', 0, 10) ?? DEFAULT_RETRIES.attempts,
    conditions: saysWhen ? conditions : DEFAULT_RETRIES.conditions,
    statusCodes,
    grpcStatuses,
    perTryTimeoutMs: fields.durationMs('perTryTimeout', 0, HOUR_MS) ?? 0,
    backoffMinMs,
    backoffBaseMs,
    backoffMaxMs,
    retryAfterMaxMs:
      fields.durationMs('retryAfterMax', 0, 60_000) ?? DEFAULT_RETRIES.retryAfterMaxMs,
    replayBytesMax: fields.integer('replayBytes', 0, 65_536) ?? DEFAULT_RETRIES.replayBytesMax,
    budget: budget === undefined ? DEFAULT_BUDGET : readBudget(budget),
  };
}

function readBudget(fields: Fields): RetryBudget {
  const budget: RetryBudget = {
    percent: fields.integer('percent', 0, 100) ?? DEFAULT_BUDGET.percent,
    intervalMs: fields.durationMs('interval', 1_000, 60_000) ?? DEFAULT_BUDGET.intervalMs,
    minPerSecond: fields.integer('minPerSecond', 0, 10_000) ?? DEFAULT_BUDGET.minPerSecond,
  };
  fields.refuseUnknown();
  return budget;
}

function readStatusCodes(fields: Fields, key: string, min: number): number[] {
  return fields.list(key, 64).flatMap((value) => {
    if (Number.isInteger(value) && Number(value) >= min && Number(value) <= 599) {
      return [Number(value)];
    }
    fields.problem(key, `must hold HTTP statuses from ${min} to 599`);
    return [];
  });
}

function readTimeouts(fields: Fields): TimeoutSettings {
  return {
    requestMs: fields.durationMs('request', 0, 24 * HOUR_MS) ?? DEFAULT_TIMEOUTS.requestMs,
    idleMs: fields.durationMs('idle', 0, 24 * HOUR_MS) ?? DEFAULT_TIMEOUTS.idleMs,
    connectMs: fields.durationMs('connect', 0, 60_000) ?? DEFAULT_TIMEOUTS.connectMs,
  };
}

/** Not strict: the kind is Gateway API's and grows without us. */
export function readBackendTrafficPolicy(root: Fields, meta: ObjectMeta): TrafficPolicyObject {
  const spec = root.object('spec');
  const targets: TrafficTarget[] = [];
  for (const ref of spec?.objects('targetRefs', TARGETS_MAX) ?? []) {
    const name = ref.string('name');
    if (ref.string('group') === '' && ref.string('kind') === 'Service') {
      targets.push({ kind: 'Service', name, sectionName: ref.string('sectionName') });
    } else ref.problem('kind', 'only a Service can be a target');
  }
  const persistence = spec?.object('sessionPersistence');
  return {
    kind: 'TrafficPolicy',
    meta: { ...meta, name: BACKEND_POLICY_PREFIX + meta.name },
    generation: readGeneration(root),
    stated: isStated(root, 'ancestors'),
    invalid: '',
    targets,
    settings: {
      ...NO_TRAFFIC_SETTINGS,
      budget: readRetryConstraint(spec?.object('retryConstraint')),
      balancing:
        persistence === undefined ? undefined : readSessionPersistence(persistence, meta.name),
    },
    failover: [],
  };
}

function readRetryConstraint(fields: Fields | undefined): RetryBudget | undefined {
  if (fields === undefined) return undefined;
  const budget = fields.object('budget');
  const rate = fields.object('minRetryRate');
  const count = rate?.integer('count', 1, 1_000_000) ?? DEFAULT_BUDGET.minPerSecond;
  const perMs = rate?.durationMs('interval', 100, HOUR_MS) ?? 1_000;
  return {
    percent: budget?.integer('percent', 0, 100) ?? DEFAULT_BUDGET.percent,
    intervalMs: budget?.durationMs('interval', 1_000, HOUR_MS) ?? DEFAULT_BUDGET.intervalMs,
    minPerSecond: Math.ceil((count * 1_000) / perMs),
  };
}
