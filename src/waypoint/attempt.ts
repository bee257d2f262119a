/** One try of a request at one endpoint: from opening it to its last byte, told to the exchange it belongs to. */

import type { Clock, Timer } from '../base/clock.ts';
import type { ErrorCode, MeshError } from '../base/errors.ts';
import type { TryTrace } from '../core/request-record.ts';
import type { Workload } from '../core/workload.ts';
import { H2_ERROR, type HeaderList } from '../http/h2/contract.ts';
import type { HttpStream, HttpStreamHandlers } from '../http/http-stream.ts';
import type { Visit } from './destination.ts';
import { grpcStatusIn, isGrpcContent } from './local-answer.ts';
import type {
  UpstreamEndpoint,
  UpstreamHandlers,
  UpstreamRequest,
  Upstreams,
} from './upstreams.ts';

/** Who is tried. */
export interface AttemptTarget extends UpstreamEndpoint {
  readonly workload: Workload;
}

/** What a try had too little time for: its connection, or its answer. */
export type TryLimit = 'connect' | 'per_try';

export interface AttemptOwner {
  /** The request's head has gone out. */
  onOpen(attempt: Attempt, stream: HttpStream): void;
  onInformational(headers: HeaderList): void;
  onResponse(attempt: Attempt, headers: HeaderList, endStream: boolean): void;
  onResponseData(attempt: Attempt, chunk: Buffer): void;
  onResponseTrailers(attempt: Attempt, headers: HeaderList): void;
  onResponseEnd(attempt: Attempt): void;
  /** It is over without a complete response. Once; nothing follows. */
  onFailed(attempt: Attempt, error: MeshError): void;
  /** It was given up, because its answer had not begun, or ended, in time. Once; nothing follows. */
  onLate(attempt: Attempt, limit: TryLimit): void;
  onUpstreamDrain(): void;
}

export class Attempt implements HttpStreamHandlers, UpstreamHandlers {
  readonly target: AttemptTarget;
  /** What balancing and outlier detection know of it; undefined: the pod that was addressed. */
  readonly visit: Visit | undefined;
  readonly #owner: AttemptOwner;
  readonly #trace: TryTrace | undefined;
  #status = 0;
  #grpcStatus = -1;
  stream: HttpStream | undefined;
  /** On a connection that had served others: its end may have crossed our request. */
  reused = false;
  /** Its final head has come. */
  headSeen = false;
  /** Its upstream was told with the head that nothing follows. */
  headOnly = false;
  /** It probes its endpoint by a call of gRPC, whose head alone says nothing. */
  #provenByData = false;
  #over = false;
  #giveUp: (() => void) | undefined;
  #timer: Timer | undefined;
  #limitedUntil: 'head' | 'end' = 'head';

  constructor(
    owner: AttemptOwner,
    target: AttemptTarget,
    visit: Visit | undefined,
    trace?: TryTrace,
  ) {
    this.#owner = owner;
    this.#trace = trace;
    this.target = target;
    this.visit = visit;
  }

  get over(): boolean {
    return this.#over;
  }

  /** Nothing of the request has gone out. */
  get unsent(): boolean {
    return this.stream === undefined;
  }

  start(upstreams: Upstreams, request: UpstreamRequest): void {
    this.headOnly = request.endStream;
    this.#giveUp = upstreams.open(this.target, request, this, this);
  }

  /**
   * Gives it up unless its answer has begun, or ended, in `ms` from now; undefined: it may take its time. Replaces what
   * was before. What has switched to another protocol has ended.
   */
  limit(
    clock: Clock,
    ms: number | undefined,
    limit: TryLimit,
    until: 'head' | 'end' = 'head',
  ): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#limitedUntil = until;
    if (ms === undefined || this.#over || this.headSeen) return;
    this.#timer = clock.after(ms, () => {
      this.visit?.end(false);
      this.cancel('MESH_DEADLINE_EXCEEDED');
      this.#owner.onLate(this, limit);
    });
  }

  onOpen(stream: HttpStream, reused: boolean): void {
    this.stream = stream;
    this.reused = reused;
    if (this.#over) stream.reset(H2_ERROR.CANCEL);
    else this.#owner.onOpen(this, stream);
  }

  onError(error: MeshError): void {
    this.#fail(error);
  }

  /** Nobody wants it any more. The owner is told nothing. `why`: of one whose answer has not begun, or is unwanted. */
  cancel(why?: ErrorCode): void {
    if (this.#over) return;
    this.#close(why);
    if (this.stream === undefined) this.#giveUp?.();
    else this.stream.reset(H2_ERROR.CANCEL);
  }

  onHeaders(headers: HeaderList, endStream: boolean): void {
    if (this.#over) return;
    if (this.#trace !== undefined) this.#readStatus(headers);
    if (this.headSeen) {
      this.#owner.onResponseTrailers(this, headers);
      return;
    }
    const status = headers[0]?.[1] ?? '';
    if (status.startsWith('1') && status !== '101') {
      this.#owner.onInformational(headers);
      return;
    }
    this.headSeen = true;
    if (this.#limitedUntil === 'head' || status === '101') this.#timer?.cancel();
    if (!endStream && this.visit?.probing === true && Number(status) < 500) {
      if (isGrpcContent(headers)) this.#provenByData = true;
      else this.visit.stands();
    }
    this.#owner.onResponse(this, headers, endStream);
  }

  onData(chunk: Buffer): void {
    if (this.#provenByData) this.visit?.stands();
    if (this.#over) this.stream?.consume(chunk.length);
    else this.#owner.onResponseData(this, chunk);
  }

  onEnd(): void {
    if (this.#over) return;
    this.#close(undefined);
    this.#owner.onResponseEnd(this);
  }

  onReset(error: MeshError): void {
    this.#fail(error);
  }

  onDrain(): void {
    if (!this.#over) this.#owner.onUpstreamDrain();
  }

  #fail(error: MeshError): void {
    if (this.#over) return;
    this.#close(error.code);
    this.#owner.onFailed(this, error);
  }

  #close(error: ErrorCode | undefined): void {
    this.#over = true;
    this.#timer?.cancel();
    this.#trace?.ended(this.#status, this.#grpcStatus, error);
  }

  #readStatus(headers: HeaderList): void {
    const [first] = headers;
    const status = first?.[0] === ':status' ? Number(first[1]) : 0;
    // The other ones below 200 only announce it.
    if (status >= 200 || status === 101) this.#status = status;
    const grpcStatus = grpcStatusIn(headers);
    if (grpcStatus >= 0) this.#grpcStatus = grpcStatus;
  }
}

/**
 * Whether the request may never have been read: a server that closes an idle connection may cross it on the wire. Not
 * when the stream was reset, which is an answer; and only of methods that may be sent twice.
 */
export function mayHaveCrossedClose(attempt: Attempt, error: MeshError, method: string): boolean {
  return attempt.reused && error.code !== 'MESH_HTTP2_STREAM_RESET' && IDEMPOTENT.has(method);
}

const IDEMPOTENT: ReadonlySet<string> = new Set([
  'GET',
  'HEAD',
  'OPTIONS',
  'PUT',
  'DELETE',
  'TRACE',
]);
