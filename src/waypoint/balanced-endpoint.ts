/**
 * What a waypoint keeps of one endpoint of one service port: its load and how it has been answering. One process,
 * one view: all clients of the waypoint share it, so it trips sooner than a proxy per client would.
 */

import type { Workload } from '../core/workload.ts';
import type { EndpointDestination } from '../state/contract.ts';

/** Linkerd's peak EWMA: an idle estimate fades with this time constant. */
const DECAY_MS = 10_000;
/** What an endpoint is taken for before its first answer. */
const INITIAL_MS = 30;
/** A new endpoint that answers at once must not be flooded. */
const FLOOR_MS = 1;

export class BalancedEndpoint {
  workload: Workload;
  /** Requests sent to it and not yet answered. */
  active = 0;
  /** How it was reached last. */
  target: EndpointDestination | undefined;
  /** Start of its slow start; -Infinity for those that were there from the beginning. */
  readonly addedMs: number;
  #latencyMs = INITIAL_MS;
  #latencyAtMs: number;

  constructor(workload: Workload, nowMs: number, addedMs: number) {
    this.workload = workload;
    this.addedMs = addedMs;
    this.#latencyAtMs = nowMs;
  }

  /** Expected time in its queue: decayed latency × (active + 1), per unit of capacity. */
  ewmaLoad(nowMs: number): number {
    const faded = this.#latencyMs * Math.exp(-this.#elapsedMs(nowMs) / DECAY_MS);
    return (Math.max(FLOOR_MS, faded) * (this.active + 1)) / this.workload.capacity;
  }

  /** One answer's time to the first byte. A peak counts at once, better news slowly. */
  observe(latencyMs: number, nowMs: number): void {
    const share = Math.exp(-this.#elapsedMs(nowMs) / DECAY_MS);
    const faded = this.#latencyMs * share;
    this.#latencyMs =
      latencyMs > faded ? latencyMs : latencyMs + (this.#latencyMs - latencyMs) * share;
    this.#latencyAtMs = nowMs;
  }

  #elapsedMs(nowMs: number): number {
    return Math.max(0, nowMs - this.#latencyAtMs);
  }
}
