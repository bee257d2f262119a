/**
 * The trust bundle of a node as it changes. Roots pushed by the control plane are the truth for their domain;
 * where none are pushed (a foreign control plane), those that come with each signed chain are.
 */

import { ok, type Result } from '../base/result.ts';
import { createTrustBundle, type TrustBundle, trustBundlesEqual } from './trust-bundle.ts';

export class TrustRoots {
  readonly #pushedDomains = new Set<string>();
  readonly #onChange: (bundle: TrustBundle) => void;
  #bundle: TrustBundle = { generation: 0, domains: new Map() };

  constructor(onChange: (bundle: TrustBundle) => void) {
    this.#onChange = onChange;
  }

  /** Generation 0 without any domain before the first roots. */
  get bundle(): TrustBundle {
    return this.#bundle;
  }

  /** An unusable list changes nothing and is returned as the error. */
  push(trustDomain: string, rootsPem: readonly string[]): Result<void> {
    const replaced = this.#replace(trustDomain, rootsPem);
    if (replaced.ok) this.#pushedDomains.add(trustDomain);
    return replaced;
  }

  /** Roots that came with a chain: none, or ignored for a domain whose roots are pushed. */
  learn(trustDomain: string, rootsPem: readonly string[]): Result<void> {
    if (rootsPem.length === 0 || this.#pushedDomains.has(trustDomain)) return ok(undefined);
    return this.#replace(trustDomain, rootsPem);
  }

  #replace(trustDomain: string, rootsPem: readonly string[]): Result<void> {
    const pems = new Map<string, readonly string[]>();
    for (const [domain, roots] of this.#bundle.domains) {
      const texts = roots.map(({ pem }) => pem);
      pems.set(domain, texts);
    }
    pems.set(trustDomain, rootsPem);
    const next = createTrustBundle(this.#bundle.generation + 1, pems);
    if (!next.ok) return next;
    if (trustBundlesEqual(next.value, this.#bundle)) return ok(undefined);
    this.#bundle = next.value;
    this.#onChange(next.value);
    return ok(undefined);
  }
}
