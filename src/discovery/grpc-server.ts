/**
 * The server side of gRPC: routes the streams of any number of sessions to methods by their path.
 *
 * - A handler's end is the call's end: OK when it returns, the status of a `grpcError` it throws, and an
 *   opaque INTERNAL (with the reason in the log) for everything else.
 * - A handler's signal is aborted when the client has gone, its deadline has passed or the server closes.
 */

import type { Clock, Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import {
  H2_ERROR,
  type H2ServerStream,
  type H2Stream,
  type HeaderField,
  type HeaderList,
} from '../http/h2/contract.ts';
import type { GrpcMetadata } from './grpc-client.ts';
import { encodeStatusMessage, GRPC_STATUS, grpcError, grpcStatusOf } from './grpc-status.ts';
import { GrpcStream, type MessageStream, type Pieces } from './grpc-stream.ts';

/** `P` is whatever is known of the peer's connection, given to `accept`. */
export interface GrpcServerCall<P> extends MessageStream {
  readonly path: string;
  readonly metadata: GrpcMetadata;
  readonly peer: P;
  readonly signal: AbortSignal;
  /** Sends the response headers now instead of with the first message. */
  start(): void;
}

export interface GrpcMethod<P> {
  /** Default 4 MiB. */
  readonly requestMaxBytes?: number;
  handle(call: GrpcServerCall<P>): Promise<void>;
}

export interface GrpcServerOptions<P> {
  readonly clock: Clock;
  readonly logger: Logger;
  /** By `/package.Service/Method`. */
  readonly methods: ReadonlyMap<string, GrpcMethod<P>>;
}

export interface GrpcServer<P> {
  readonly activeCalls: number;
  /** For the session's `onStream`: owns the stream from here on, and sets its handlers before it returns. */
  accept(stream: H2ServerStream, headers: HeaderList, endStream: boolean, peer: P): void;
  /** Ends every call with UNAVAILABLE and refuses new ones; resolves when all handlers have returned. */
  close(): Promise<void>;
}

export const REQUEST_MAX_BYTES = 4_194_304;
/** Calls of all sessions together. */
const CALLS_MAX = 20_000;
/** How long a client may leave its side open after the trailers before the stream is reset. */
const LINGER_MS = 5_000;
const TIMEOUT_UNITS_MS: ReadonlyMap<string, number> = new Map([
  ['H', 3_600_000],
  ['M', 60_000],
  ['S', 1_000],
  ['m', 1],
  ['u', 0.001],
  ['n', 0.000001],
]);

/** A method of one message each way. */
export function unaryMethod<P>(
  handle: (request: Buffer, call: GrpcServerCall<P>) => Promise<Uint8Array>,
  requestMaxBytes: number = REQUEST_MAX_BYTES,
): GrpcMethod<P> {
  return {
    requestMaxBytes,
    async handle(call) {
      const request = await call.read();
      if (request === undefined) {
        throw grpcError(GRPC_STATUS.INVALID_ARGUMENT, 'The request is missing');
      }
      await call.write(await handle(request, call));
    },
  };
}

export function createGrpcServer<P>(options: GrpcServerOptions<P>): GrpcServer<P> {
  const calls = new Set<ServerCall<P>>();
  let closing = false;
  return {
    get activeCalls() {
      return calls.size;
    },
    accept(stream, headers, endStream, peer) {
      const head = readHead(headers);
      const method = options.methods.get(head.path);
      const refusal = closing
        ? grpcError(GRPC_STATUS.UNAVAILABLE, 'The server is closing')
        : refuse(head, method, calls.size);
      const call = new ServerCall(options, stream, head, peer, method?.requestMaxBytes);
      if (head.httpStatus !== '200') {
        call.answerHttp(head.httpStatus);
        return;
      }
      if (endStream) call.peerEnded();
      if (refusal !== undefined || method === undefined) {
        call.finish(refusal);
        return;
      }
      calls.add(call);
      // A client that resets its calls must not get more of them at once than it may have open (T61).
      const release = stream.retain();
      void call.run(method).finally(() => {
        calls.delete(call);
        release();
      });
    },
    async close() {
      closing = true;
      const running = [...calls];
      for (const call of running) {
        call.abort(grpcError(GRPC_STATUS.UNAVAILABLE, 'The server is closing'));
      }
      await Promise.all(running.map((call) => call.done));
    },
  };
}

interface RequestHead {
  readonly path: string;
  readonly metadata: GrpcMetadata;
  readonly timeoutMs: number | undefined;
  /** Other than 200: not gRPC at all. */
  readonly httpStatus: string;
  readonly encoding: string;
}

function readHead(headers: HeaderList): RequestHead {
  const values = new Map<string, string>();
  for (const [name, value] of headers) {
    const before = values.get(name);
    values.set(name, before === undefined ? value : `${before},${value}`);
  }
  const metadata = new Map([...values].filter(([name]) => !name.startsWith(':')));
  const isGrpc = /^application\/grpc(?:$|[+;])/.test(values.get('content-type') ?? '');
  const httpStatus = values.get(':method') === 'POST' ? (isGrpc ? '200' : '415') : '405';
  const timeout = /^(\d{1,8})([HMSmun])$/.exec(values.get('grpc-timeout') ?? '');
  const unitMs = TIMEOUT_UNITS_MS.get(timeout?.[2] ?? '');
  return {
    path: values.get(':path') ?? '',
    metadata,
    timeoutMs: unitMs === undefined ? undefined : Number(timeout?.[1]) * unitMs,
    httpStatus,
    encoding: values.get('grpc-encoding') ?? 'identity',
  };
}

function refuse<P>(
  head: RequestHead,
  method: GrpcMethod<P> | undefined,
  callCount: number,
): MeshError | undefined {
  if (method === undefined) {
    const path = JSON.stringify(head.path.slice(0, 100));
    return grpcError(GRPC_STATUS.UNIMPLEMENTED, `There is no method ${path}`);
  }
  if (head.encoding !== 'identity') {
    return grpcError(GRPC_STATUS.UNIMPLEMENTED, 'Only the encoding "identity" is supported');
  }
  if (callCount >= CALLS_MAX) {
    return grpcError(GRPC_STATUS.RESOURCE_EXHAUSTED, `More than ${CALLS_MAX} calls are open`);
  }
  return undefined;
}

class ServerCall<P> implements GrpcServerCall<P> {
  readonly path: string;
  readonly metadata: GrpcMetadata;
  readonly peer: P;
  readonly signal: AbortSignal;
  readonly done: Promise<void>;
  readonly #options: GrpcServerOptions<P>;
  readonly #stream: H2Stream;
  readonly #messages: GrpcStream;
  readonly #abort = new AbortController();
  readonly #timeoutMs: number | undefined;
  #settle: () => void = () => {};
  #timer: Timer | undefined;
  #started = false;
  #finished = false;
  #peerEnded = false;

  constructor(
    options: GrpcServerOptions<P>,
    stream: H2Stream,
    head: RequestHead,
    peer: P,
    requestMaxBytes: number = REQUEST_MAX_BYTES,
  ) {
    this.#options = options;
    this.#stream = stream;
    this.path = head.path;
    this.metadata = head.metadata;
    this.peer = peer;
    this.signal = this.#abort.signal;
    this.#timeoutMs = head.timeoutMs;
    this.done = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#messages = new GrpcStream(requestMaxBytes);
    this.#messages.attach(stream);
    stream.setHandlers({
      // Trailers of a request mean nothing to gRPC; they end it all the same.
      onHeaders: (_headers, endStream) => {
        if (endStream) this.peerEnded();
      },
      onData: (chunk) => {
        // After the trailers nobody reads, but the connection's window must not shrink.
        if (this.#finished) stream.consume(chunk.length);
        else this.#messages.receive(chunk);
      },
      onEnd: () => this.peerEnded(),
      onReset: (error) => this.#lost(error),
      onDrain: () => this.#messages.drained(),
    });
  }

  read(): Promise<Buffer | undefined> {
    return this.#messages.read();
  }

  write(message: Uint8Array): Promise<void> {
    this.start();
    return this.#messages.write(message);
  }

  writePieces(totalBytes: number, pieces: Pieces): Promise<void> {
    this.start();
    return this.#messages.writePieces(totalBytes, pieces);
  }

  start(): void {
    if (this.#started || this.#finished) return;
    this.#started = true;
    this.#stream.sendHeaders(RESPONSE_HEAD, false);
  }

  peerEnded(): void {
    if (this.#peerEnded) return;
    this.#peerEnded = true;
    this.#messages.finish();
    if (this.#finished) this.#timer?.cancel();
  }

  /** Runs the handler to its end; never rejects. */
  async run(method: GrpcMethod<P>): Promise<void> {
    if (this.#timeoutMs !== undefined) {
      const passed = grpcError(GRPC_STATUS.DEADLINE_EXCEEDED, 'The deadline has passed');
      this.#timer = this.#options.clock.after(this.#timeoutMs, () => this.abort(passed));
    }
    try {
      await method.handle(this);
      await this.#messages.flushed();
      this.finish(undefined);
    } catch (error) {
      this.finish(this.#statusOf(error));
    } finally {
      this.#settle();
    }
  }

  /** Ends the call from outside its handler. */
  abort(error: MeshError): void {
    this.#messages.fail(error);
    this.finish(error);
    this.#abort.abort(error);
  }

  /** Sends the trailers; undefined is OK. Idempotent. */
  finish(error: MeshError | undefined): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#timer?.cancel();
    const trailers: HeaderField[] = this.#started ? [] : [...RESPONSE_HEAD];
    trailers.push(['grpc-status', String(grpcStatusOf(error) ?? GRPC_STATUS.OK)]);
    const message = error?.details['statusMessage'];
    if (typeof message === 'string' && message !== '') {
      trailers.push(['grpc-message', encodeStatusMessage(message)]);
    }
    this.#stream.sendHeaders(trailers, true);
    this.#abort.abort(error);
    this.#linger();
  }

  answerHttp(status: string): void {
    this.#finished = true;
    this.#stream.sendHeaders([[':status', status]], true);
    this.#linger();
  }

  #linger(): void {
    if (this.#peerEnded) return;
    // A reset now would drop what the windows still hold back, the trailers among it.
    this.#timer = this.#options.clock.after(LINGER_MS, () => this.#stream.reset(H2_ERROR.NO_ERROR));
  }

  #lost(error: MeshError): void {
    this.#finished = true;
    this.#timer?.cancel();
    const status = grpcError(GRPC_STATUS.CANCELLED, 'The client has gone', error);
    this.#messages.lose(status);
    this.#abort.abort(status);
  }

  #statusOf(error: unknown): MeshError {
    if (grpcStatusOf(error) !== undefined) return error as MeshError;
    this.#options.logger.error('Call failed', { path: this.path, error });
    return grpcError(GRPC_STATUS.INTERNAL, 'Internal error');
  }
}

const RESPONSE_HEAD: HeaderList = [
  [':status', '200'],
  ['content-type', 'application/grpc'],
];
