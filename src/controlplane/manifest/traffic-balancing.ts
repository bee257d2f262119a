/** Reads the `balancing` section of a `TrafficPolicy`, and session persistence as Gateway API writes it (GEP-1619). */

import { createHash } from 'node:crypto';

import { isServiceAccountName } from '../../core/identity.ts';
import {
  BALANCING_ALGORITHMS,
  DEFAULT_BALANCING,
  ZONE_MODES,
  type Affinity,
  type BalancingSettings,
} from '../../core/traffic-policy.ts';
import type { FailoverTarget } from '../objects.ts';
import type { Fields } from './fields.ts';
import { HOUR_MS } from './traffic-protection.ts';

/** RFC 9110 token; a cookie's name is one, too (RFC 6265 4.1.1). */
export const HTTP_TOKEN: RegExp = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$/;
const COOKIE_PATH = /^\/[\x21-\x3a\x3c-\x7e]{0,255}$/;
const FAILOVER_MAX = 4;

export function readBalancing(fields: Fields): {
  readonly settings: BalancingSettings;
  readonly failover: readonly FailoverTarget[];
} {
  const affinity = fields.object('affinity');
  const algorithm = fields.oneOf('algorithm', BALANCING_ALGORITHMS);
  const read = affinity === undefined ? undefined : readAffinity(affinity);
  if (affinity !== undefined && algorithm !== undefined && algorithm !== 'consistent-hash') {
    fields.problem('affinity', 'needs algorithm consistent-hash');
  }
  if (algorithm === 'consistent-hash' && affinity === undefined) {
    fields.problem('affinity', 'is needed: a header, a cookie or sourceAddress');
  }
  const failover = fields.objects('failover', FAILOVER_MAX).map((target): FailoverTarget => {
    const name = target.string('name');
    if (!isServiceAccountName(name)) target.problem('name', 'must be the name of a Service');
    const port = target.integer('port', 1, 65_535);
    if (port === undefined) target.problem('port', 'is missing');
    target.refuseUnknown();
    return { name, port: port ?? 0 };
  });
  const settings: BalancingSettings = {
    algorithm: algorithm ?? (read === undefined ? DEFAULT_BALANCING.algorithm : 'consistent-hash'),
    affinity: read,
    zone: fields.oneOf('zone', ZONE_MODES) ?? DEFAULT_BALANCING.zone,
    zoneUsablePercent:
      fields.integer('zoneUsablePercent', 1, 100) ?? DEFAULT_BALANCING.zoneUsablePercent,
    failover: [],
    slowStartMs: fields.durationMs('slowStart', 0, HOUR_MS) ?? DEFAULT_BALANCING.slowStartMs,
  };
  return { settings, failover };
}

function readAffinity(fields: Fields): Affinity | undefined {
  const header = fields.string('header');
  const cookie = fields.object('cookie');
  const sourceAddress = fields.boolean('sourceAddress');
  fields.refuseUnknown();
  const said = [header !== '', cookie !== undefined, sourceAddress].filter(Boolean).length;
  if (said !== 1) {
    fields.problem(undefined, 'must be exactly one of header, cookie and sourceAddress');
    return undefined;
  }
  if (cookie !== undefined) return readCookie(cookie);
  if (sourceAddress) return { kind: 'source-address' };
  if (!HTTP_TOKEN.test(header)) fields.problem('header', 'is not the name of a header');
  return { kind: 'header', name: header.toLowerCase(), issued: false };
}

function readCookie(fields: Fields): Affinity {
  const name = fields.string('name');
  if (!HTTP_TOKEN.test(name)) fields.problem('name', 'is not the name of a cookie');
  const path = fields.string('path', '/');
  if (!COOKIE_PATH.test(path)) fields.problem('path', 'must begin with "/" and have no ";"');
  const sameSite = fields.oneOf('sameSite', ['Strict', 'Lax', 'None'] as const) ?? '';
  const secure = fields.boolean('secure');
  // Browsers drop a SameSite=None cookie that is not Secure.
  if (sameSite === 'None' && !secure) fields.problem('sameSite', 'None needs secure: true');
  const ttlMs = fields.durationMs('ttl', 0, 10_000 * HOUR_MS) ?? 0;
  fields.refuseUnknown();
  return { kind: 'cookie', name, ttlMs, path, sameSite, secure };
}

/** `object` names the session where the object does not. */
export function readSessionPersistence(fields: Fields, object: string): BalancingSettings {
  const named = fields.string('sessionName');
  const type = fields.oneOf('type', ['Cookie', 'Header'] as const) ?? 'Cookie';
  const lifetime = fields
    .object('cookieConfig')
    ?.oneOf('lifetimeType', ['Permanent', 'Session'] as const);
  const absoluteMs = fields.durationMs('absoluteTimeout', 0, 10_000 * HOUR_MS);
  const idleMs = fields.durationMs('idleTimeout', 0, 10_000 * HOUR_MS);
  if (lifetime === 'Permanent' && absoluteMs === undefined) {
    fields.problem('absoluteTimeout', 'is needed by a permanent cookie');
  }
  const digest = createHash('sha256').update(object).digest('hex').slice(0, 8);
  const name = named === '' ? `nodemesh-session-${digest}` : named;
  if (!HTTP_TOKEN.test(name)) fields.problem('sessionName', 'is not a name for a cookie or header');
  // The endpoint follows from the value itself: nothing is kept that could idle, so the shorter of both counts.
  const ttlMs = lifetime === 'Permanent' ? Math.min(absoluteMs ?? 0, idleMs ?? Infinity) : 0;
  const affinity: Affinity =
    type === 'Header'
      ? { kind: 'header', name: name.toLowerCase(), issued: true }
      : { kind: 'cookie', name, ttlMs, path: '/', sameSite: '', secure: false };
  return { ...DEFAULT_BALANCING, algorithm: 'consistent-hash', affinity };
}
