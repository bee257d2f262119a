/**
 * Who is served next: at most a few at once, the most urgent first, first come first served within one
 * urgency. An item is in the queue once or running once; asking again can only make it more urgent. Bounded
 * by its caller, who adds only items it keeps itself.
 */

/** A connection waits · somebody will need it soon · the old one is still good. */
export const URGENCIES = ['connection', 'prefetch', 'renewal'] as const;
export type Urgency = (typeof URGENCIES)[number];

export class SigningQueue<T extends object> {
  readonly #concurrency: number;
  readonly #run: (item: T) => Promise<void>;
  /** By urgency; insertion order is the order within one. */
  readonly #waiting: readonly Set<T>[] = URGENCIES.map(() => new Set());
  readonly #running = new Set<T>();

  /** `run` must settle and must not reject. */
  constructor(concurrency: number, run: (item: T) => Promise<void>) {
    this.#concurrency = concurrency;
    this.#run = run;
  }

  /** Runs it now or when its turn comes; nothing while it is running. */
  add(item: T, urgency: Urgency): void {
    if (this.#running.has(item)) return;
    const level = URGENCIES.indexOf(urgency);
    const known = this.#waiting.findIndex((waiting) => waiting.has(item));
    if (known >= 0 && known <= level) return;
    this.remove(item);
    this.#waiting[level]?.add(item);
    this.#pump();
  }

  /** Takes it out if it waits. */
  remove(item: T): void {
    for (const waiting of this.#waiting) waiting.delete(item);
  }

  #pump(): void {
    for (const waiting of this.#waiting) {
      for (const item of waiting) {
        if (this.#running.size >= this.#concurrency) return;
        waiting.delete(item);
        this.#running.add(item);
        void this.#run(item).finally(() => {
          this.#running.delete(item);
          this.#pump();
        });
      }
    }
  }
}
