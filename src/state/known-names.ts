/**
 * Which names of the mesh are known, and who waits for one. Without a `Demand` everything is known once the
 * first snapshot is complete; with it, what was asked for and answered.
 *
 * - `asked`: subscribed to, by this state. An answer may be a resource or "there is none" (`absent`).
 * - What is absent stays subscribed, so that its appearance is told; past the bound the oldest is
 *   unsubscribed and will be asked for again (a pod that scans addresses must not fill the memory).
 */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Demand, WhenKnownOptions } from './contract.ts';

/** Connections waiting at once. */
const WAITERS_MAX = 4096;
/** "There is none" answers remembered at once. */
const ABSENT_MAX = 16_384;
const TIMEOUT_DEFAULT_MS = 5_000;

interface Waiter {
  readonly names: readonly string[];
  readonly resolve: () => void;
}

export interface KnownNamesOptions {
  readonly clock: Clock;
  readonly demand: Demand | undefined;
  /** Whether a resource of that name, or with that address, is held. */
  isHeld(name: string): boolean;
}

export class KnownNames {
  synced = false;
  readonly #options: KnownNamesOptions;
  readonly #asked = new Set<string>();
  /** Oldest first. Always a part of `asked`. */
  readonly #absent = new Set<string>();
  readonly #waiters = new Set<Waiter>();
  /** Waiters per name. */
  readonly #awaited = new Map<string, number>();

  constructor(options: KnownNamesOptions) {
    this.#options = options;
  }

  get onDemand(): boolean {
    return this.#options.demand !== undefined;
  }

  get waiterCount(): number {
    return this.#waiters.size;
  }

  get absentCount(): number {
    return this.#absent.size;
  }

  isKnown(name: string): boolean {
    if (!this.onDemand) return this.synced;
    return this.#absent.has(name) || this.#options.isHeld(name);
  }

  /** Names that somebody waits for. */
  awaited(): Iterable<string> {
    return this.#awaited.keys();
  }

  /** "There is none", if it was asked for: what was not asked for may exist unseen. */
  markAbsent(name: string): void {
    if (!this.#asked.has(name)) return;
    this.#absent.delete(name);
    this.#absent.add(name);
    const [oldest] = this.#absent;
    if (this.#absent.size > ABSENT_MAX && oldest !== undefined) this.#forget(oldest);
  }

  markPresent(name: string): void {
    this.#absent.delete(name);
  }

  /** After every change: those whose names are all known go on. */
  settle(): void {
    for (const waiter of this.#waiters) if (this.#allKnown(waiter.names)) waiter.resolve();
  }

  whenKnown(names: readonly string[], options: WhenKnownOptions = {}): Promise<void> {
    const { clock, demand } = this.#options;
    const { signal, timeoutMs = TIMEOUT_DEFAULT_MS } = options;
    if (this.#allKnown(names)) return Promise.resolve();
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    if (this.#waiters.size >= WAITERS_MAX) {
      const message = `Cannot wait for ${shown(names)}: ${WAITERS_MAX} connections wait already`;
      return Promise.reject(new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'LIMIT' }));
    }
    const waiting = new Promise<void>((resolve, reject) => {
      const end = (): void => {
        timer.cancel();
        signal?.removeEventListener('abort', onAbort);
        this.#stopWaiting(waiter);
      };
      const onAbort = (): void => {
        end();
        reject(signal?.reason as Error);
      };
      const timer = clock.after(timeoutMs, () => {
        end();
        reject(unanswered(names, timeoutMs));
      });
      const waiter: Waiter = {
        names,
        resolve: () => {
          end();
          resolve();
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiters.add(waiter);
      for (const name of names) this.#awaited.set(name, (this.#awaited.get(name) ?? 0) + 1);
    });
    const unasked = names.filter((name) => !this.#asked.has(name) && !this.isKnown(name));
    for (const name of unasked) this.#asked.add(name);
    // Last, for an answer may come within the call.
    if (unasked.length > 0) demand?.subscribe(unasked);
    return waiting;
  }

  #allKnown(names: readonly string[]): boolean {
    return this.onDemand ? names.every((name) => this.isKnown(name)) : this.synced;
  }

  #stopWaiting(waiter: Waiter): void {
    if (!this.#waiters.delete(waiter)) return;
    for (const name of waiter.names) {
      const left = (this.#awaited.get(name) ?? 1) - 1;
      if (left > 0) {
        this.#awaited.set(name, left);
        continue;
      }
      this.#awaited.delete(name);
      // Asked in vain, and nobody waits any more: without this, names would pile up while there is no answer.
      if (this.#asked.has(name) && !this.isKnown(name)) this.#forget(name);
    }
  }

  #forget(name: string): void {
    this.#absent.delete(name);
    this.#asked.delete(name);
    this.#options.demand?.unsubscribe([name]);
  }
}

function unanswered(names: readonly string[], timeoutMs: number): MeshError {
  const message = `No answer about ${shown(names)} within ${timeoutMs} ms; is the controller reachable?`;
  return new MeshError('MESH_CONFIG_UNAVAILABLE', message, { flag: 'CONFIG', retryable: true });
}

function shown(names: readonly string[]): string {
  return names.length === 0 ? 'the first snapshot' : names.map((name) => `"${name}"`).join(', ');
}
