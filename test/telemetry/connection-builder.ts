/** Edges and records of connections for the telemetry tests: valid defaults, any part replaced. */

import { unwrap } from '../../src/base/result.ts';
import { parseSocketAddress } from '../../src/core/address.ts';
import type { ConnectionRecord, Edge, EdgePeer } from '../../src/core/connection-record.ts';

const peer = (name: string): EdgePeer => ({
  workload: `${name}-v1`,
  namespace: 'shop',
  principal: `spiffe://cluster.local/ns/shop/sa/${name}`,
  canonicalName: name,
  canonicalRevision: 'v1',
  cluster: 'Kubernetes',
  region: 'eu',
  zone: '',
});

export function buildEdge(parts: Partial<Edge> = {}): Edge {
  return {
    reporter: 'source',
    source: peer('web'),
    destination: peer('cart'),
    destinationService: 'cart.shop.svc.cluster.local',
    destinationServiceName: 'cart',
    destinationServiceNamespace: 'shop',
    securityPolicy: 'mutual_tls',
    ...parts,
  };
}

/** An edge whose service is named by somebody hostile. */
export function buildEdgeTo(host: string): Edge {
  return buildEdge({ destinationService: host, destination: { ...peer('x'), workload: host } });
}

export function buildRecord(parts: Partial<ConnectionRecord> = {}): ConnectionRecord {
  return {
    edge: buildEdge(),
    direction: 'outbound',
    transport: 'hbone',
    sourceAddress: unwrap(parseSocketAddress('10.0.1.2:40000')),
    destinationAddress: unwrap(parseSocketAddress('10.0.2.3:15008')),
    hboneAuthority: '10.0.2.3:80',
    bytesSent: 100,
    bytesReceived: 2000,
    durationMs: 12.4,
    flag: '-',
    policy: '',
    audited: [],
    errorCode: undefined,
    error: '',
    traceId: '',
    opened: true,
    ...parts,
  };
}
