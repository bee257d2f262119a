/**
 * The record of one request while it is being made: what the exchange learns is written down here where it is learnt,
 * and handed over as it is when the request has ended, so that nothing is copied. Nothing changes it afterwards.
 */

import type { ErrorCode, MeshError, ResponseFlag } from '../base/errors.ts';
import type { SocketAddress } from '../core/address.ts';
import { UNKNOWN_PEER, type EdgePeer } from '../core/connection-record.ts';
import type { RequestRecord, RequestTrace } from '../core/request-record.ts';
import type { HttpRule, RouteRef } from '../core/route.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import type { AttemptTarget } from './attempt.ts';
import type { Verdict } from './guard.ts';
import { grpcStatusIn } from './local-answer.ts';
import { policyOf } from './record-base.ts';
import type { HttpRequest } from './request.ts';
import { headerValue } from './route-candidate.ts';
import type { ServedConnection } from './served-connection.ts';

const NONE: readonly string[] = [];

export class ExchangeRecord implements RequestRecord {
  readonly source: EdgePeer;
  destination: EdgePeer = UNKNOWN_PEER;
  readonly destinationService: string;
  readonly destinationServiceName: string;
  readonly destinationServiceNamespace: string;
  protocol: 'http' | 'grpc' = 'http';
  readonly httpVersion: string;
  method = '';
  authority = '';
  path = '';
  userAgent = '';
  requestId = '';
  route: RouteRef | undefined;
  routeRule = '';
  backend = '';
  requestPrincipal = '';
  status = 0;
  grpcStatus = -1;
  flag: ResponseFlag = '-';
  policy = '';
  audited: readonly string[] = NONE;
  wouldDeny: readonly string[] = NONE;
  errorCode: ErrorCode | undefined;
  error = '';
  readonly sourceAddress: SocketAddress;
  upstreamAddress: SocketAddress | undefined;
  attempts = 0;
  requestBytes = 0;
  responseBytes = 0;
  readonly startWallMs: number;
  durationMs = 0;
  upstreamMs: number | undefined;
  trace: RequestTrace | undefined;

  constructor(connection: ServedConnection, version: 1 | 2, startWallMs: number) {
    const { service } = connection.addressed;
    this.source = connection.sourcePeer;
    this.sourceAddress = connection.sourceAddress;
    this.destinationService = service?.hostname ?? '';
    this.destinationServiceName = service?.name ?? '';
    this.destinationServiceNamespace = service?.namespace ?? '';
    this.httpVersion = version === 2 ? 'HTTP/2' : 'HTTP/1.1';
    this.startWallMs = startWallMs;
  }

  /** It was understood. */
  asked(request: HttpRequest): void {
    this.protocol = request.isGrpc ? 'grpc' : 'http';
    this.method = request.method;
    this.authority = request.target.authority;
    this.path = request.target.path;
  }

  /** It was not: what was received is written down. */
  received(headers: HeaderList): void {
    this.method = headerValue(headers, ':method') ?? '';
    this.authority = headerValue(headers, ':authority') ?? '';
    this.path = headerValue(headers, ':path') ?? '';
  }

  judged(verdict: Verdict): void {
    this.requestPrincipal = verdict.principal?.principal ?? '';
    this.audited = verdict.audited;
    this.wouldDeny = verdict.wouldDeny;
  }

  routed(rule: HttpRule): void {
    this.route = rule.route;
    this.routeRule = rule.name === '' ? String(rule.index) : rule.name;
  }

  /** Another try. */
  sentTo(target: AttemptTarget, destination: EdgePeer): void {
    this.attempts++;
    this.destination = destination;
    this.upstreamAddress = target.address;
  }

  /** A head or trailers of a gRPC call's answer, which may say how it ended. */
  grpcEnded(headers: HeaderList): void {
    const status = grpcStatusIn(headers);
    if (status >= 0) this.grpcStatus = status;
  }

  get knownGrpcStatus(): number | undefined {
    return this.grpcStatus < 0 ? undefined : this.grpcStatus;
  }

  /** Why it did not go well. */
  failed(flag: ResponseFlag, error: MeshError | undefined): void {
    this.flag = flag;
    if (error === undefined) return;
    this.policy = policyOf(error);
    this.errorCode = error.code;
    this.error = error.message;
  }
}
