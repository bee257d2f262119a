/**
 * Faults that a policy asks for, decided before anything is done upstream. The first whose headers fit counts;
 * its delay and its abort are drawn separately, the delay comes first (Envoy's fault filter).
 */

import type { Random } from '../base/random.ts';
import type { Fault } from '../core/traffic-policy.ts';

export interface FaultChoice {
  /** 0: none. */
  readonly delayMs: number;
  /** What to answer after the delay; undefined: go on. */
  readonly abort:
    | { readonly kind: 'http'; readonly status: number }
    | { readonly kind: 'grpc'; readonly status: number }
    | undefined;
}

/** `header` gives the first value of a lower-case name. Undefined: no fault. */
export function chooseFault(
  faults: readonly Fault[],
  header: (name: string) => string | undefined,
  random: Random,
): FaultChoice | undefined {
  const fault = faults.find(({ headers }) => {
    return headers.every(({ name, value }) => header(name) === value);
  });
  if (fault === undefined) return undefined;
  const { delay, abort } = fault;
  const delayMs = delay !== undefined && isDrawn(delay.percent, random) ? delay.ms : 0;
  const aborts = abort !== undefined && isDrawn(abort.percent, random);
  if (!aborts) return delayMs === 0 ? undefined : { delayMs, abort: undefined };
  return {
    delayMs,
    abort:
      abort.grpcStatus === undefined
        ? { kind: 'http', status: abort.httpStatus ?? 503 }
        : { kind: 'grpc', status: abort.grpcStatus },
  };
}

function isDrawn(percent: number, random: Random): boolean {
  return random.next() * 100 < percent;
}
