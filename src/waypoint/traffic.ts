/**
 * The traffic policies of a waypoint at work: which settings a request gets, and the destinations with all that is
 * counted about them. Policies may change at any time; a request that is under way keeps what it began with.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import type { HttpRule } from '../core/route.ts';
import type { Affinity, Fault, RateLimit, ServiceTraffic } from '../core/traffic-policy.ts';
import type { ServiceKey } from '../core/workload.ts';
import type { Client } from '../state/contract.ts';
import { affinityOf } from './affinity.ts';
import { Destination, type Visit } from './destination.ts';
import { RateLimiter, type RateStore } from './rate-limiter.ts';
import type { ResilienceMetrics } from './resilience-metrics.ts';
import { RetryPolicy, withRouteRetry } from './retry-policy.ts';
import { requestTimes, type RequestTimes } from './timeouts.ts';
import { mergeTraffic, type MergedTraffic } from './traffic-layers.ts';
import type { EndpointSource } from './upstream-set.ts';

/** What holds for one request to a service, until it is answered. */
export interface RequestPlan {
  readonly retries: RetryPolicy;
  readonly times: RequestTimes;
  /** Undefined: no limit. */
  readonly rateLimiter: RateLimiter | undefined;
  readonly faults: readonly Fault[];
  /** Of the rule itself, before that of the destination. */
  readonly affinity: Affinity | undefined;
}

export interface TrafficOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly source: EndpointSource;
  /** The waypoint's own place, for what is near. */
  readonly client: () => Client;
  readonly metrics: ResilienceMetrics;
  /** Undefined: no shared store is configured. */
  readonly rateStore: RateStore | undefined;
}

/** Unused destinations are let go after this. */
const IDLE_MS = 600_000;
const SWEEP_MS = 60_000;
/** Destinations at once; more are made anew for each request, so that nothing is remembered of them. */
const DESTINATIONS_MAX = 10_000;
const SERVICES_MAX = 10_000;

interface Known {
  readonly traffic: ServiceTraffic | undefined;
  readonly plans: WeakMap<HttpRule, RequestPlan>;
  /** Without a rule, by port. */
  readonly plain: Map<number, RequestPlan>;
  /** By the layer they count for; kept over changes of the policy that do not touch them. */
  readonly limiters: Map<string, { readonly limits: string; readonly limiter: RateLimiter }>;
}

export class Traffic implements Disposable {
  readonly #options: TrafficOptions;
  readonly #services = new Map<string, Known>();
  /** By port, then by service. */
  readonly #destinations = new Map<number, Map<ServiceKey, Destination>>();
  readonly #sweep: Timer;

  constructor(options: TrafficOptions) {
    this.#options = options;
    this.#sweep = options.clock.every(SWEEP_MS, () => this.#letGo());
  }

  get destinationCount(): number {
    let count = 0;
    for (const atPort of this.#destinations.values()) count += atPort.size;
    return count;
  }

  /** New versions of services' policies; `removed`: services without any. */
  apply(changed: readonly ServiceTraffic[], removed: readonly string[]): void {
    for (const key of removed) this.#put(key, undefined);
    for (const traffic of changed) this.#put(traffic.key, traffic);
  }

  /** For a request that was addressed to a service and matched `rule`, if any did. */
  plan(key: ServiceKey, port: number, rule: HttpRule | undefined): RequestPlan {
    const known = this.#known(key);
    const found = rule === undefined ? known.plain.get(port) : known.plans.get(rule);
    if (found !== undefined) return found;
    const plan = this.#makePlan(known, key, port, rule);
    if (rule === undefined) known.plain.set(port, plan);
    else known.plans.set(rule, plan);
    return plan;
  }

  destination(key: ServiceKey, port: number): Destination {
    const destination = this.#destinations.get(port)?.get(key) ?? this.#makeDestination(key, port);
    destination.usedMs = this.#options.clock.nowMs();
    return destination;
  }

  /** An endpoint of the destination, or of the first of its failovers that has one. */
  visit(
    destination: Destination,
    hash: number | undefined,
    exclude: ReadonlySet<string>,
  ): Visit | undefined {
    const own = destination.visit(hash, exclude);
    if (own !== undefined) return own;
    for (const { service, port } of destination.traffic.balancing.failover) {
      const other = this.destination(service, port).visit(hash, exclude);
      if (other !== undefined) return other;
    }
    return undefined;
  }

  [Symbol.dispose](): void {
    this.#sweep.cancel();
  }

  #known(key: string): Known {
    let known = this.#services.get(key);
    if (known === undefined) {
      known = emptyKnown();
      if (this.#services.size < SERVICES_MAX) this.#services.set(key, known);
    }
    return known;
  }

  #put(key: string, traffic: ServiceTraffic | undefined): void {
    const before = this.#services.get(key);
    this.#services.set(key, { ...emptyKnown(), traffic, limiters: before?.limiters ?? new Map() });
    for (const [port, atPort] of this.#destinations) {
      atPort.get(key as ServiceKey)?.configure(this.#merged(key, port));
    }
  }

  #makeDestination(key: ServiceKey, port: number): Destination {
    const { clock, random, source, client, metrics } = this.#options;
    const destination = new Destination(
      { key, port, source, client: client(), clock, random, metrics },
      this.#merged(key, port),
    );
    if (this.destinationCount >= DESTINATIONS_MAX) return destination;
    const atPort = this.#destinations.get(port);
    if (atPort === undefined) this.#destinations.set(port, new Map([[key, destination]]));
    else atPort.set(key, destination);
    return destination;
  }

  #merged(key: string, port: number): MergedTraffic {
    return mergeTraffic(this.#known(key).traffic, { port, route: undefined, rule: '' });
  }

  #makePlan(known: Known, key: string, port: number, rule: HttpRule | undefined): RequestPlan {
    const { random } = this.#options;
    const merged = mergeTraffic(known.traffic, {
      port,
      route: rule?.route,
      rule: rule?.name ?? '',
    });
    const { retry } = rule ?? {};
    const retries = retry === undefined ? merged.retries : withRouteRetry(merged.retries, retry);
    return {
      retries: new RetryPolicy(retries, random),
      times: requestTimes(rule, merged.timeouts, retries),
      rateLimiter: this.#limiter(known, key, merged),
      faults: merged.faults,
      affinity: rule?.sessionPersistence && affinityOf(rule.sessionPersistence),
    };
  }

  /** A limiter whose limits are the same as before goes on counting where it was. */
  #limiter(known: Known, key: string, merged: MergedTraffic): RateLimiter | undefined {
    const { rateLimits, rateLimitScope } = merged;
    if (rateLimits.length === 0) return undefined;
    const limits = JSON.stringify(rateLimits);
    const before = known.limiters.get(rateLimitScope);
    if (before?.limits === limits) return before.limiter;
    const { clock, rateStore, metrics } = this.#options;
    const limiter = new RateLimiter({
      scope: `${key}/${rateLimitScope}`,
      limits: rateLimits,
      clock,
      store: rateStore,
      onStoreFailure: ({ onFailure }: RateLimit) =>
        metrics.rateStoreFailures.add(1, [key, onFailure]),
    });
    known.limiters.set(rateLimitScope, { limits, limiter });
    return limiter;
  }

  #letGo(): void {
    const sinceMs = this.#options.clock.nowMs() - IDLE_MS;
    for (const [port, atPort] of this.#destinations) {
      for (const [key, destination] of atPort) {
        if (destination.isIdle(sinceMs)) atPort.delete(key);
      }
      if (atPort.size === 0) this.#destinations.delete(port);
    }
  }
}

function emptyKnown(): Known {
  return {
    traffic: undefined,
    plans: new WeakMap(),
    plain: new Map(),
    limiters: new Map(),
  };
}
