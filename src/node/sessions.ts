/**
 * The tunnel sessions of one worker: makes them on verified sockets, both ends, and drains the accepted ones when
 * a pod is handed over or the worker leaves. The pool owns those it dialled.
 */

import type { TLSSocket } from 'node:tls';

import { MeshError } from '../base/errors.ts';
import type { PodUid } from '../core/pod.ts';
import type { H2Session, H2Stream, HeaderList } from '../http/h2/contract.ts';
import type { Handshakes, TunnelCredentials } from '../tunnel/handshake.ts';
import type { TunnelTarget } from '../tunnel/pool.ts';
import type { PodSockets } from './pod-sockets.ts';

/** Makes an HTTP/2 session that owns the socket; composed from http/ with the worker's buffers and limits. */
export type MakeSession = (
  socket: TLSSocket,
  role: 'client' | 'server',
  onStream?: (stream: H2Stream, headers: HeaderList) => void,
) => H2Session;

export interface TunnelSessions {
  /** Accepted sessions that have not closed. */
  readonly acceptedCount: number;
  accept(
    pod: PodUid,
    socket: TLSSocket,
    onStream: (stream: H2Stream, headers: HeaderList) => void,
  ): void;
  /** Opens a session to a target from inside its source pod. */
  dial(
    target: TunnelTarget,
    sockets: PodSockets | undefined,
    credentials: TunnelCredentials | undefined,
    signal: AbortSignal,
  ): Promise<H2Session>;
  /** GOAWAY on the accepted sessions of one pod, or of all; their streams go on. */
  drain(pod?: PodUid): void;
}

export function createTunnelSessions(handshakes: Handshakes, make: MakeSession): TunnelSessions {
  const accepted = new Map<H2Session, PodUid>();
  let leaving = false;
  return {
    get acceptedCount() {
      return accepted.size;
    },
    accept(pod, socket, onStream) {
      const session = make(socket, 'server', onStream);
      accepted.set(session, pod);
      // Its handshake was under way when the drain began.
      if (leaving) session.drain();
      session.onClosed(() => void accepted.delete(session));
    },
    dial(target, sockets, credentials, signal) {
      return new Promise((resolve, reject) => {
        if (sockets === undefined || credentials?.generation !== target.generation) {
          const message = `Cannot open a tunnel for "${target.source}": its pod or certificate is gone`;
          reject(
            new MeshError('MESH_CERTIFICATE_UNAVAILABLE', message, {
              flag: 'TLS_FAILURE',
              retryable: true,
            }),
          );
          return;
        }
        let cancel = sockets.dial(target.address, undefined, {
          onConnect(raw) {
            cancel = handshakes.connect(raw, credentials, target.destinations, {
              onSecure: (socket) => resolve(make(socket, 'client')),
              onError: reject,
            });
          },
          onError: reject,
        });
        const abort = (): void => {
          cancel();
          reject(new MeshError('MESH_ABORTED', 'Nobody waits for this tunnel any more'));
        };
        if (signal.aborted) abort();
        else signal.addEventListener('abort', abort, { once: true });
      });
    },
    drain(pod) {
      if (pod === undefined) leaving = true;
      for (const [session, owner] of accepted) {
        if (pod === undefined || owner === pod) session.drain();
      }
    },
  };
}
