/** A set of callbacks. They run in the order of arrival; one that stops another during a call is obeyed. */

import type { Unsubscribe } from './contract.ts';

export class Listeners<Event> {
  readonly #callbacks = new Set<(event: Event) => void>();

  get size(): number {
    return this.#callbacks.size;
  }

  add(callback: (event: Event) => void): Unsubscribe {
    // Its own function, so that adding one callback twice makes two listeners.
    const own = (event: Event): void => callback(event);
    this.#callbacks.add(own);
    return () => void this.#callbacks.delete(own);
  }

  emit(event: Event): void {
    for (const callback of Array.from(this.#callbacks)) {
      if (this.#callbacks.has(callback)) callback(event);
    }
  }
}
