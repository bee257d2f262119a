/**
 * A copy of a request to another backend, whose answer nobody waits for. It never delays or fails the original: what
 * the copy's backend does not take in time is not kept, and the copy is given up.
 */

import type { Backend, HttpFilter } from '../core/route.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import type { HttpStream } from '../http/http-stream.ts';
import { Attempt, type AttemptOwner } from './attempt.ts';
import { chooseMirrors, type RouteChoice } from './compiled-routes.ts';
import type { WaypointContext } from './context.ts';
import { upstreamHeaders, type HttpRequest } from './request.ts';
import { upstreamHttp, type Forward } from './routing.ts';
import type { ServedConnection } from './served-connection.ts';

/** Bytes of a body that wait for the copy's backend. */
const WAITING_MAX_BYTES = 64 * 1024;
/** For the copy's answer; then it is given up. */
const TIMEOUT_MS = 15_000;
export interface MirroredRequest {
  readonly request: HttpRequest;
  readonly clientVersion: 1 | 2;
  readonly requestId: string;
  readonly trace: HeaderList | undefined;
  /** There is no body. */
  readonly endStream: boolean;
}

/** The copies of one request. */
export interface Mirrors {
  push(chunk: Buffer): void;
  end(trailers: HeaderList | undefined): void;
  /** The original has ended: a copy that is not complete is given up. */
  abort(): void;
}

/** Undefined: no filter asks for a copy of this one. */
export function startMirrors(
  context: WaypointContext,
  connection: ServedConnection,
  choice: RouteChoice | undefined,
  { backend, request: changed }: Forward,
  mirrored: MirroredRequest,
): Mirrors | undefined {
  const rule = choice?.rule;
  if (rule === undefined || (!hasMirror(rule.filters) && !hasMirror(backend?.filters))) {
    return undefined;
  }
  const { request, clientVersion, requestId, trace, endStream } = mirrored;
  const headers = upstreamHeaders(request, changed, requestId, trace);
  const mirrors = chooseMirrors(rule, backend, context.random).map((to) => {
    const mirror = new Mirror(context);
    mirror.start(to, connection, request, clientVersion, headers, endStream);
    return mirror;
  });
  return {
    push: (chunk) => mirrors.forEach((mirror) => mirror.push(chunk)),
    end: (trailers) => mirrors.forEach((mirror) => mirror.end(trailers)),
    abort: () => mirrors.forEach((mirror) => mirror.abort()),
  };
}

function hasMirror(filters: readonly HttpFilter[] | undefined): boolean {
  return filters?.some(({ kind }) => kind === 'mirror') === true;
}

const NOBODY: ReadonlySet<string> = new Set();

class Mirror implements AttemptOwner {
  readonly #context: WaypointContext;
  #attempt: Attempt | undefined;
  #stream: HttpStream | undefined;
  #pieces: Buffer[] = [];
  #waitingBytes = 0;
  #ended = false;
  #trailers: HeaderList | undefined;
  #failed = false;
  #over = false;
  #cancelTimer: () => void = () => {};

  constructor(context: WaypointContext) {
    this.#context = context;
  }

  /** `headers`: as they go to the original's backend. `endStream`: there is no body. */
  start(
    backend: Backend,
    connection: ServedConnection,
    request: HttpRequest,
    clientVersion: 1 | 2,
    headers: HeaderList,
    endStream: boolean,
  ): void {
    const { clock, traffic, upstreams } = this.#context;
    const visit = traffic.destination(backend.service, backend.port).visit(undefined, NOBODY);
    if (visit === undefined) {
      this.#over = true;
      return;
    }
    const { target } = visit;
    if (connection.denial(target.workload, target.address) !== undefined) {
      visit.end(undefined);
      this.#over = true;
      return;
    }
    this.#ended = endStream;
    const timer = clock.after(TIMEOUT_MS, () => this.#drop());
    this.#cancelTimer = () => timer.cancel();
    const attempt = new Attempt(this, target, visit);
    this.#attempt = attempt;
    attempt.start(upstreams, {
      headers,
      endStream,
      http: upstreamHttp(this.#context, backend, request, clientVersion),
      fresh: false,
    });
  }

  push(chunk: Buffer): void {
    if (this.#over) return;
    if (this.#stream !== undefined && this.#waitingBytes === 0) {
      if (!this.#stream.write(chunk)) this.#waitingBytes = 1;
      return;
    }
    this.#waitingBytes += chunk.length;
    if (this.#waitingBytes > WAITING_MAX_BYTES) {
      this.#drop();
      return;
    }
    this.#pieces.push(Buffer.from(chunk));
  }

  end(trailers: HeaderList | undefined): void {
    if (this.#over || this.#ended) return;
    this.#ended = true;
    this.#trailers = trailers;
    this.#flush();
  }

  /** The original was given up before its end: so is the copy. */
  abort(): void {
    if (!this.#ended) this.#drop();
  }

  onOpen(attempt: Attempt, stream: HttpStream): void {
    this.#stream = stream;
    if (!attempt.headOnly) this.#flush();
  }

  onInformational(): void {}

  onResponse(_: Attempt, headers: HeaderList): void {
    this.#failed = Number(headers[0]?.[1]) >= 500;
  }

  onResponseData(attempt: Attempt, chunk: Buffer): void {
    attempt.stream?.consume(chunk.length);
  }

  onResponseTrailers(): void {}

  onResponseEnd(attempt: Attempt): void {
    attempt.visit?.end(!this.#failed);
    this.#finish();
  }

  onFailed(attempt: Attempt): void {
    attempt.visit?.end(false);
    this.#finish();
  }

  /** No try of a mirror is limited by itself: all of it has one time. */
  onLate(): void {}

  onUpstreamDrain(): void {
    this.#flush();
  }

  #flush(): void {
    const stream = this.#stream;
    if (stream === undefined || this.#over) return;
    this.#waitingBytes = 0;
    for (const piece of this.#pieces.splice(0)) {
      if (!stream.write(piece)) this.#waitingBytes = 1;
    }
    if (!this.#ended) return;
    if (this.#trailers === undefined) stream.end();
    else stream.sendHeaders(this.#trailers, true);
  }

  #drop(): void {
    if (this.#over) return;
    this.#attempt?.visit?.end(undefined);
    this.#attempt?.cancel();
    this.#finish();
  }

  #finish(): void {
    this.#over = true;
    this.#pieces = [];
    this.#cancelTimer();
  }
}
