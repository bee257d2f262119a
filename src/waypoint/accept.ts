/**
 * Tunnels to the waypoint: each session is one verified client proxy or workload, each stream one connection to a
 * service that is bound to this waypoint. The tunnel is answered at once: whoever is asked behind us decides
 * per request.
 */

import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';

import type { MeshError } from '../base/errors.ts';
import { parseAddress, type SocketAddress } from '../core/address.ts';
import { parseIdentity, type SpiffeId } from '../core/identity.ts';
import { TunnelByteStream } from '../http/byte-stream.ts';
import type { H2Session, H2Stream, HeaderList } from '../http/h2/contract.ts';
import type { Handshakes, TunnelCredentials } from '../tunnel/handshake.ts';
import { parseBaggage } from '../tunnel/metadata.ts';
import { receiveConnect, type TunnelRequest } from '../tunnel/server.ts';
import type { WaypointContext } from './context.ts';
import { ServedConnection } from './served-connection.ts';

export interface AcceptOptions {
  readonly context: WaypointContext;
  readonly handshakes: Handshakes;
  readonly credentials: () => TunnelCredentials | undefined;
  readonly makeSession: (
    socket: TLSSocket,
    onStream: (stream: H2Stream, headers: HeaderList) => void,
  ) => H2Session;
}

export interface TunnelAcceptor {
  readonly sessionCount: number;
  /** A socket accepted on port 15008. Owns it from here. */
  accept(raw: Socket): void;
  /** GOAWAY; running connections go on. */
  drain(): void;
}

export function createTunnelAcceptor(options: AcceptOptions): TunnelAcceptor {
  const { context, handshakes } = options;
  const sessions = new Set<H2Session>();
  let draining = false;
  return {
    get sessionCount() {
      return sessions.size;
    },
    accept(raw) {
      const ip = parseAddress(raw.remoteAddress ?? '');
      const credentials = options.credentials();
      if (!ip.ok || credentials === undefined) {
        raw.on('error', () => {});
        raw.destroy();
        return;
      }
      const source: SocketAddress = { ip: ip.value, port: raw.remotePort ?? 0 };
      raw.setNoDelay(true);
      handshakes.accept(raw, credentials, {
        onSecure(socket, peer) {
          const session = options.makeSession(socket, (stream, headers) =>
            receiveConnect(
              stream,
              headers,
              peer,
              (request) => serveConnect(context, source, peer, request),
              (error) => logRefused(context, source, peer, error),
            ),
          );
          sessions.add(session);
          if (draining) session.drain();
          session.onClosed(() => void sessions.delete(session));
        },
        onError: (error) =>
          context.logger.debug('A peer failed the tunnel handshake', {
            source: source.ip,
            error: error.message,
          }),
      });
    },
    drain() {
      draining = true;
      for (const session of sessions) session.drain();
    },
  };
}

function logRefused(
  context: WaypointContext,
  source: SocketAddress,
  peer: SpiffeId,
  error: MeshError,
): void {
  context.logger.warn('connection refused', {
    'src.addr': source.ip,
    'src.identity': peer,
    code: error.code,
    error: error.message,
  });
}

function serveConnect(
  context: WaypointContext,
  source: SocketAddress,
  peer: SpiffeId,
  request: TunnelRequest,
): void {
  const identity = parseIdentity(peer);
  const namespace = identity.ok ? identity.value.namespace : '';
  const addressed = context.plans.find(request.authority, context.client(), namespace);
  if (!addressed.ok) {
    const status = addressed.error.details['status'] === 400 ? 400 : 503;
    request.refuse(status, addressed.error.message);
    logRefused(context, source, peer, addressed.error);
    return;
  }
  const connection = new ServedConnection(context, {
    peer,
    source,
    metadata: parseBaggage(request.baggage),
    addressed: addressed.value,
  });
  request.accept('', (stream) => {
    const bytes = new TunnelByteStream(stream);
    connection.serve(bytes);
    return bytes.tunnelHandlers;
  });
}
