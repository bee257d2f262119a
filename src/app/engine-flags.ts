/**
 * How V8 is to run a process that carries traffic: thousands of connections or requests a second, each of which lives for
 * milliseconds. Facts, tried on Node 26.10 with a new connection per request through two proxies:
 *
 * - V8 learns from the first collections of garbage which object literals live long, and makes those in the old
 *   generation from then on. What it meets early on is the longest-lived of a proxy, and it does not guess again: handlers
 *   of short connections were made there, died there, and kept all they refer to until the next full collection. 8 KB
 *   of each connection survived, a full collection came every 3.5 s; 390 µs of CPU a connection without, 412–480 with it.
 * - A function is optimised in full after 3,000 calls, and what runs once a connection reaches that late: of runs of 3 s one
 *   after the other each connection cost 552, 490, 503, 410, 384, 374, 384, 366 and 356 µs. After 500 calls instead: 351 µs
 *   over the first 20 s, for which it was 390. No other case of the bench changed.
 */

import { setFlagsFromString } from 'node:v8';

/** A V8 that no longer knows one of them says so on standard error, and runs on without it. */
export const TRAFFIC_FLAGS: readonly string[] = [
  '--no-allocation-site-pretenuring',
  '--invocation-count-for-turbofan=500',
];

/** To be called first; V8 obeys while it runs. On the command line the same flags cost an idle worker 4 MB (tried). */
export function tuneEngine(): void {
  for (const flag of TRAFFIC_FLAGS) setFlagsFromString(flag);
}
