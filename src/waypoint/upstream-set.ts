/**
 * The endpoints of one service port as a waypoint sees them, in tiers by how near they are to it, nearest first.
 * Follows the state of the mesh by version: a change of one service rebuilds the tiers of that service, and what is
 * known of an endpoint that stays (load, latency) stays with it.
 */

import type { BalancingScope, Service, ServiceKey, Workload } from '../core/workload.ts';
import type { BalancingSettings } from '../core/traffic-policy.ts';
import type { Client, ServiceView } from '../state/contract.ts';
import { sharesScope, targetPort } from '../state/endpoint-picker.ts';
import { BalancedEndpoint } from './balanced-endpoint.ts';

export interface Tier {
  readonly endpoints: readonly BalancedEndpoint[];
  /** With those that are not ready: what the usable share is a share of. */
  readonly declaredCount: number;
  /** Running sums of the capacities; undefined when all are 1. */
  readonly sums: readonly number[] | undefined;
}

/** What is wanted of `NodeState.services`. */
export type EndpointSource = Pick<ServiceView, 'get' | 'endpoints' | 'endpointsVersion'>;

const BY_ZONE: readonly BalancingScope[] = ['REGION', 'ZONE'];

export class UpstreamSet {
  readonly key: ServiceKey;
  readonly port: number;
  readonly #source: EndpointSource;
  readonly #client: Client;
  readonly #endpoints = new Map<string, BalancedEndpoint>();
  #zone: BalancingSettings['zone'];
  #service: Service | undefined;
  #version = -1;
  #tiers: readonly Tier[] = [];
  /** Grows with every rebuild. */
  generation = 0;

  constructor(
    key: ServiceKey,
    port: number,
    source: EndpointSource,
    client: Client,
    zone: BalancingSettings['zone'],
  ) {
    this.key = key;
    this.port = port;
    this.#source = source;
    this.#client = client;
    this.#zone = zone;
  }

  /** Undefined: no such service. As of the last `refresh`. */
  get service(): Service | undefined {
    return this.#service;
  }

  get tiers(): readonly Tier[] {
    return this.#tiers;
  }

  get size(): number {
    return this.#endpoints.size;
  }

  get(uid: string): BalancedEndpoint | undefined {
    return this.#endpoints.get(uid);
  }

  names(): Iterable<string> {
    return this.#endpoints.keys();
  }

  configure(zone: BalancingSettings['zone']): void {
    if (zone === this.#zone) return;
    this.#zone = zone;
    this.#version = -1;
  }

  /** Takes over what has changed. Names those that have left, or undefined when nothing changed. */
  refresh(nowMs: number): readonly string[] | undefined {
    const version = this.#source.endpointsVersion(this.key);
    const service = this.#source.get(this.key);
    if (version === this.#version && service === this.#service) return undefined;
    const before = new Set(this.#endpoints.keys());
    const first = this.generation === 0;
    this.#version = version;
    this.#service = service;
    this.generation += 1;
    this.#rebuild(service, nowMs, first ? -Infinity : nowMs, before);
    for (const uid of before) this.#endpoints.delete(uid);
    return [...before];
  }

  /** Takes those that stay out of `gone`. */
  #rebuild(service: Service | undefined, nowMs: number, addedMs: number, gone: Set<string>): void {
    const ranks: { ready: BalancedEndpoint[]; declared: number }[] = [];
    for (const workload of service === undefined ? [] : this.#source.endpoints(this.key)) {
      const rank = service === undefined ? undefined : this.#rankOf(workload, service);
      if (service === undefined || rank === undefined) continue;
      const tier = (ranks[rank] ??= { ready: [], declared: 0 });
      tier.declared += 1;
      if (!workload.healthy && !service.balancing.includeUnhealthy) continue;
      let endpoint = this.#endpoints.get(workload.uid);
      if (endpoint === undefined) {
        endpoint = new BalancedEndpoint(workload, nowMs, addedMs);
        this.#endpoints.set(workload.uid, endpoint);
      }
      endpoint.workload = workload;
      gone.delete(workload.uid);
      tier.ready.push(endpoint);
    }
    // A sparse list: ranks that nobody has are skipped by `filter`.
    this.#tiers = ranks
      .filter(() => true)
      .map(({ ready, declared }) => ({
        endpoints: ready,
        declaredCount: declared,
        sums: sumsOf(ready),
      }));
  }

  /** 0 is nearest; undefined: never to be used. */
  #rankOf(workload: Workload, service: Service): number | undefined {
    const { mode, preference } = service.balancing;
    const reachable =
      workload.capacity > 0 &&
      workload.network === this.#client.network &&
      workload.addresses.length > 0 &&
      targetPort(workload, service, this.port) !== undefined;
    if (!reachable) return undefined;
    const strict = mode === 'STRICT';
    const byService = strict || (mode === 'FAILOVER' && this.#zone === 'service');
    const scopes = byService ? preference : this.#zone === 'prefer' ? BY_ZONE : [];
    const mismatch = scopes.findIndex((scope) => !sharesScope(scope, workload, this.#client));
    if (mismatch < 0) return 0;
    return strict ? undefined : scopes.length - mismatch;
  }
}

function sumsOf(endpoints: readonly BalancedEndpoint[]): readonly number[] | undefined {
  if (endpoints.every(({ workload }) => workload.capacity === 1)) return undefined;
  let sum = 0;
  return endpoints.map(({ workload }) => (sum += workload.capacity));
}
