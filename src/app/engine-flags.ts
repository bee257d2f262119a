/**
 * How V8 is to run a process that carries traffic: thousands of connections or requests a second, each of which lives for
 * milliseconds. Facts, tried on Node 26.10 with a new connection per request through two proxies:
 *
 * - V8 learns from the first collections of garbage which object literals live long, and makes those in the old
 *   generation from then on. What it meets early on is the longest-lived of a proxy, and it does not guess again: handlers
 *   of short connections were made there, died there, and kept all they refer to until the next full collection. 8 KB
 *   of each connection survived, a full collection came every 3.5 s; 390 µs of CPU a connection without, 412–480 with it.
 * - A function is optimised in full after 3,000 calls. Those that run once a connection had not all come so far after
 *   50,000 connections, which cost a third more each; after 500 calls: within 5,000 connections. 351 µs a connection,
 *   over the first 20 s, instead of 390. No other case of the bench changed.
 */

const FLAGS = ['--no-allocation-site-pretenuring', '--invocation-count-for-turbofan=500'] as const;

/** To be called first; V8 obeys while it runs. On the command line the same flags cost an idle worker 4 MB (tried). */
export function tuneEngine(): void {
  const v8 = process.getBuiltinModule('node:v8');
  for (const flag of FLAGS) v8.setFlagsFromString(flag);
}
