/**
 * The opening side of one tunnelled connection: sends CONNECT on a pooled session and hands the stream over
 * once the far end answered 200, which means that the application has accepted (HBONE 1.4).
 */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { H2_ERROR, type H2Stream, type HeaderList } from '../http/h2/contract.ts';
import type { TunnelPool, TunnelTarget } from './pool.ts';

/** The far end waits 10 s for its application; we wait a little longer than that. */
export const CONNECT_TIMEOUT_MS = 15_000;
const REASON_TEXT_MAX = 512;

/** A header of ours on refusals: one sentence for the operator of the calling side. Peers may ignore it. */
export const REASON_HEADER = 'x-nodemesh-reason';

export interface TunnelConnect {
  readonly target: TunnelTarget;
  /** `host:port`, see HBONE 1.3. */
  readonly authority: string;
  readonly baggage: string;
  readonly forwarded: string;
  readonly traceparent: string;
}

export interface TunnelConnectHandlers {
  /**
   * The far application has accepted. Called synchronously while the answer is being read: set the stream's
   * handlers before returning, bytes may follow at once. `baggage`: lines in which it says what it is.
   */
  onOpen(stream: H2Stream, baggage: readonly string[]): void;
  /** Nothing was opened. Called once, never after `onOpen`. */
  onError(error: MeshError): void;
}

/** Why the far end refused, as an error with the response flag that fits. */
function refusal(headers: HeaderList, authority: string): MeshError {
  const status = headers.find(([name]) => name === ':status')?.[1] ?? '';
  const reason = headers.find(([name]) => name === REASON_HEADER)?.[1].slice(0, REASON_TEXT_MAX);
  const meaning =
    reason ??
    (status === '401'
      ? 'denied by policy at the destination'
      : status === '503'
        ? 'the destination could not reach its application'
        : 'the destination does not accept the request');
  const flag = status === '401' ? 'DENY' : 'CONNECT';
  const message = `Cannot connect to "${authority}" through the tunnel: ${meaning} (status ${status.slice(0, 8)})`;
  return new MeshError('MESH_TUNNEL_REFUSED', message, {
    flag,
    retryable: status === '503',
    details: { status },
  });
}

/** Returns a function that gives up; after it neither handler is called. */
export function connectTunnel(
  pool: TunnelPool,
  clock: Clock,
  connect: TunnelConnect,
  handlers: TunnelConnectHandlers,
): () => void {
  let stream: H2Stream | undefined;
  let settled = false;
  const settle = (): boolean => {
    if (settled) return false;
    settled = true;
    timer.cancel();
    return true;
  };
  const failWith = (error: MeshError): void => {
    if (settle()) handlers.onError(error);
  };
  const headers: HeaderList = [
    [':method', 'CONNECT'],
    [':authority', connect.authority],
    ...(connect.baggage === '' ? [] : [['baggage', connect.baggage] as const]),
    ['forwarded', connect.forwarded],
    ['traceparent', connect.traceparent],
  ];
  const failEarly = (cause: MeshError | undefined): void => {
    const what = `Cannot connect to "${connect.authority}": the tunnel ended before an answer`;
    const message = cause === undefined ? what : `${what}: ${cause.message}`;
    failWith(
      // REFUSED_STREAM promises that nothing was done (RFC 9113 8.7): as good as a tunnel that broke before.
      new MeshError(
        isRefused() ? 'MESH_TUNNEL_CLOSED' : (cause?.code ?? 'MESH_TUNNEL_CLOSED'),
        message,
        {
          cause,
          flag: 'CONNECT',
          retryable: true,
        },
      ),
    );
  };
  const isRefused = (): boolean => stream?.resetCode === H2_ERROR.REFUSED_STREAM;
  const timer = clock.after(CONNECT_TIMEOUT_MS, () => {
    const message = `Cannot connect to "${connect.authority}" through the tunnel: no answer in ${CONNECT_TIMEOUT_MS / 1000} s`;
    const error = new MeshError('MESH_CONNECT_TIMEOUT', message, { flag: 'CONNECT' });
    const pending = stream;
    if (pending === undefined) cancelWait();
    failWith(error);
    pending?.reset(H2_ERROR.CANCEL);
  });
  const cancelWait = pool.request(
    connect.target,
    headers,
    {
      onHeaders(answer, endStream) {
        if (settled || stream === undefined) return;
        const status = answer.find(([name]) => name === ':status')?.[1] ?? '';
        if (status.startsWith('1')) return;
        if (status !== '200') {
          failWith(refusal(answer, connect.authority));
          if (!endStream) stream.reset(H2_ERROR.CANCEL);
          else stream.end();
          return;
        }
        if (!settle()) return;
        const baggage = answer.filter(([name]) => name === 'baggage').map(([, value]) => value);
        handlers.onOpen(stream, baggage);
      },
      onData: () => stream?.reset(H2_ERROR.PROTOCOL_ERROR),
      onEnd: () => failEarly(undefined),
      onReset: (error) => failEarly(error),
      onDrain: () => {},
    },
    (opened) => {
      stream = opened;
    },
    failWith,
  );
  return () => {
    if (!settle()) return;
    if (stream === undefined) cancelWait();
    else stream.reset(H2_ERROR.CANCEL);
  };
}
