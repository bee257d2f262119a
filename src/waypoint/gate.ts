/**
 * What a request passes before it goes anywhere: the faults that a policy asks for, rate limits, and the queue before a
 * destination that is full. Usually all of it in one call; what has to wait can be given up.
 */

import type { Clock, Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import type { ServiceKey } from '../core/workload.ts';
import type { Destination } from './destination.ts';
import { chooseFault } from './faults.ts';
import { createLocalAnswer, type LocalAnswer } from './local-answer.ts';
import { rateLimitHeaders, type RateLimitRefusal } from './rate-limiter.ts';
import type { HttpRequest } from './request.ts';
import type { Admission, Permit } from './request-limiter.ts';
import type { ResilienceMetrics } from './resilience-metrics.ts';
import { headerValue } from './route-candidate.ts';
import type { RequestPlan } from './traffic.ts';

export interface GateContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly resilience: ResilienceMetrics;
}

export interface GateRefusal {
  readonly answer: LocalAnswer;
  readonly error: MeshError;
}

/** Gives up waiting; nothing is called afterwards. */
export type GiveUp = () => void;

const NOTHING: GiveUp = () => {};
/** gRPC's own word for a limit; the usual reading of 429 would be UNAVAILABLE. */
const RESOURCE_EXHAUSTED = 8;

/** The policy asks for no fault and no rate limit: there is nothing to pass. */
export function passesFreely(plan: RequestPlan): boolean {
  return plan.faults.length === 0 && plan.rateLimiter === undefined;
}

/** Faults, then rate limits. `onResult`: undefined when the request may go on; perhaps within the call. */
export function passPlan(
  context: GateContext,
  plan: RequestPlan,
  service: ServiceKey,
  request: HttpRequest,
  onResult: (refusal: GateRefusal | undefined) => void,
): GiveUp {
  const { clock, random, resilience } = context;
  let given = false;
  let timer: Timer | undefined;
  const limit = (): void => {
    const taken = plan.rateLimiter?.take(request.client, request.headers);
    if (!(taken instanceof Promise)) {
      onResult(taken === undefined ? undefined : rateLimited(context, service, request, taken));
      return;
    }
    taken.then(
      (refusal) => {
        if (given) return;
        onResult(
          refusal === undefined ? undefined : rateLimited(context, service, request, refusal),
        );
      },
      () => {
        if (!given) onResult(undefined);
      },
    );
  };
  const fault =
    plan.faults.length === 0
      ? undefined
      : chooseFault(plan.faults, (name) => headerValue(request.headers, name), random);
  if (fault === undefined) {
    limit();
    return () => (given = true);
  }
  const { abort, delayMs } = fault;
  const afterDelay = (): void => {
    if (given) return;
    if (abort === undefined) {
      limit();
      return;
    }
    resilience.faults.add(1, [service, 'abort']);
    const message = 'The request was aborted, as a fault of a policy asks for';
    const error = new MeshError('MESH_ABORTED', message, { flag: 'FAULT' });
    onResult({ answer: faultAnswer(abort, request), error });
  };
  if (delayMs === 0) afterDelay();
  else {
    resilience.faults.add(1, [service, 'delay']);
    timer = clock.after(delayMs, afterDelay);
  }
  return () => {
    given = true;
    timer?.cancel();
  };
}

function faultAnswer(
  abort: { readonly kind: 'http' | 'grpc'; readonly status: number },
  request: HttpRequest,
): LocalAnswer {
  const text = 'fault filter abort';
  return abort.kind === 'http'
    ? createLocalAnswer(abort.status, text, request.isGrpc)
    : createLocalAnswer(503, text, request.isGrpc, [], abort.status);
}

function rateLimited(
  { resilience }: GateContext,
  service: ServiceKey,
  request: HttpRequest,
  refusal: RateLimitRefusal,
): GateRefusal {
  resilience.rateLimited.add(1, [service, refusal.limit.shared ? 'shared' : 'local']);
  const message = `Rate limit "${refusal.limit.name}" is reached`;
  const headers = rateLimitHeaders(refusal);
  return {
    answer: createLocalAnswer(
      429,
      'too many requests',
      request.isGrpc,
      headers,
      RESOURCE_EXHAUSTED,
    ),
    error: new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'RATE_LIMIT' }),
  };
}

/** A place among the requests of a destination; `onResult` perhaps within the call. */
export function enterDestination(
  { resilience }: GateContext,
  destination: Destination,
  request: HttpRequest,
  onResult: (result: Permit | GateRefusal) => void,
): GiveUp {
  const { limiter } = destination;
  // Nearly always: nothing to wait for, so nothing to give up.
  const abort = limiter.isOpen ? undefined : new AbortController();
  const entered = limiter.enter(request.client, abort?.signal);
  const settle = (admission: Admission): void => {
    if (admission.kind === 'admitted') {
      if (abort?.signal.aborted === true) admission.permit.release();
      else onResult(admission.permit);
      return;
    }
    if (admission.reason === 'aborted') return;
    const reason = admission.reason === 'queue-full' ? 'requests' : 'queue_timeout';
    resilience.shed.add(1, [...destination.label, reason]);
    const message = `Too many requests to "${destination.label[0]}" are under way`;
    onResult({
      answer: createLocalAnswer(503, 'overloaded', request.isGrpc),
      error: new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'OVERFLOW' }),
    });
  };
  if (!(entered instanceof Promise)) {
    settle(entered);
    return NOTHING;
  }
  resilience.queued.add(1, destination.label);
  entered.then(settle, () => {});
  return () => abort?.abort();
}
