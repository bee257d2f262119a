/**
 * Looks for the network namespaces of enrolled pods that have none yet: what the CNI told, or by their processes
 * (design 3.7). One look at a time, each for all that are wanted then.
 *
 * Promises: whoever waits for a search waits until every pod that was wanted meanwhile was looked for once, those
 * included that became known while it ran. A look that fails is logged, and ends the search; the next one tries again.
 */

import type { Logger } from '../base/logger.ts';
import type { PodUid } from '../core/pod.ts';
import type { PodNamespace, PodNamespaces } from '../redirect/namespaces.ts';

export interface NamespaceSearchOptions {
  readonly logger: Logger;
  readonly namespaces: Pick<PodNamespaces, 'findAll'>;
  /** Enrolled pods whose namespace is not known, now. */
  readonly wanted: () => ReadonlySet<PodUid>;
  readonly found: (uid: PodUid, namespace: PodNamespace) => void;
}

/** Starts a search, or joins the one that runs. Never rejects. */
export type NamespaceSearch = () => Promise<void>;

export function createNamespaceSearch(options: NamespaceSearchOptions): NamespaceSearch {
  const { logger, namespaces, wanted, found } = options;
  let running: Promise<void> | undefined;

  const lookForAll = async (): Promise<void> => {
    // Pods become known many at once: one look for all of them.
    await Promise.resolve();
    const lookedFor = new Set<PodUid>();
    for (;;) {
      const missing = new Set([...wanted()].filter((uid) => !lookedFor.has(uid)));
      if (missing.size === 0) return;
      for (const uid of missing) lookedFor.add(uid);
      for (const [uid, namespace] of await namespaces.findAll(missing)) found(uid, namespace);
    }
  };

  return () => {
    running ??= lookForAll()
      .catch((error: unknown) => logger.warn('cannot look for pod namespaces', { error }))
      .finally(() => (running = undefined));
    return running;
  };
}
