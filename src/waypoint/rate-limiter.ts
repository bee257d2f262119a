/**
 * Rate limits of one policy: in this process, or counted by all waypoints in a shared store. A request passes when
 * every limit lets it; the first that does not is the answer. Those of a client are asked before those of all, and local
 * ones before shared ones: a flood that its own limit stops takes nothing of what the others have, and costs no store.
 *
 * - Per key (a client's identity, a header's value) one number is kept, for a bounded number of keys; the least
 *   recently seen gives way, and only once its budget is full again, so that flooding with new keys frees nobody.
 *   Newcomers that find no room share one budget among them.
 * - While the store does not answer, a limit counts locally, lets all through or none, as its policy says.
 */

import type { Clock } from '../base/clock.ts';
import { createRate, takeUnit, type Rate, type Taking } from '../base/gcra.ts';
import type { RateLimit } from '../core/traffic-policy.ts';
import type { HeaderField, HeaderList } from '../http/h2/contract.ts';

/** The shared store, as a limit sees it. */
export interface RateStore {
  /** Takes one unit of `key`, atomically among all who share the store. Rejects when it cannot say. */
  take(key: string, rate: Rate): Promise<Omit<Taking, 'fullAtMs'>>;
}

export interface RateLimitRefusal {
  readonly limit: RateLimit;
  readonly remaining: number;
  readonly waitMs: number;
  readonly resetMs: number;
}

/** What a limit did while its store was silent, for metrics. */
export type StoreFailureListener = (limit: RateLimit, error: unknown) => void;

export interface RateLimiterOptions {
  /** What the limits belong to, e.g. `shop/cart`: makes keys of the shared store unique. */
  readonly scope: string;
  readonly limits: readonly RateLimit[];
  readonly clock: Clock;
  /** Undefined: there is none, and shared limits do what they do when it is down. */
  readonly store: RateStore | undefined;
  readonly onStoreFailure: StoreFailureListener;
  /** Keys of one limit kept in this process. Default 10,000. */
  readonly keysMax?: number;
}

const KEYS_MAX = 10_000;
const KEY_TEXT_MAX = 256;
/** Full entries that are looked for among the oldest when there is no room. */
const EVICT_LOOK_MAX = 8;

interface Counted {
  readonly limit: RateLimit;
  readonly rate: Rate;
  /** Least recently seen first. */
  readonly fullAt: Map<string, number>;
  overflowFullAtMs: number;
}

export class RateLimiter {
  readonly #options: RateLimiterOptions;
  readonly #counted: readonly Counted[];

  constructor(options: RateLimiterOptions) {
    this.#options = options;
    this.#counted = options.limits.toSorted(byReach).map((limit) => ({
      limit,
      rate: createRate(limit.requests, limit.intervalMs, limit.burst),
      fullAt: new Map(),
      overflowFullAtMs: -Infinity,
    }));
  }

  /** Undefined: it may pass. Answers at once unless a shared limit is asked. */
  take(
    identity: string,
    headers: HeaderList,
  ): RateLimitRefusal | undefined | Promise<RateLimitRefusal | undefined> {
    for (const [index, counted] of this.#counted.entries()) {
      if (counted.limit.shared) return this.#takeFrom(index, identity, headers);
      const refusal = this.#local(counted, keyOf(counted.limit, identity, headers));
      if (refusal !== undefined) return refusal;
    }
    return undefined;
  }

  async #takeFrom(
    first: number,
    identity: string,
    headers: HeaderList,
  ): Promise<RateLimitRefusal | undefined> {
    for (const counted of this.#counted.slice(first)) {
      const key = keyOf(counted.limit, identity, headers);
      const refusal = counted.limit.shared
        ? await this.#shared(counted, key)
        : this.#local(counted, key);
      if (refusal !== undefined) return refusal;
    }
    return undefined;
  }

  async #shared(counted: Counted, key: string): Promise<RateLimitRefusal | undefined> {
    const { limit, rate } = counted;
    const { store, scope, onStoreFailure } = this.#options;
    try {
      if (store === undefined) throw new Error('No shared store is configured');
      const { allowed, ...rest } = await store.take(`${scope}/${limit.name}/${key}`, rate);
      return allowed ? undefined : { limit, ...rest };
    } catch (error) {
      onStoreFailure(limit, error);
      if (limit.onFailure === 'allow') return undefined;
      if (limit.onFailure === 'local') return this.#local(counted, key);
      return { limit, remaining: 0, waitMs: rate.unitMs, resetMs: limit.intervalMs };
    }
  }

  #local(counted: Counted, key: string): RateLimitRefusal | undefined {
    const { limit, rate, fullAt } = counted;
    const nowMs = this.#options.clock.nowMs();
    const before = fullAt.get(key);
    const fits = before !== undefined || this.#makeRoom(fullAt, nowMs);
    const taking = takeUnit(rate, before ?? (fits ? -Infinity : counted.overflowFullAtMs), nowMs);
    if (fits) {
      fullAt.delete(key);
      fullAt.set(key, taking.fullAtMs);
    } else {
      counted.overflowFullAtMs = taking.fullAtMs;
    }
    if (taking.allowed) return undefined;
    const { remaining, waitMs, resetMs } = taking;
    return { limit, remaining, waitMs, resetMs };
  }

  /** An entry whose budget is full again says nothing and can go. */
  #makeRoom(fullAt: Map<string, number>, nowMs: number): boolean {
    if (fullAt.size < (this.#options.keysMax ?? KEYS_MAX)) return true;
    let looked = 0;
    for (const [key, fullAtMs] of fullAt) {
      if (fullAtMs <= nowMs) return fullAt.delete(key);
      if (++looked === EVICT_LOOK_MAX) return false;
    }
    return false;
  }
}

/** Stable: among equals the policy's order counts. */
function byReach(a: RateLimit, b: RateLimit): number {
  const reach = ({ shared, key }: RateLimit): number =>
    (shared ? 2 : 0) + (key.kind === 'all' ? 1 : 0);
  return reach(a) - reach(b);
}

function keyOf(limit: RateLimit, identity: string, headers: HeaderList): string {
  const { key } = limit;
  switch (key.kind) {
    case 'all':
      return '';
    case 'identity':
      return identity;
    case 'header':
      return (headers.find(([name]) => name === key.name)?.[1] ?? '').slice(0, KEY_TEXT_MAX);
  }
}

/** RateLimit fields (draft-ietf-httpapi-ratelimit-headers-10) and `retry-after` for a refusal; whole seconds, up. */
export function rateLimitHeaders(refusal: RateLimitRefusal): readonly HeaderField[] {
  const { limit, remaining, waitMs, resetMs } = refusal;
  const seconds = (ms: number): number => Math.max(1, Math.ceil(ms / 1_000));
  return [
    ['ratelimit-policy', `"${limit.name}";q=${limit.requests};w=${seconds(limit.intervalMs)}`],
    ['ratelimit', `"${limit.name}";r=${remaining};t=${seconds(resetMs)}`],
    ['retry-after', String(seconds(waitMs))],
  ];
}
