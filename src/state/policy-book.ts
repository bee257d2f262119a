/**
 * Policies by key and by scope, of two wire types: those that enforce and our own AUDIT ones. A key may be in
 * both for the moment in which a policy changes its action; then the enforced one counts.
 */

import type { Policy } from '../core/policy.ts';
import type { PolicyBatch, PolicyView } from './contract.ts';

class PolicyTable {
  readonly #byKey = new Map<string, Policy>();
  readonly #globals = new Map<string, Policy>();
  readonly #byNamespace = new Map<string, Map<string, Policy>>();

  get size(): number {
    return this.#byKey.size;
  }

  get(key: string): Policy | undefined {
    return this.#byKey.get(key);
  }

  all(): Iterable<Policy> {
    return this.#byKey.values();
  }

  globals(): Iterable<Policy> {
    return this.#globals.values();
  }

  inNamespace(namespace: string): Iterable<Policy> {
    return this.#byNamespace.get(namespace)?.values() ?? [];
  }

  /** Whether anything changed. */
  apply(batch: PolicyBatch): boolean {
    const upserts = new Map((batch.policies ?? []).map((policy) => [policy.key, policy]));
    let changed = upserts.size > 0;
    for (const key of batch.removed ?? []) {
      if (!upserts.has(key) && this.#remove(key)) changed = true;
    }
    for (const policy of upserts.values()) {
      this.#remove(policy.key);
      this.#byKey.set(policy.key, policy);
      if (policy.scope === 'GLOBAL') this.#globals.set(policy.key, policy);
      if (policy.scope === 'NAMESPACE') {
        const listed = this.#byNamespace.get(policy.namespace) ?? new Map<string, Policy>();
        this.#byNamespace.set(policy.namespace, listed.set(policy.key, policy));
      }
    }
    return changed;
  }

  #remove(key: string): boolean {
    const policy = this.#byKey.get(key);
    if (policy === undefined) return false;
    this.#byKey.delete(key);
    this.#globals.delete(key);
    const listed = this.#byNamespace.get(policy.namespace);
    if (listed?.delete(key) === true && listed.size === 0) {
      this.#byNamespace.delete(policy.namespace);
    }
    return true;
  }
}

export class PolicyBook implements PolicyView {
  version = 0;
  synced = false;
  readonly #enforced = new PolicyTable();
  readonly #audit = new PolicyTable();

  get size(): number {
    return this.#enforced.size + this.#audit.size;
  }

  get(key: string): Policy | undefined {
    return this.#enforced.get(key) ?? this.#audit.get(key);
  }

  /** Enforced ones last, so that whoever gathers by key ends with them. */
  *globals(): Iterable<Policy> {
    yield* this.#audit.globals();
    yield* this.#enforced.globals();
  }

  *inNamespace(namespace: string): Iterable<Policy> {
    yield* this.#audit.inNamespace(namespace);
    yield* this.#enforced.inNamespace(namespace);
  }

  *all(): Iterable<Policy> {
    yield* this.#audit.all();
    yield* this.#enforced.all();
  }

  applyEnforced(batch: PolicyBatch): boolean {
    return this.#count(this.#enforced.apply(batch));
  }

  applyAudit(batch: PolicyBatch): boolean {
    return this.#count(this.#audit.apply(batch));
  }

  markSynced(): boolean {
    const changed = !this.synced;
    this.synced = true;
    return this.#count(changed);
  }

  #count(changed: boolean): boolean {
    if (changed) this.version++;
    return changed;
  }
}
