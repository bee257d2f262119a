/**
 * What is known about one connection: its edge (who talks to whom, fixed when it opens; the labels of metrics)
 * and its record (the edge plus how it ended). Every connection makes exactly one record per reporter.
 */

import type { ErrorCode, ResponseFlag } from '../base/errors.ts';
import type { SocketAddress } from './address.ts';
import type { Workload } from './workload.ts';

/** One end, as telemetry shows it. Empty text means unknown. */
export interface EdgePeer {
  readonly workload: string;
  readonly namespace: string;
  /** SPIFFE id from a verified certificate; empty for plain text. */
  readonly principal: string;
  readonly canonicalName: string;
  readonly canonicalRevision: string;
  readonly cluster: string;
  readonly region: string;
  readonly zone: string;
}

/** Shared by many connections; never changed. */
export interface Edge {
  readonly reporter: 'source' | 'destination';
  readonly source: EdgePeer;
  readonly destination: EdgePeer;
  /** Host name, name and namespace of the addressed service; empty when a pod was addressed. */
  readonly destinationService: string;
  readonly destinationServiceName: string;
  readonly destinationServiceNamespace: string;
  readonly securityPolicy: 'mutual_tls' | 'unknown';
}

export interface ConnectionRecord {
  readonly edge: Edge;
  readonly direction: 'outbound' | 'inbound';
  /** How the bytes went between the two workloads. */
  readonly transport: 'hbone' | 'direct' | 'plaintext';
  readonly sourceAddress: SocketAddress;
  /** Where the bytes went: the tunnel's address for `hbone`, else the destination itself. */
  readonly destinationAddress: SocketAddress;
  /** The CONNECT authority for `hbone`; empty otherwise. */
  readonly hboneAuthority: string;
  /** From the reporter's point of view: towards the other side, and back. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly durationMs: number;
  readonly flag: ResponseFlag;
  /** Key of the policy that denied it; empty otherwise. */
  readonly policy: string;
  /** Keys of the AUDIT policies that matched. */
  readonly audited: readonly string[];
  readonly errorCode: ErrorCode | undefined;
  readonly error: string;
  readonly traceId: string;
  /** False when it was refused before it was opened. */
  readonly opened: boolean;
}

/** Where connections report: access log and metrics behind it. */
export interface ConnectionReporter {
  opened(edge: Edge): void;
  /** Bytes since the last call, while the connection is open. */
  progress(edge: Edge, bytesSent: number, bytesReceived: number): void;
  /** Once, at the end; `bytesSent` and `bytesReceived` are totals, of which `progress` has told a part. */
  ended(record: ConnectionRecord, toldSent: number, toldReceived: number): void;
  /** A peer whose handshake failed has no connection yet; `code` is that of the error. */
  handshakeFailed(code: string): void;
}

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
