/**
 * Chooses an endpoint of one service port for one request: the tier (near first, spilling over when too few of it
 * are usable), then an endpoint of it by the algorithm of the policy. Costs the same for two endpoints as for ten
 * thousand, but for consistent hashing, whose table is made in steps.
 *
 * - An endpoint that outlier detection has out gets nothing but probes, one at a time.
 * - Excluded ones (earlier attempts of the request) are avoided while there is another.
 * - A hash decides over nearness: a client that must stick must not wander with the zone of its waypoint.
 */

import type { Clock } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import type { BalancingSettings } from '../core/traffic-policy.ts';
import { lookUp } from './maglev.ts';
import { MaglevTables } from './maglev-tables.ts';
import type { OutlierDetector, Passage } from './outlier-detector.ts';
import type { BalancedEndpoint } from './balanced-endpoint.ts';
import type { Tier, UpstreamSet } from './upstream-set.ts';

export interface Picked {
  readonly endpoint: BalancedEndpoint;
  readonly passage: Passage;
}

/** Draws before all of a tier is looked through. */
const TRIES_MAX = 8;
/** Increments of this share of the whole spread evenly whatever the capacities (golden ratio). */
const GOLDEN = 0.618_033_988_749_895;
/** What a new endpoint gets at the very start of its slow start. */
const SLOW_START_MIN = 0.1;

export class UpstreamPicker {
  readonly #set: UpstreamSet;
  readonly #outliers: OutlierDetector;
  readonly #random: Random;
  readonly #clock: Clock;
  #settings: BalancingSettings;
  #turn: number;
  readonly #tables: MaglevTables;

  constructor(
    set: UpstreamSet,
    outliers: OutlierDetector,
    settings: BalancingSettings,
    random: Random,
    clock: Clock,
  ) {
    this.#set = set;
    this.#outliers = outliers;
    this.#settings = settings;
    this.#random = random;
    this.#clock = clock;
    this.#tables = new MaglevTables(clock);
    // Many waypoints that start together must not march in step.
    this.#turn = Math.floor(random.next() * 0x10000);
  }

  configure(settings: BalancingSettings): void {
    this.#settings = settings;
    this.#set.configure(settings.zone);
  }

  /** `hash`: of what a client is to stick by; undefined: any. The attempt must be reported to the detector. */
  pick(hash: number | undefined, exclude: ReadonlySet<string>): Picked | undefined {
    const nowMs = this.#clock.nowMs();
    this.#refresh(nowMs);
    if (this.#set.size === 0) return undefined;
    if (hash !== undefined) {
      return this.#byHash(hash, exclude, nowMs);
    }
    const probe = this.#outliers.awayCount === 0 ? undefined : this.#probe(exclude, nowMs);
    if (probe !== undefined) return probe;
    const tier = this.#chooseTier();
    const found =
      this.#fromTier(tier, exclude, nowMs) ??
      this.#fromAnyTier(exclude, nowMs) ??
      this.#fromAnyTier(NOBODY, nowMs);
    return found === undefined ? undefined : { endpoint: found, passage: 'in' };
  }

  #refresh(nowMs: number): void {
    const gone = this.#set.refresh(nowMs);
    if (gone === undefined) return;
    for (const uid of gone) this.#outliers.forget(uid);
    this.#outliers.setTotal(this.#set.size);
  }

  #probe(exclude: ReadonlySet<string>, nowMs: number): Picked | undefined {
    const uid = this.#outliers.dueProbe(nowMs);
    const endpoint = uid === undefined ? undefined : this.#set.get(uid);
    if (uid === undefined || endpoint === undefined || exclude.has(uid)) return undefined;
    const passage = this.#outliers.begin(uid, nowMs);
    return passage === undefined ? undefined : { endpoint, passage };
  }

  /** Each tier takes what its usable share allows; what no tier can take falls to the nearest that has any. */
  #chooseTier(): Tier | undefined {
    const { tiers } = this.#set;
    const away = this.#outliers.awayCount;
    const nearest = tiers[0];
    if (nearest === undefined || tiers.length === 1) return nearest;
    if (away === 0 && nearest.endpoints.length === nearest.declaredCount) return nearest;
    const wanted = this.#settings.zoneUsablePercent / 100;
    let aim = this.#random.next();
    let fallback: Tier | undefined;
    let rest = 1;
    for (const tier of tiers) {
      const usable = away === 0 ? tier.endpoints.length : this.#usableIn(tier);
      if (usable === 0) continue;
      fallback ??= tier;
      const share = rest * Math.min(1, usable / tier.declaredCount / wanted);
      if (aim < share) return tier;
      aim -= share;
      rest -= share;
    }
    return fallback ?? nearest;
  }

  #usableIn(tier: Tier): number {
    let usable = 0;
    for (const { workload } of tier.endpoints)
      usable += this.#outliers.isAway(workload.uid) ? 0 : 1;
    return usable;
  }

  #fromAnyTier(exclude: ReadonlySet<string>, nowMs: number): BalancedEndpoint | undefined {
    for (const tier of this.#set.tiers) {
      const found = this.#fromTier(tier, exclude, nowMs);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #fromTier(
    tier: Tier | undefined,
    exclude: ReadonlySet<string>,
    nowMs: number,
  ): BalancedEndpoint | undefined {
    if (tier === undefined || tier.endpoints.length === 0) return undefined;
    const isUsable = ({ workload }: BalancedEndpoint): boolean =>
      !this.#outliers.isAway(workload.uid) && !exclude.has(workload.uid);
    const { algorithm } = this.#settings;
    const ofTwo = algorithm === 'least-request' || algorithm === 'peak-ewma';
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const index = algorithm === 'round-robin' ? this.#nextIndex(tier) : this.#draw(tier);
      const first = tier.endpoints[index];
      if (first === undefined || !isUsable(first)) continue;
      if (!ofTwo) {
        if (this.#random.next() < this.#warmth(first, nowMs)) return first;
        continue;
      }
      const other = this.#draw(tier);
      const second = tier.endpoints[other === index ? (index + 1) % tier.endpoints.length : other];
      if (second === undefined || second === first || !isUsable(second)) return first;
      return this.#load(second, nowMs) < this.#load(first, nowMs) ? second : first;
    }
    return tier.endpoints.find(isUsable);
  }

  #load(endpoint: BalancedEndpoint, nowMs: number): number {
    const load =
      this.#settings.algorithm === 'peak-ewma'
        ? endpoint.ewmaLoad(nowMs)
        : (endpoint.active + 1) / endpoint.workload.capacity;
    return load / this.#warmth(endpoint, nowMs);
  }

  /** 1 for all but those in their slow start. */
  #warmth(endpoint: BalancedEndpoint, nowMs: number): number {
    const { slowStartMs } = this.#settings;
    if (slowStartMs === 0) return 1;
    return Math.min(1, Math.max(SLOW_START_MIN, (nowMs - endpoint.addedMs) / slowStartMs));
  }

  #nextIndex(tier: Tier): number {
    this.#turn = (this.#turn + 1) % 0x40000000;
    if (tier.sums === undefined) return this.#turn % tier.endpoints.length;
    return indexAt(tier.sums, (this.#turn * GOLDEN) % 1);
  }

  #draw(tier: Tier): number {
    const share = this.#random.next();
    return tier.sums === undefined
      ? Math.floor(share * tier.endpoints.length)
      : indexAt(tier.sums, share);
  }

  #byHash(hash: number, exclude: ReadonlySet<string>, nowMs: number): Picked | undefined {
    const table = this.#tables.current(this.#set.generation, () => this.#set.names());
    const find = (isUsable: (uid: string) => boolean): BalancedEndpoint | undefined => {
      const uid = lookUp(
        table,
        hash,
        (name) => this.#set.get(name) !== undefined && isUsable(name),
      );
      return uid === undefined ? undefined : this.#set.get(uid);
    };
    // Who is out and due gets its probe from those who would stick to it.
    let passage: Passage = 'in';
    const endpoint =
      find((uid) => {
        if (exclude.has(uid)) return false;
        const found = this.#outliers.begin(uid, nowMs);
        passage = found ?? 'in';
        return found !== undefined;
      }) ?? find((uid) => !this.#outliers.isAway(uid));
    if (endpoint !== undefined) return { endpoint, passage };
    const found = this.#fromAnyTier(NOBODY, nowMs);
    return found === undefined ? undefined : { endpoint: found, passage: 'in' };
  }
}

const NOBODY: ReadonlySet<string> = new Set();

/** The index whose running sum is the first above `share` of the whole. */
function indexAt(sums: readonly number[], share: number): number {
  const aim = share * (sums.at(-1) ?? 0);
  let low = 0;
  let high = sums.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sums[middle] ?? 0) > aim) high = middle;
    else low = middle + 1;
  }
  return low;
}
