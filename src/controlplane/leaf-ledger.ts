/**
 * Who holds certificates of which issuer, as far as this controller issued them: how it knows that an old
 * root can go. What it did not issue itself (before a restart) may live until the longest life has passed.
 */

import type { Clock } from '../base/clock.ts';
import type { SpiffeId } from '../core/identity.ts';

interface Leaf {
  readonly issuerId: string;
  readonly notAfterMs: number;
}

export interface LeafLedger {
  record(node: string, identity: SpiffeId, leaf: Leaf): void;
  /** Those of `holders` whose last certificate is another issuer's, or unknown, and may still be valid. */
  outdated(holders: Iterable<Holder>, issuerId: string): Holder[];
}

export interface Holder {
  readonly node: string;
  readonly identity: SpiffeId;
  /** It holds a certificate even if this controller does not remember issuing one. */
  readonly surely: boolean;
}

/** Node and identity pairs; expired ones are dropped when it fills. */
const LEAVES_MAX = 200_000;

/**
 * `shared`: other controllers issue too, at any time. Then a certificate that is unknown here may be as young as the
 * moment at which the present issuer began, and not only as this controller's start.
 */
export function createLeafLedger(
  clock: Clock,
  leafTtlMaxMs: number,
  shared: boolean = false,
): LeafLedger {
  const startMs = clock.wallMs();
  let lastIssuerId = '';
  let issuerSinceMs = startMs;
  const leaves = new Map<string, Leaf>();
  // A node name has no space.
  const keyOf = (node: string, identity: SpiffeId): string => `${node} ${identity}`;
  return {
    record(node, identity, leaf) {
      if (leaves.size >= LEAVES_MAX) {
        const nowMs = clock.wallMs();
        for (const [key, { notAfterMs }] of leaves) if (notAfterMs < nowMs) leaves.delete(key);
      }
      // Full of valid ones: what is not recorded counts as unknown, which only delays a rotation.
      if (leaves.size < LEAVES_MAX) leaves.set(keyOf(node, identity), leaf);
    },
    outdated(holders, issuerId) {
      const nowMs = clock.wallMs();
      if (issuerId !== lastIssuerId) issuerSinceMs = nowMs;
      lastIssuerId = issuerId;
      const unknownSinceMs = shared ? issuerSinceMs : startMs;
      const found: Holder[] = [];
      for (const holder of holders) {
        const leaf = leaves.get(keyOf(holder.node, holder.identity));
        if (leaf === undefined ? !holder.surely : leaf.issuerId === issuerId) continue;
        const notAfterMs = leaf?.notAfterMs ?? unknownSinceMs + leafTtlMaxMs;
        if (nowMs < notAfterMs) found.push(holder);
      }
      return found;
    },
  };
}
