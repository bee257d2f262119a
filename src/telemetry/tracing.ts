/**
 * The place of a request in its trace. A SERVER span for each, which the client sees, and below it a CLIENT span for each
 * try upstream, whose id the endpoint gets as its parent. Whether it is recorded is decided once, at the head: the caller's flag if it says so, else
 * by the ratio. Without a ratio and without a caller's context nothing is added and what is there passes as it is.
 */

import type { Clock } from '../base/clock.ts';
import type { ErrorCode } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import type { SocketAddress } from '../core/address.ts';
import type { RequestRecord, RequestTrace, TryTrace } from '../core/request-record.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import { readTraceContext, traceFields } from '../http/trace-context.ts';

export interface TracedSpan extends RequestTrace {
  /** 32 hex digits. */
  readonly traceId: string;
  /** 16 hex digits. */
  readonly serverSpanId: string;
  /** Of the caller; empty at the root. */
  readonly parentSpanId: string;
  readonly sampled: boolean;
  /** In order; kept only when sampled. As many as the retries of a request allow. */
  readonly tries: readonly TracedTry[];
}

export interface TracedTry {
  /** 16 hex digits. */
  readonly spanId: string;
  readonly address: SocketAddress;
  readonly principal: string;
  readonly startWallMs: number;
  /** Undefined: it has not ended. */
  readonly outcome: TryOutcome | undefined;
}

export interface TryOutcome {
  readonly durationMs: number;
  /** 0: none came. */
  readonly status: number;
  /** -1: none came. */
  readonly grpcStatus: number;
  readonly error: ErrorCode | undefined;
}

export interface Tracing {
  begin(headers: HeaderList): TracedSpan | undefined;
}

/** `ratio`: of requests that come without a decision, 0 to 1. */
export function createTracing(clock: Clock, random: Random, ratio: number): Tracing {
  const id = (bytes: number): string => {
    for (;;) {
      const text = random.bytes(bytes).toString('hex');
      if (!/^0+$/.test(text)) return text;
    }
  };
  return {
    begin(headers) {
      const context = readTraceContext(headers);
      const sampled = context?.sampled ?? random.next() < ratio;
      if (context === undefined && !sampled) return undefined;
      const traceId = context?.traceId ?? id(16);
      const serverSpanId = id(8);
      const tries: TracedTry[] = [];
      const fieldsOf = (spanId: string): HeaderList =>
        traceFields(traceId, spanId, sampled, context?.forms ?? []);
      return {
        traceId,
        serverSpanId,
        parentSpanId: context?.parentId ?? '',
        sampled,
        tries,
        headers: fieldsOf(serverSpanId),
        beginTry(address, principal) {
          const spanId = id(8);
          const own = fieldsOf(spanId);
          if (!sampled) return { headers: own, ended: () => {} };
          const traced = new OpenTry(clock, { spanId, address, principal }, own);
          tries.push(traced);
          return traced;
        },
      };
    },
  };
}

class OpenTry implements TracedTry, TryTrace {
  readonly spanId: string;
  readonly address: SocketAddress;
  readonly principal: string;
  readonly headers: HeaderList;
  readonly startWallMs: number;
  readonly #clock: Clock;
  readonly #startMs: number;
  outcome: TryOutcome | undefined;

  constructor(
    clock: Clock,
    { spanId, address, principal }: Pick<TracedTry, 'spanId' | 'address' | 'principal'>,
    headers: HeaderList,
  ) {
    this.#clock = clock;
    this.#startMs = clock.nowMs();
    this.startWallMs = clock.wallMs();
    this.spanId = spanId;
    this.address = address;
    this.principal = principal;
    this.headers = headers;
  }

  ended(status: number, grpcStatus: number, error: ErrorCode | undefined): void {
    const durationMs = this.#clock.nowMs() - this.#startMs;
    this.outcome = { durationMs, status, grpcStatus, error };
  }
}

/** What `begin` made, taken back from a record. */
export function tracedSpan(record: RequestRecord): TracedSpan | undefined {
  const { trace } = record;
  return trace !== undefined && 'traceId' in trace ? (trace as TracedSpan) : undefined;
}
