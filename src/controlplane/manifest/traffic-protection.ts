/** Reads the sections of a `TrafficPolicy` that protect or test a service: limits, outliers, rate limits, faults. */

import {
  DEFAULT_LIMITS,
  DEFAULT_OUTLIERS,
  STORE_FAILURES,
  type Fault,
  type LimitSettings,
  type OutlierSettings,
  type RateLimit,
  type RateLimitKey,
} from '../../core/traffic-policy.ts';
import type { Fields } from './fields.ts';

export const HOUR_MS = 3_600_000;
const COUNT_MAX = 1_000_000;
const RATE_LIMITS_MAX = 16;
const FAULTS_MAX = 16;
const FAULT_HEADERS_MAX = 8;
const HEADER_NAME = /^[a-z0-9!#$%&'*+.^_`|~-]{1,128}$/;
const LIMIT_NAME = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Names of gRPC statuses in the order of their numbers, from 0. */
const GRPC_NAMES = [
  'ok',
  'cancelled',
  'unknown',
  'invalid-argument',
  'deadline-exceeded',
  'not-found',
  'already-exists',
  'permission-denied',
  'resource-exhausted',
  'failed-precondition',
  'aborted',
  'out-of-range',
  'unimplemented',
  'internal',
  'unavailable',
  'data-loss',
  'unauthenticated',
];

/** `grpcStatuses`: names as `unavailable`. Undefined: not there. */
export function readGrpcStatuses(fields: Fields): number[] | undefined {
  if (!fields.has('grpcStatuses')) return undefined;
  return fields.parsed('grpcStatuses', GRPC_NAMES.length, (text) => {
    const status = GRPC_NAMES.indexOf(text);
    return status > 0
      ? { ok: true, value: status }
      : { ok: false, error: new Error(`must be one of ${GRPC_NAMES.slice(1).join(', ')}`) };
  });
}

export function readLimits(fields: Fields): LimitSettings {
  const limits: LimitSettings = {
    connectionsMax: fields.integer('connections', 0, COUNT_MAX) ?? DEFAULT_LIMITS.connectionsMax,
    requestsMax: fields.integer('requests', 0, COUNT_MAX) ?? DEFAULT_LIMITS.requestsMax,
    queueMax: fields.integer('queue', 0, 100_000) ?? DEFAULT_LIMITS.queueMax,
    queueTimeoutMs: fields.durationMs('queueTimeout', 1, 60_000) ?? DEFAULT_LIMITS.queueTimeoutMs,
  };
  if (limits.queueMax > 0 && limits.requestsMax === 0) {
    fields.problem('queue', 'needs requests: without a limit nothing waits');
  }
  return limits;
}

export function readOutliers(fields: Fields): OutlierSettings {
  const success = fields.object('successRate');
  const ejection = fields.object('ejection');
  const percent = success?.integer('percent', 1, 100);
  if (success !== undefined && percent === undefined) success.problem('percent', 'is missing');
  const defaults = DEFAULT_OUTLIERS;
  const ejectionBaseMs = ejection?.durationMs('base', 100, HOUR_MS) ?? defaults.ejectionBaseMs;
  const ejectionMaxMs = ejection?.durationMs('max', 100, HOUR_MS) ?? defaults.ejectionMaxMs;
  if (ejectionMaxMs < ejectionBaseMs) ejection?.problem('max', 'must not be below base');
  const settings: OutlierSettings = {
    consecutiveFailures:
      fields.integer('consecutiveFailures', 0, 1_000) ?? defaults.consecutiveFailures,
    successPercent: percent ?? defaults.successPercent,
    successRequestsMin: success?.integer('requests', 1, COUNT_MAX) ?? defaults.successRequestsMin,
    intervalMs: success?.durationMs('interval', 1_000, HOUR_MS) ?? defaults.intervalMs,
    ejectionBaseMs,
    ejectionMaxMs,
    ejectedPercentMax: fields.integer('ejectedPercent', 1, 100) ?? defaults.ejectedPercentMax,
    grpcStatuses: readGrpcStatuses(fields) ?? defaults.grpcStatuses,
  };
  success?.refuseUnknown();
  ejection?.refuseUnknown();
  return settings;
}

export function readRateLimits(spec: Fields): RateLimit[] {
  const names = new Set<string>();
  return spec.objects('rateLimits', RATE_LIMITS_MAX).map((fields, index) => {
    const name = fields.string('name', `limit-${index}`);
    if (!LIMIT_NAME.test(name))
      fields.problem('name', 'must be of lower-case letters, digits and "-"');
    if (names.has(name)) fields.problem('name', 'is used twice');
    names.add(name);
    const requests = fields.integer('requests', 1, COUNT_MAX);
    if (requests === undefined) fields.problem('requests', 'is missing');
    const shared = fields.boolean('shared');
    const onFailure = fields.oneOf('onFailure', STORE_FAILURES);
    if (onFailure !== undefined && !shared) fields.problem('onFailure', 'needs shared: true');
    const limit: RateLimit = {
      name,
      key: readRateLimitKey(fields),
      requests: requests ?? 1,
      intervalMs: fields.durationMs('interval', 1_000, 24 * HOUR_MS) ?? 1_000,
      burst: fields.integer('burst', 1, COUNT_MAX) ?? requests ?? 1,
      shared,
      onFailure: onFailure ?? 'local',
    };
    fields.refuseUnknown();
    return limit;
  });
}

/** `per`: `all` (default), `identity`, or `header` with the name in `header`. */
function readRateLimitKey(fields: Fields): RateLimitKey {
  const per = fields.oneOf('per', ['all', 'identity', 'header'] as const) ?? 'all';
  const name = fields.string('header').toLowerCase();
  if (per !== 'header') {
    if (name !== '') fields.problem('header', 'needs per: header');
    return { kind: per };
  }
  if (!HEADER_NAME.test(name)) fields.problem('header', 'must be the name of a header');
  return { kind: 'header', name };
}

export function readFaults(spec: Fields): Fault[] {
  return spec.objects('faults', FAULTS_MAX).map((fields) => {
    const headers = fields.objects('headers', FAULT_HEADERS_MAX).map((header) => {
      const name = header.string('name').toLowerCase();
      if (!HEADER_NAME.test(name)) header.problem('name', 'must be the name of a header');
      const value = header.string('value');
      header.refuseUnknown();
      return { name, value };
    });
    const delay = readDelay(fields.object('delay'));
    const abort = readAbort(fields.object('abort'));
    if (delay === undefined && abort === undefined)
      fields.problem(undefined, 'must have a delay, an abort or both');
    fields.refuseUnknown();
    return { headers, delay, abort };
  });
}

function readDelay(fields: Fields | undefined): Fault['delay'] {
  if (fields === undefined) return undefined;
  const ms = fields.durationMs('duration', 1, 60_000);
  if (ms === undefined) fields.problem('duration', 'is missing');
  const percent = fields.integer('percent', 0, 100) ?? 100;
  fields.refuseUnknown();
  return { ms: ms ?? 1, percent };
}

function readAbort(fields: Fields | undefined): Fault['abort'] {
  if (fields === undefined) return undefined;
  const httpStatus = fields.integer('httpStatus', 200, 599);
  const grpcName = fields.string('grpcStatus');
  const grpcStatus = grpcName === '' ? undefined : GRPC_NAMES.indexOf(grpcName);
  if (grpcStatus === -1) fields.problem('grpcStatus', 'is not a gRPC status such as unavailable');
  if ((httpStatus === undefined) === (grpcStatus === undefined)) {
    fields.problem(undefined, 'must be either httpStatus or grpcStatus');
  }
  const percent = fields.integer('percent', 0, 100) ?? 100;
  fields.refuseUnknown();
  return { httpStatus, grpcStatus, percent };
}
