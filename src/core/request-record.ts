/**
 * What is known about one request through a waypoint when it has ended. Every request makes exactly one record, and so
 * does every connection that is not HTTP (`protocol: 'tcp'`).
 */

import type { ErrorCode, ResponseFlag } from '../base/errors.ts';
import type { SocketAddress } from './address.ts';
import type { EdgePeer } from './connection-record.ts';
import type { RouteRef } from './route.ts';

export interface RequestRecord {
  /** The client, by the identity of its tunnel. */
  readonly source: EdgePeer;
  /** The endpoint that was asked last; unknown (`UNKNOWN_PEER`) when none was. */
  readonly destination: EdgePeer;
  /** Of the service that was addressed; empty when a pod was. */
  readonly destinationService: string;
  readonly destinationServiceName: string;
  readonly destinationServiceNamespace: string;
  readonly protocol: 'http' | 'grpc' | 'tcp';
  /** As the client speaks it: `HTTP/1.1`, `HTTP/2`; empty for tcp. */
  readonly httpVersion: string;
  readonly method: string;
  readonly authority: string;
  /** Normalised, without the query; as received when it could not be normalised. */
  readonly path: string;
  readonly userAgent: string;
  readonly requestId: string;
  /** The route and rule that served it. */
  readonly route: RouteRef | undefined;
  readonly routeRule: string;
  /** `namespace/hostname:port` of the chosen backend; empty when none was. */
  readonly backend: string;
  /** `iss/sub` of a verified token; empty without one. */
  readonly requestPrincipal: string;
  /** 0: the client got no response. */
  readonly status: number;
  /** -1: none. */
  readonly grpcStatus: number;
  readonly flag: ResponseFlag;
  /** Key of the policy that denied it; empty otherwise. */
  readonly policy: string;
  /** Keys of the AUDIT policies that matched. */
  readonly audited: readonly string[];
  /** Keys of the dry-run policies that would have denied it. */
  readonly wouldDeny: readonly string[];
  readonly errorCode: ErrorCode | undefined;
  readonly error: string;
  readonly sourceAddress: SocketAddress;
  /** The endpoint; undefined when none was asked. */
  readonly upstreamAddress: SocketAddress | undefined;
  /** Tries upstream; 0: none. */
  readonly attempts: number;
  /** Body bytes from and to the client. */
  readonly requestBytes: number;
  readonly responseBytes: number;
  readonly startWallMs: number;
  readonly durationMs: number;
  /** From sending the request upstream to the head of the response; undefined: none came. */
  readonly upstreamMs: number | undefined;
  /** What `begin` returned. */
  readonly trace: RequestTrace | undefined;
}

/** Who asks whom. */
export type RequestEdge = Pick<
  RequestRecord,
  | 'source'
  | 'destination'
  | 'destinationService'
  | 'destinationServiceName'
  | 'destinationServiceNamespace'
>;

/** Fields to set on a request that goes upstream, in place of those of the same name. */
type TraceFields = readonly (readonly [name: string, value: string])[];

/** The place of a request in a trace, made by the reporter and carried by the request. */
export interface RequestTrace {
  /** For copies of the request, which are no tries. */
  readonly headers: TraceFields;
  /** A try at an endpoint begins now. */
  beginTry(address: SocketAddress, principal: string): TryTrace;
}

/** One try in a trace. */
export interface TryTrace {
  readonly headers: TraceFields;
  /** It is over; once. Status 0 and gRPC status -1: none came. `error`: what became of it instead of a whole answer. */
  ended(status: number, grpcStatus: number, error: ErrorCode | undefined): void;
}

/** Where requests report: access log, metrics and spans behind it. */
export interface RequestReporter {
  /** A request begins; `headers` are the client's. Undefined: it is not traced, its trace headers pass as they are. */
  begin(headers: readonly (readonly [string, string])[]): RequestTrace | undefined;
  /** Of a gRPC call, now and then and at its end: how many more of its messages have passed. */
  messages(edge: RequestEdge, requestCount: number, responseCount: number): void;
  /** Once, at the end. */
  ended(record: RequestRecord): void;
}
