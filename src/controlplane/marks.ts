/** What must be derived again. Marking is cheap and never walks; walks are queued and done in small steps. */

import type { ObjectKey } from './objects.ts';
import type { PodName } from './pod-registry.ts';
import type { ServiceName, SliceName } from './service-registry.ts';

export class Marks {
  readonly pods: Set<PodName> = new Set();
  readonly services: Set<ServiceName> = new Set();
  /** What their waypoints know of them. */
  readonly bound: Set<ServiceName> = new Set();
  /** The traffic policies that bear on them. */
  readonly traffic: Set<ServiceName> = new Set();
  /** Policies that waypoints enforce. */
  readonly httpPolicies: Set<ObjectKey> = new Set();
  /** Traffic policies themselves: what is to be said of them. */
  readonly trafficPolicies: Set<ObjectKey> = new Set();
  readonly slices: Set<SliceName> = new Set();
  readonly namespaces: Set<string> = new Set();
  readonly nodes: Set<string> = new Set();
  readonly authorizations: Set<ObjectKey> = new Set();
  readonly peers: Set<ObjectKey> = new Set();
  readonly #walks: Iterator<undefined>[] = [];

  get isEmpty(): boolean {
    const { pods, services, bound, traffic, slices, namespaces, nodes } = this;
    const { authorizations, peers, httpPolicies, trafficPolicies } = this;
    const policies = [authorizations, peers, httpPolicies, trafficPolicies];
    const sets = [pods, services, bound, traffic, slices, namespaces, nodes, ...policies];
    return this.#walks.length === 0 && sets.every((set) => set.size === 0);
  }

  /** Marks, later and step by step, everything of `items` that `mark` wants marked. */
  walk<T>(items: Iterable<T>, mark: (item: T) => void): void {
    this.#walks.push(steps(items, mark));
  }

  *runWalks(): Generator<undefined> {
    for (let walk = this.#walks.shift(); walk !== undefined; walk = this.#walks.shift()) {
      for (let step = walk.next(); step.done !== true; step = walk.next()) yield;
    }
  }
}

const WALK_STEP = 64;

/** The sets walked may change between steps: a JavaScript Set allows that, and new items mark themselves. */
function* steps<T>(items: Iterable<T>, mark: (item: T) => void): Generator<undefined> {
  let count = 0;
  for (const item of items) {
    mark(item);
    if (++count % WALK_STEP === 0) yield;
  }
}

/** Empties a set while going through it; what is added meanwhile comes too. */
export function* take<T>(set: Set<T>): Iterable<T> {
  for (const item of set) {
    set.delete(item);
    yield item;
  }
}
