/**
 * Whether a failed attempt is made again, and when. Pure but for the budget that it draws on and the jitter.
 *
 * The caller promises what makes a retry harmless: nothing of a response has been sent to the client, the
 * request's body can be sent again, and the next attempt goes to another endpoint where there is one.
 */

import type { MeshError } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import type { RouteRetry } from '../core/route.ts';
import type { RetryCondition, RetrySettings } from '../core/traffic-policy.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import type { RetryAllowance } from './retry-budget.ts';
import { headerValue } from './route-candidate.ts';

/** How an attempt ended. */
export type AttemptOutcome =
  | {
      readonly kind: 'response';
      readonly status: number;
      /** From the response's head (a trailers-only gRPC answer). */
      readonly grpcStatus: number | undefined;
      /** What the server asked for (`retry-after`, `grpc-retry-pushback-ms`); Infinity: do not retry. */
      readonly retryAfterMs: number | undefined;
    }
  | { readonly kind: 'connect-failure' }
  /** REFUSED_STREAM or a GOAWAY below the stream: the server says that it has not looked at it (RFC 9113 8.7). */
  | { readonly kind: 'refused-stream' }
  /** The connection or stream broke before a response; `requestSent`: some of the request had gone out. */
  | { readonly kind: 'reset'; readonly requestSent: boolean }
  /** The time for one try was up. */
  | { readonly kind: 'timeout' };

/** How an attempt ended that got no response. `unsent`: nothing of the request had gone out. */
export function failureOutcome(error: MeshError, unsent: boolean): AttemptOutcome {
  if (unsent) return { kind: 'connect-failure' };
  const refused = error.code === 'MESH_TUNNEL_CLOSED' || error.details['notProcessed'] === true;
  return refused ? { kind: 'refused-stream' } : { kind: 'reset', requestSent: true };
}

export type RetryDecision =
  | { readonly kind: 'retry'; readonly delayMs: number }
  /** Not worth it or not allowed: what came is the answer. */
  | { readonly kind: 'stop' }
  /** It would be, but the destination's budget is used up: 503. */
  | { readonly kind: 'over-budget' };

const STOP: RetryDecision = { kind: 'stop' };
const OVER_BUDGET: RetryDecision = { kind: 'over-budget' };

export class RetryPolicy {
  readonly #settings: RetrySettings;
  readonly #conditions: ReadonlySet<RetryCondition>;
  readonly #random: Random;

  constructor(settings: RetrySettings, random: Random) {
    this.#settings = settings;
    this.#conditions = new Set(settings.conditions);
    this.#random = random;
  }

  get settings(): RetrySettings {
    return this.#settings;
  }

  /** `attempt`: how many were made, from 1. `remainingMs`: until the request's own deadline, Infinity without one. */
  next(
    outcome: AttemptOutcome,
    attempt: number,
    allowance: RetryAllowance,
    nowMs: number,
    remainingMs: number,
  ): RetryDecision {
    if (attempt > this.#settings.attempts || !this.#wants(outcome)) return STOP;
    const delayMs = this.#delayMs(outcome, attempt);
    if (delayMs === undefined || delayMs >= remainingMs) return STOP;
    return allowance.takeRetry(nowMs) ? { kind: 'retry', delayMs } : OVER_BUDGET;
  }

  #wants(outcome: AttemptOutcome): boolean {
    const on = this.#conditions;
    switch (outcome.kind) {
      case 'response': {
        const { status, grpcStatus } = outcome;
        if (on.has('5xx') && status >= 500) return true;
        if (on.has('gateway-error') && status >= 502 && status <= 504) return true;
        if (this.#settings.statusCodes.includes(status)) return true;
        return grpcStatus !== undefined && this.#settings.grpcStatuses.includes(grpcStatus);
      }
      case 'connect-failure':
        return on.has('connect-failure') || on.has('5xx');
      case 'refused-stream':
        return on.has('refused-stream') || on.has('5xx');
      case 'reset':
        if (!outcome.requestSent && on.has('reset-before-request')) return true;
        return on.has('reset') || on.has('5xx');
      case 'timeout':
        // The client would get 504.
        return on.has('gateway-error') || on.has('5xx') || this.#settings.statusCodes.includes(504);
    }
  }

  /** Full jitter below a bound that doubles, above the minimum; not before the server wants it. Undefined: later than we wait. */
  #delayMs(outcome: AttemptOutcome, attempt: number): number | undefined {
    const { backoffMinMs, backoffBaseMs, backoffMaxMs, retryAfterMaxMs } = this.#settings;
    const boundMs = Math.min(backoffMaxMs, backoffBaseMs * 2 ** (attempt - 1));
    const jitteredMs = backoffMinMs + this.#random.next() * boundMs;
    const askedMs = outcome.kind === 'response' ? outcome.retryAfterMs : undefined;
    if (askedMs === undefined || retryAfterMaxMs === 0) return jitteredMs;
    return askedMs > retryAfterMaxMs ? undefined : askedMs + jitteredMs;
  }
}

/** `HTTPRoute.rules[].retry` over what a policy says: its count, codes and minimum wait; the budget stays. */
export function withRouteRetry(settings: RetrySettings, route: RouteRetry): RetrySettings {
  return {
    ...settings,
    attempts: route.attempts,
    // GEP-1731: connection errors are retried whatever codes are listed.
    conditions: ['connect-failure', 'refused-stream', 'reset-before-request'],
    statusCodes: route.codes,
    grpcStatuses: [],
    backoffMinMs: route.backoffMs ?? settings.backoffMinMs,
  };
}

/** What a response says to a retry; `headers` are its own, with what the server asks for. */
export function responseOutcome(
  status: number,
  grpcStatus: number | undefined,
  headers: HeaderList,
  wallMs: number,
): AttemptOutcome {
  const pushback = headerValue(headers, 'grpc-retry-pushback-ms');
  const after = headerValue(headers, 'retry-after');
  const asked = after === undefined ? undefined : parseRetryAfter(after, wallMs);
  const retryAfterMs = pushback === undefined ? asked : parseRetryPushback(pushback);
  return { kind: 'response', status, grpcStatus, retryAfterMs };
}

/** `retry-after` (RFC 9110 10.2.3: seconds or a date) in ms from now; undefined when unreadable. */
export function parseRetryAfter(text: string, wallMs: number): number | undefined {
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1_000;
  if (!/^[A-Za-z]{3}, \d\d [A-Za-z]{3} \d{4} \d\d:\d\d:\d\d GMT$/.test(text)) return undefined;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - wallMs);
}

/** `grpc-retry-pushback-ms` (gRFC A6): a negative or unreadable one means "do not". */
export function parseRetryPushback(text: string): number {
  return /^\d{1,9}$/.test(text) ? Number(text) : Infinity;
}
