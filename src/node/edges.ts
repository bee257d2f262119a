/**
 * Edges for telemetry, shared by the connections that have the same ends, so that labels are put together once
 * and not for every connection. Bounded; what falls out is made again.
 */

import type { Edge, EdgePeer } from '../core/connection-record.ts';
import type { Service, Workload } from '../core/workload.ts';
import type { WorkloadMetadata } from '../tunnel/metadata.ts';

const EDGES_MAX = 8192;

export const UNKNOWN_PEER: EdgePeer = {
  workload: '',
  namespace: '',
  principal: '',
  canonicalName: '',
  canonicalRevision: '',
  cluster: '',
  region: '',
  zone: '',
};

export function peerOfWorkload(workload: Workload | undefined, principal: string): EdgePeer {
  if (workload === undefined) return { ...UNKNOWN_PEER, principal };
  return {
    workload: workload.workloadName === '' ? workload.name : workload.workloadName,
    namespace: workload.namespace,
    principal,
    canonicalName: workload.canonicalName,
    canonicalRevision: workload.canonicalRevision,
    cluster: workload.clusterId,
    region: workload.locality.region,
    zone: workload.locality.zone,
  };
}

/** For a peer that is not in our view (another network): what it says of itself. */
export function peerOfMetadata(metadata: WorkloadMetadata, principal: string): EdgePeer {
  return {
    workload: metadata.workloadName,
    namespace: metadata.namespace,
    principal,
    canonicalName: metadata.canonicalName,
    canonicalRevision: metadata.canonicalRevision,
    cluster: metadata.cluster,
    region: metadata.region,
    zone: metadata.zone,
  };
}

export function metadataOf(workload: Workload): WorkloadMetadata {
  const types = { DEPLOYMENT: 'deployment', CRONJOB: 'cronjob', POD: 'pod', JOB: 'job' } as const;
  return {
    cluster: workload.clusterId,
    namespace: workload.namespace,
    workloadType: types[workload.workloadType],
    workloadName: workload.workloadName === '' ? workload.name : workload.workloadName,
    canonicalName: workload.canonicalName,
    canonicalRevision: workload.canonicalRevision,
    region: workload.locality.region,
    zone: workload.locality.zone,
  };
}

export interface EdgeParts {
  readonly reporter: 'source' | 'destination';
  readonly source: EdgePeer;
  readonly destination: EdgePeer;
  readonly service: Service | undefined;
  readonly secured: boolean;
}

export interface Edges {
  get(parts: EdgeParts): Edge;
}

function peerKey(peer: EdgePeer): string {
  const { workload, namespace, principal, canonicalName, canonicalRevision, cluster } = peer;
  return `${cluster}|${namespace}|${workload}|${principal}|${canonicalName}|${canonicalRevision}|${peer.region}|${peer.zone}`;
}

export function createEdges(): Edges {
  const known = new Map<string, Edge>();
  return {
    get({ reporter, source, destination, service, secured }) {
      const key = `${reporter}|${secured}|${service?.key ?? ''}|${peerKey(source)}|${peerKey(destination)}`;
      let edge = known.get(key);
      if (edge === undefined) {
        if (known.size >= EDGES_MAX) known.clear();
        edge = {
          reporter,
          source,
          destination,
          destinationService: service?.hostname ?? '',
          destinationServiceName: service?.name ?? '',
          destinationServiceNamespace: service?.namespace ?? '',
          securityPolicy: secured ? 'mutual_tls' : 'unknown',
        };
        known.set(key, edge);
      }
      return edge;
    },
  };
}
