/**
 * The accepting side of the tunnel: checks every CONNECT before anybody acts on it (T40–T44) and answers with
 * HBONE's status codes. It decides form only; whether the target is this pod, whether policy allows it and
 * whether the application accepts is the caller's, through `accept` and `refuse`.
 *
 * A peer's bytes that arrive before `accept` are kept, at most one stream window of them, and given to the
 * handlers that `accept` installs; nothing is lost.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { SpiffeId } from '../core/identity.ts';
import {
  H2_ERROR,
  type H2Stream,
  type H2StreamHandlers,
  type HeaderList,
} from '../http/h2/contract.ts';
import { parseAuthority, type Authority } from './authority.ts';
import { REASON_HEADER } from './client.ts';
import { parseForwarded, parseTraceId, type Forwarded } from './metadata.ts';

/** HBONE 1.4. */
export type RefusalStatus = 400 | 401 | 503;

/** Bytes kept before `accept`; a peer that sends more before the answer is reset. */
const EARLY_BYTES_MAX = 1024 * 1024;
const REASON_TEXT_MAX = 512;

/** One CONNECT, checked for form. */
export interface TunnelRequest {
  readonly peer: SpiffeId;
  readonly authority: Authority;
  /** Claims of the peer, for telemetry only: for `parseBaggage`, since a known workload needs none. */
  readonly baggage: readonly string[];
  readonly forwarded: Forwarded;
  readonly traceId: string;
  /** Called once if the stream dies before it was answered. */
  onAbort(listener: (error: MeshError) => void): void;
  /**
   * Answers 200; from now on the stream is the caller's. Undefined when it died meanwhile. `baggage`: what the
   * destination says of itself, as `formatBaggage` writes it; empty for nothing.
   */
  accept(baggage: string, handlers: (stream: H2Stream) => H2StreamHandlers): H2Stream | undefined;
  /** Answers with a status and ends the stream. `reason` goes to the caller's operator. */
  refuse(status: RefusalStatus, reason: string): void;
}

interface ConnectHead {
  readonly authority: Authority;
  readonly baggage: readonly string[];
  readonly forwarded: Forwarded;
  readonly traceId: string;
}

function invalid(message: string): Result<never> {
  return fail(new MeshError('MESH_TUNNEL_REQUEST_INVALID', message));
}

/** Reads the head of a request on a tunnel. Only a plain CONNECT passes (T43). */
export function parseConnect(headers: HeaderList): Result<ConnectHead> {
  const values = new Map<string, string[]>();
  for (const [name, value] of headers) {
    const lines = values.get(name);
    if (lines === undefined) values.set(name, [value]);
    else lines.push(value);
  }
  const one = (name: string): string => values.get(name)?.[0] ?? '';
  if (one(':method') !== 'CONNECT') return invalid('Cannot serve the request: not a CONNECT');
  for (const name of [':scheme', ':path', ':protocol']) {
    if (values.has(name)) return invalid(`Cannot serve the request: "${name}" on a CONNECT`);
  }
  if (values.get(':authority')?.length !== 1)
    return invalid('Cannot serve the request: no authority');
  const authority = parseAuthority(one(':authority'));
  if (!authority.ok) return authority;
  return ok({
    authority: authority.value,
    baggage: values.get('baggage') ?? [],
    forwarded: parseForwarded(one('forwarded')),
    traceId: parseTraceId(one('traceparent')),
  });
}

function printable(reason: string): string {
  return reason.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, REASON_TEXT_MAX);
}

function sendRefusal(stream: H2Stream, status: RefusalStatus, reason: string): void {
  const headers: HeaderList = [
    [':status', String(status)],
    [REASON_HEADER, printable(reason)],
  ];
  stream.sendHeaders(headers, true);
}

/**
 * Turns a new stream into a `TunnelRequest`. To be called inside the session's `onStream`. A malformed request
 * is answered with 400 here and reported to `onInvalid`.
 */
export function receiveConnect(
  stream: H2Stream,
  headers: HeaderList,
  peer: SpiffeId,
  onRequest: (request: TunnelRequest) => void,
  onInvalid: (error: MeshError) => void,
): void {
  const early: Buffer[] = [];
  let earlyBytes = 0;
  let earlyEnd = false;
  let earlyTrailers: HeaderList | undefined;
  let state: 'waiting' | 'answered' | 'dead' = 'waiting';
  let abortListener: ((error: MeshError) => void) | undefined;
  let abortError: MeshError | undefined;
  const discard: H2StreamHandlers = {
    onHeaders: () => {},
    onData: (chunk) => stream.consume(chunk.length),
    onEnd: () => {},
    onReset: () => {},
    onDrain: () => {},
  };
  stream.setHandlers({
    onHeaders: (trailers) => {
      earlyTrailers = trailers;
    },
    onData(chunk) {
      earlyBytes += chunk.length;
      if (earlyBytes > EARLY_BYTES_MAX) stream.reset(H2_ERROR.ENHANCE_YOUR_CALM);
      else early.push(Buffer.from(chunk));
    },
    onEnd: () => {
      earlyEnd = true;
    },
    onReset(error) {
      if (state !== 'waiting') return;
      state = 'dead';
      abortError = error;
      abortListener?.(error);
    },
    onDrain: () => {},
  });
  const head = parseConnect(headers);
  if (!head.ok) {
    state = 'answered';
    stream.setHandlers(discard);
    sendRefusal(stream, 400, head.error.message);
    onInvalid(head.error);
    return;
  }
  onRequest({
    peer,
    ...head.value,
    onAbort(listener) {
      if (abortError === undefined) abortListener = listener;
      else listener(abortError);
    },
    accept(baggage, handlersFor) {
      if (state !== 'waiting') return undefined;
      state = 'answered';
      stream.sendHeaders(
        baggage === ''
          ? [[':status', '200']]
          : [
              [':status', '200'],
              ['baggage', baggage],
            ],
        false,
      );
      const handlers = handlersFor(stream);
      stream.setHandlers(handlers);
      for (const chunk of early) handlers.onData(chunk);
      if (earlyTrailers !== undefined) handlers.onHeaders(earlyTrailers, true);
      if (earlyEnd) handlers.onEnd();
      return stream;
    },
    refuse(status, reason) {
      if (state !== 'waiting') return;
      state = 'answered';
      stream.setHandlers(discard);
      sendRefusal(stream, status, reason);
    },
  });
}
