/**
 * Which policies the nodes have, and the order in which they change.
 *
 * A workload that names a policy which is not there is denied, and one that does not name a selector policy
 * yet is not governed by it. So: a policy is published before anybody names it (the stream's own order);
 * a selector policy goes only after everybody acknowledged that nobody names it; and a policy of a whole
 * namespace that is to govern selected workloads only stays wide until those have been told to name it; one of the
 * mesh has another key as a selector policy, and so stays beside it until then, as does one that moves to a waypoint.
 */

import type { Policy, PolicyScope } from '../core/policy.ts';
import type { Publication } from './publication.ts';

export class PublishedPolicies {
  readonly #scopes = new Map<string, PolicyScope>();
  /** What is held back until acknowledgement: the narrower policy, or its removal. */
  readonly #held = new Map<string, Policy | undefined>();

  /** Publishes a policy under its key, or its removal, now or when the order allows it. */
  set(key: string, policy: Policy | undefined, into: Publication): void {
    this.#set(key, policy, false, into);
  }

  /** Its object goes on under another key or elsewhere: it goes once everybody knows of that. */
  replace(key: string, into: Publication): void {
    this.#set(key, undefined, true, into);
  }

  #set(key: string, policy: Policy | undefined, replaced: boolean, into: Publication): void {
    const before = this.#scopes.get(key);
    const selected = before === 'WORKLOAD_SELECTOR';
    const narrows =
      policy === undefined
        ? selected || replaced
        : policy.scope === 'WORKLOAD_SELECTOR' && !selected;
    if (before !== undefined && narrows) {
      this.#held.set(key, policy);
      into.settlements.push({ kind: 'policy', key });
      return;
    }
    this.#held.delete(key);
    this.#publish(key, policy, into);
  }

  /** Everybody acknowledged: what was held back goes out. */
  settle(key: string, into: Publication): void {
    if (!this.#held.has(key)) return;
    const policy = this.#held.get(key);
    this.#held.delete(key);
    this.#publish(key, policy, into);
  }

  has(key: string): boolean {
    return this.#scopes.has(key);
  }

  #publish(key: string, policy: Policy | undefined, into: Publication): void {
    if (policy === undefined && !this.#scopes.has(key)) return;
    if (policy === undefined) this.#scopes.delete(key);
    else this.#scopes.set(key, policy.scope);
    into.policies.set(key, policy);
  }
}
