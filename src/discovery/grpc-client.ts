/**
 * gRPC calls over a session: one message each way (`callUnary`) or a stream both ways (`openGrpcCall`).
 * Every failure is a `MESH_GRPC_STATUS` with the number in its details (see `grpc-status.ts`).
 */

import type { Clock, Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import {
  H2_ERROR,
  type H2Session,
  type H2Stream,
  type HeaderField,
  type HeaderList,
} from '../http/h2/contract.ts';
import {
  decodeStatusMessage,
  GRPC_STATUS,
  grpcError,
  statusFromHttp,
  statusFromReset,
} from './grpc-status.ts';
import { GrpcStream, type MessageStream } from './grpc-stream.ts';

/** Names in lower case. */
export type GrpcMetadata = ReadonlyMap<string, string>;

export interface GrpcCallOptions {
  readonly session: H2Session;
  /** `/package.Service/Method`. */
  readonly path: string;
  readonly authority: string;
  readonly clock: Clock;
  /** Default `https`; `http` on a Unix socket. */
  readonly scheme?: 'http' | 'https';
  readonly metadata?: GrpcMetadata;
  /** The call ends with DEADLINE_EXCEEDED after it; the server is told. Default: none. */
  readonly deadlineMs?: number;
  /** Default 200 MB, as ztunnel. */
  readonly responseMaxBytes?: number;
  /** Ends the call with CANCELLED. */
  readonly signal?: AbortSignal;
}

export interface GrpcClientCall extends MessageStream {
  /** No more messages from us, after those written. */
  end(): void;
  /** Ends the call now; reads throw CANCELLED. Idempotent, and nothing after the end of the call. */
  cancel(): void;
}

export const RESPONSE_MAX_BYTES = 200_000_000;

/** Sends `message`, waits for the one answer. Bound it with `deadlineMs`. */
export async function callUnary(options: GrpcCallOptions, message: Uint8Array): Promise<Buffer> {
  const call = openGrpcCall(options);
  try {
    await call.write(message);
    call.end();
    const answer = await call.read();
    if (answer === undefined) throw grpcError(GRPC_STATUS.INTERNAL, 'The answer is missing');
    if ((await call.read()) !== undefined) {
      throw grpcError(GRPC_STATUS.INTERNAL, 'There is more than one answer');
    }
    return answer;
  } finally {
    call.cancel();
  }
}

/** Opens a call; throws UNAVAILABLE when the session takes no more streams. */
export function openGrpcCall(options: GrpcCallOptions): GrpcClientCall {
  const { session, clock, deadlineMs, signal } = options;
  const messages = new GrpcStream(options.responseMaxBytes ?? RESPONSE_MAX_BYTES);
  let headSeen = false;
  let over = false;
  let timer: Timer | undefined;
  const finish = (error: Error | undefined): void => {
    if (over) return;
    over = true;
    timer?.cancel();
    signal?.removeEventListener('abort', cancel);
    if (error !== undefined) messages.fail(error);
    else messages.finish();
    messages.stopWrites(error ?? grpcError(GRPC_STATUS.CANCELLED, 'The call has ended'));
  };
  /** Ends both the call and the stream, whatever the peer is doing. */
  const abort = (error: Error): void => {
    if (over) return;
    finish(error);
    stream.reset(H2_ERROR.CANCEL);
  };
  const cancel = (): void => abort(grpcError(GRPC_STATUS.CANCELLED, 'Cancelled by the caller'));
  if (signal?.aborted === true) throw grpcError(GRPC_STATUS.CANCELLED, 'Cancelled by the caller');
  const stream = openStream(session, requestHeaders(options), {
    onHeaders(headers, endStream) {
      const status = valueOf(headers, ':status') ?? '';
      if (status.startsWith('1') && !endStream) return;
      const failure = headSeen ? undefined : checkHead(headers, status);
      headSeen = true;
      if (failure !== undefined) abort(failure);
      else if (endStream) finish(readTrailers(headers));
      // Our side may still be open; nothing will be read from it.
      if (endStream) stream.end();
    },
    onData: (chunk) => {
      if (!headSeen) abort(grpcError(GRPC_STATUS.INTERNAL, 'A message came before the headers'));
      else messages.receive(chunk);
      if (messages.error !== undefined) abort(messages.error);
    },
    onEnd() {
      finish(grpcError(GRPC_STATUS.UNKNOWN, 'The stream ended without a status'));
      stream.end();
    },
    onReset(error) {
      const status = grpcError(statusFromReset(stream.resetCode), error.message, error);
      messages.lose(status);
      finish(status);
    },
    onDrain: () => messages.drained(),
  });
  messages.attach(stream);
  signal?.addEventListener('abort', cancel, { once: true });
  if (deadlineMs !== undefined) {
    timer = clock.after(deadlineMs, () =>
      abort(grpcError(GRPC_STATUS.DEADLINE_EXCEEDED, `No answer within ${deadlineMs} ms`)),
    );
  }
  return {
    read: () => messages.read(),
    write: (message) => messages.write(message),
    writePieces: (totalBytes, pieces) => messages.writePieces(totalBytes, pieces),
    end() {
      void messages.flushed().then(() => {
        if (!over) stream.end();
      });
    },
    cancel,
  };
}

function openStream(
  session: H2Session,
  headers: HeaderList,
  handlers: Parameters<H2Session['request']>[1],
): H2Stream {
  try {
    return session.request(headers, handlers, false);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw grpcError(GRPC_STATUS.UNAVAILABLE, reason, error);
  }
}

function requestHeaders(options: GrpcCallOptions): HeaderList {
  const headers: HeaderField[] = [
    [':method', 'POST'],
    [':scheme', options.scheme ?? 'https'],
    [':authority', options.authority],
    [':path', options.path],
    ['content-type', 'application/grpc'],
    ['te', 'trailers'],
  ];
  // At most eight digits are allowed, so milliseconds reach 27 hours.
  const timeoutMs = Math.min(Math.ceil(options.deadlineMs ?? 0), 99_999_999);
  if (timeoutMs > 0) headers.push(['grpc-timeout', `${timeoutMs}m`]);
  for (const [name, value] of options.metadata ?? []) headers.push([name, value]);
  return headers;
}

function checkHead(headers: HeaderList, status: string): MeshError | undefined {
  const contentType = valueOf(headers, 'content-type') ?? '';
  const isGrpc = /^application\/grpc(?:$|[+;])/.test(contentType);
  if (status !== '200' || !isGrpc) {
    const reason = `The server answered ${status} with content type "${contentType.slice(0, 80)}"`;
    return grpcError(statusFromHttp(status), reason);
  }
  const encoding = valueOf(headers, 'grpc-encoding') ?? 'identity';
  if (encoding === 'identity') return undefined;
  return grpcError(
    GRPC_STATUS.UNIMPLEMENTED,
    `Encoding "${encoding.slice(0, 80)}" is not supported`,
  );
}

function readTrailers(headers: HeaderList): MeshError | undefined {
  const text = valueOf(headers, 'grpc-status') ?? '';
  if (text === '0') return undefined;
  const message = decodeStatusMessage(valueOf(headers, 'grpc-message') ?? '');
  if (!/^\d{1,4}$/.test(text)) {
    return grpcError(GRPC_STATUS.UNKNOWN, `The stream ended without a status: ${message}`);
  }
  return grpcError(Number(text), message);
}

function valueOf(headers: HeaderList, name: string): string | undefined {
  return headers.find(([key]) => key === name)?.[1];
}
