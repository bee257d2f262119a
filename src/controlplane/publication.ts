/** What one batch of changes means for the nodes, as plain values, before it is encoded. */

import type { LocalPod, NodeSettings, PodUid } from '../core/pod.ts';
import type { Policy } from '../core/policy.ts';
import type { Service, ServiceKey, Workload } from '../core/workload.ts';

/** Something that may go on only once nodes have acknowledged what this batch publishes. */
export type Settlement =
  | {
      readonly kind: 'pod';
      readonly podUid: PodUid;
      readonly epoch: number;
      /** The one node that must acknowledge; undefined: all connected ones. */
      readonly node: string | undefined;
    }
  | { readonly kind: 'policy'; readonly key: string };

/** Undefined as a value: no longer there. */
export interface Publication {
  readonly policies: Map<string, Policy | undefined>;
  readonly services: Map<ServiceKey, Service | undefined>;
  /** By uid. */
  readonly workloads: Map<string, Workload | undefined>;
  /** By node, then pod. */
  readonly localPods: Map<string, Map<PodUid, LocalPod | undefined>>;
  readonly nodeSettings: Map<string, NodeSettings | undefined>;
  readonly settlements: Settlement[];
}

export function createPublication(): Publication {
  return {
    policies: new Map(),
    services: new Map(),
    workloads: new Map(),
    localPods: new Map(),
    nodeSettings: new Map(),
    settlements: [],
  };
}

export function setLocalPod(
  publication: Publication,
  node: string,
  podUid: PodUid,
  pod: LocalPod | undefined,
): void {
  if (node === '') return;
  const pods = publication.localPods.get(node);
  if (pods === undefined) publication.localPods.set(node, new Map([[podUid, pod]]));
  else pods.set(podUid, pod);
}
