/** Exponential backoff with full jitter below a cap; one instance per thing that is retried. */

import type { Random } from './random.ts';

export interface BackoffOptions {
  /** First delay's upper bound. */
  readonly initialMs: number;
  /** No delay exceeds this. */
  readonly maxMs: number;
  /** Smallest share of the bound that is waited, 0 (full jitter) to 1 (none). Default 0.5. */
  readonly floor?: number;
}

export interface Backoff {
  /** The next delay in ms; the bound doubles with each call. */
  nextMs(): number;
  /** After a success: start small again. */
  reset(): void;
}

export function createBackoff(random: Random, options: BackoffOptions): Backoff {
  const floor = options.floor ?? 0.5;
  let boundMs = options.initialMs;
  return {
    nextMs() {
      const delayMs = boundMs * (floor + (1 - floor) * random.next());
      boundMs = Math.min(boundMs * 2, options.maxMs);
      return delayMs;
    },
    reset() {
      boundMs = options.initialMs;
    },
  };
}
