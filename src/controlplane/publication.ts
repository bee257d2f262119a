/** What one batch of changes means for the nodes, as plain values, before it is encoded. */

import type { HttpPolicy, RequestAuthentication } from '../core/http-policy.ts';
import type { LocalPod, NodeSettings, PodUid } from '../core/pod.ts';
import type { Policy } from '../core/policy.ts';
import type { WaypointService } from '../core/route.ts';
import type { ServiceTraffic } from '../core/traffic-policy.ts';
import type { Service, ServiceKey, Workload } from '../core/workload.ts';
import type { Scoped } from './waypoint-scope.ts';

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
  /** Namespaces whose label enrols their pods. */
  readonly enrolledNamespaces: Map<string, true | undefined>;
  readonly nodeSettings: Map<string, NodeSettings | undefined>;
  /** For waypoints alone, each kind by waypoint: services by key. */
  readonly waypointServices: Scoped<WaypointService>;
  readonly httpPolicies: Scoped<HttpPolicy>;
  readonly requestAuthentications: Scoped<RequestAuthentication>;
  readonly traffic: Scoped<ServiceTraffic>;
  readonly settlements: Settlement[];
}

export function createPublication(): Publication {
  return {
    policies: new Map(),
    services: new Map(),
    workloads: new Map(),
    localPods: new Map(),
    enrolledNamespaces: new Map(),
    nodeSettings: new Map(),
    waypointServices: new Map(),
    httpPolicies: new Map(),
    requestAuthentications: new Map(),
    traffic: new Map(),
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
