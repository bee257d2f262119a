/**
 * How many requests, and how many connections, one service port may have open at once in this process, and a short
 * fair queue before it (Envoy calls these thresholds circuit breakers).
 *
 * - The queue is bounded and each who waits has a deadline; beyond either the request is shed at once.
 * - Fair between clients: each client's requests wait in a line of their own and the lines are served in turn, and
 *   a full queue sheds the newest of the longest line, so one client's burst costs only that client.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { LimitSettings } from '../core/traffic-policy.ts';

export interface Permit {
  /** Idempotent. */
  release(): void;
}

export type Admission =
  | { readonly kind: 'admitted'; readonly permit: Permit; readonly waitedMs: number }
  | { readonly kind: 'shed'; readonly reason: 'queue-full' | 'queue-timeout' | 'aborted' };

interface Waiter {
  readonly client: string;
  readonly sinceMs: number;
  timer: Timer | undefined;
  settle: (admission: Admission) => void;
}

export class RequestLimiter {
  readonly #clock: Clock;
  #settings: LimitSettings;
  #active = 0;
  #connections = 0;
  #waiting = 0;
  /** In the order of their turn. */
  readonly #lines = new Map<string, Waiter[]>();

  constructor(settings: LimitSettings, clock: Clock) {
    this.#settings = settings;
    this.#clock = clock;
  }

  /** Requests need not enter at all. */
  get unlimited(): boolean {
    return this.#settings.requestsMax === 0 && this.#waiting === 0;
  }

  get active(): number {
    return this.#active;
  }

  get waiting(): number {
    return this.#waiting;
  }

  /** The next request is admitted at once. */
  get isOpen(): boolean {
    const { requestsMax } = this.#settings;
    return requestsMax === 0 || (this.#active < requestsMax && this.#waiting === 0);
  }

  get connections(): number {
    return this.#connections;
  }

  configure(settings: LimitSettings): void {
    this.#settings = settings;
    this.#serve();
  }

  /** A place that is free at once; undefined: `enter` says whether to wait. */
  tryEnter(): Permit | undefined {
    return this.isOpen ? this.#admit() : undefined;
  }

  /** `client`: whose turn it is. The answer is there at once unless the request has to wait. */
  enter(client: string, signal?: AbortSignal): Admission | Promise<Admission> {
    const { queueMax } = this.#settings;
    if (this.isOpen) {
      return { kind: 'admitted', permit: this.#admit(), waitedMs: 0 };
    }
    if (signal?.aborted === true) return { kind: 'shed', reason: 'aborted' };
    if (this.#waiting >= queueMax && !this.#makeRoom(client)) {
      return { kind: 'shed', reason: 'queue-full' };
    }
    return this.#wait(client, signal);
  }

  /** Undefined: there are as many as there may be. */
  openConnection(): Permit | undefined {
    const { connectionsMax } = this.#settings;
    if (connectionsMax > 0 && this.#connections >= connectionsMax) return undefined;
    this.#connections += 1;
    return new HeldPermit(this.#leaveConnection);
  }

  #admit(): Permit {
    this.#active += 1;
    return new HeldPermit(this.#leave);
  }

  readonly #leaveConnection = (): void => void (this.#connections -= 1);

  readonly #leave = (): void => {
    this.#active -= 1;
    if (this.#waiting > 0) this.#serve();
  };

  #wait(client: string, signal: AbortSignal | undefined): Promise<Admission> {
    return new Promise((resolve) => {
      const leave = (reason: 'queue-timeout' | 'aborted'): void => {
        this.#remove(waiter);
        waiter.settle({ kind: 'shed', reason });
      };
      const onAbort = (): void => leave('aborted');
      const waiter: Waiter = {
        client,
        sinceMs: this.#clock.nowMs(),
        timer: this.#clock.after(this.#settings.queueTimeoutMs, () => leave('queue-timeout')),
        settle: (admission) => {
          waiter.timer?.cancel();
          signal?.removeEventListener('abort', onAbort);
          resolve(admission);
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      const line = this.#lines.get(client);
      if (line === undefined) this.#lines.set(client, [waiter]);
      else line.push(waiter);
      this.#waiting += 1;
    });
  }

  /** Sheds the newest of the longest line, unless that would be the newcomer's own. */
  #makeRoom(client: string): boolean {
    let longest: Waiter[] = [];
    for (const line of this.#lines.values()) {
      if (line.length > longest.length) longest = line;
    }
    const own = this.#lines.get(client)?.length ?? 0;
    const last = longest.at(-1);
    if (last === undefined || longest.length <= own + 1) return false;
    this.#remove(last);
    last.settle({ kind: 'shed', reason: 'queue-full' });
    return true;
  }

  #remove(waiter: Waiter): void {
    const line = this.#lines.get(waiter.client);
    const index = line?.indexOf(waiter) ?? -1;
    if (line === undefined || index < 0) return;
    line.splice(index, 1);
    this.#waiting -= 1;
    if (line.length === 0) this.#lines.delete(waiter.client);
  }

  #hasRoom(): boolean {
    const { requestsMax } = this.#settings;
    return requestsMax === 0 || this.#active < requestsMax;
  }

  #serve(): void {
    while (this.#waiting > 0 && this.#hasRoom()) {
      const next = this.#lines.entries().next().value;
      if (next === undefined) return;
      const [client, line] = next;
      const waiter = line.shift();
      // Behind all others, or out when nobody of this client waits.
      this.#lines.delete(client);
      if (line.length > 0) this.#lines.set(client, line);
      if (waiter === undefined) continue;
      this.#waiting -= 1;
      const waitedMs = this.#clock.nowMs() - waiter.sinceMs;
      waiter.settle({ kind: 'admitted', permit: this.#admit(), waitedMs });
    }
  }
}

class HeldPermit implements Permit {
  readonly #give: () => void;
  #held = true;

  constructor(give: () => void) {
    this.#give = give;
  }

  release(): void {
    if (!this.#held) return;
    this.#held = false;
    this.#give();
  }
}
