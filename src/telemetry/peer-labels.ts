/** How Istio's metrics label both ends of a connection or request; absent values are `unknown`, as Istio writes them. */

import type { ResponseFlag } from '../base/errors.ts';
import type { EdgePeer } from '../core/connection-record.ts';
import type { RequestEdge } from '../core/request-record.ts';

const PEER_LABELS = [
  'workload',
  'canonical_service',
  'canonical_revision',
  'workload_namespace',
  'principal',
  'app',
  'version',
  'cluster',
] as const;

export const SOURCE_LABELS: readonly string[] = PEER_LABELS.map((name) => `source_${name}`);
export const DESTINATION_LABELS: readonly string[] = PEER_LABELS.map(
  (name) => `destination_${name}`,
);

export const TRAFFIC_LABELS: readonly string[] = [
  'reporter',
  ...SOURCE_LABELS,
  'destination_service',
  'destination_service_namespace',
  'destination_service_name',
  ...DESTINATION_LABELS,
  'request_protocol',
  'response_flags',
  'connection_security_policy',
  'source_region',
  'source_zone',
  'destination_region',
  'destination_zone',
];

export function orUnknown(text: string): string {
  return text === '' ? 'unknown' : text;
}

/** In the order of `SOURCE_LABELS` and `DESTINATION_LABELS`. */
export function peerValues(peer: EdgePeer): string[] {
  return [
    peer.workload,
    peer.canonicalName,
    peer.canonicalRevision,
    peer.namespace,
    peer.principal,
    peer.canonicalName,
    peer.canonicalRevision,
    peer.cluster,
  ].map(orUnknown);
}

/** Values of `TRAFFIC_LABELS`, for a connection. */
export function trafficValues(
  reporter: string,
  edge: RequestEdge,
  flag: ResponseFlag,
  securityPolicy: string,
): string[] {
  const { source, destination } = edge;
  return [
    reporter,
    ...peerValues(source),
    orUnknown(edge.destinationService),
    orUnknown(edge.destinationServiceNamespace),
    orUnknown(edge.destinationServiceName),
    ...peerValues(destination),
    'tcp',
    flag,
    securityPolicy,
    orUnknown(source.region),
    orUnknown(source.zone),
    orUnknown(destination.region),
    orUnknown(destination.zone),
  ];
}
