/**
 * Which times hold for one request: a route rule's own (Gateway API `timeouts`, GEP-1742) before those of a policy,
 * and their relation: one try never outlasts the whole. 0 means none, in what comes in; undefined in what comes out.
 */

import type { HttpRule } from '../core/route.ts';
import type { RetrySettings, TimeoutSettings } from '../core/traffic-policy.ts';

export interface RequestTimes {
  /** From the request's first byte to the response's last; retries and waits included. */
  readonly requestMs: number | undefined;
  /** For one try, until its response's head; a rule's `backendRequest` until the response's last byte. */
  readonly perTryMs: number | undefined;
  readonly perTryUntil: 'head' | 'end';
  /** A policy's own; undefined: see `WaypointOptions.idleTimeoutMs`. */
  readonly idleMs: number | undefined;
  readonly connectMs: number | undefined;
}

export function requestTimes(
  rule: Pick<HttpRule, 'requestTimeoutMs' | 'backendRequestTimeoutMs'> | undefined,
  timeouts: TimeoutSettings,
  retries: Pick<RetrySettings, 'perTryTimeoutMs'>,
): RequestTimes {
  const requestMs = some(rule?.requestTimeoutMs ?? timeouts.requestMs);
  const perTryMs = some(rule?.backendRequestTimeoutMs ?? retries.perTryTimeoutMs);
  const capped =
    perTryMs === undefined || requestMs === undefined ? perTryMs : Math.min(perTryMs, requestMs);
  return {
    requestMs,
    perTryMs: capped,
    perTryUntil: rule?.backendRequestTimeoutMs === undefined ? 'head' : 'end',
    idleMs: some(timeouts.idleMs),
    connectMs: some(timeouts.connectMs),
  };
}

function some(ms: number): number | undefined {
  return ms === 0 ? undefined : ms;
}
