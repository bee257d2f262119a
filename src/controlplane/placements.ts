/** Which waypoint has which resource: one that moves, or goes, is taken from where it was. */

import { setScoped, type Scoped, type WaypointName } from './waypoint-scope.ts';

export class Placements<T> {
  readonly #at = new Map<string, WaypointName>();

  /** The resource is for this waypoint now, or for none. */
  place(
    name: string,
    waypoint: WaypointName | undefined,
    value: T | undefined,
    into: Scoped<T>,
  ): void {
    const before = this.#at.get(name);
    const at = value === undefined ? undefined : waypoint;
    if (before !== undefined && before !== at) setScoped(into, before, name, undefined);
    if (at === undefined) {
      this.#at.delete(name);
    } else {
      this.#at.set(name, at);
      setScoped(into, at, name, value);
    }
  }
}
