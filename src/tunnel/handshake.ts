/**
 * TLS on both ends of a tunnel: from a raw TCP socket to a verified peer, or an error and a closed socket.
 * No byte of HTTP/2 is read before the peer is known (threats, constraint 7). Handshakes have a deadline, and
 * those under way are bounded: when too many are unfinished the oldest makes room, so that silent clients
 * cannot keep a good one out (T67, G17).
 */

import type { Socket } from 'node:net';
import { connect as connectTls, TLSSocket, type SecureContext } from 'node:tls';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { Roster, type Place } from '../base/roster.ts';
import type { SpiffeId } from '../core/identity.ts';
import { authenticatePeer } from '../identity/peer.ts';
import { tunnelClientOptions, tunnelServerOptions } from '../identity/tls.ts';
import type { TrustBundle } from '../identity/trust-bundle.ts';

export const HANDSHAKE_TIMEOUT_MS = 5000;
const HANDSHAKES_MAX = 4096;

/** One workload's certificate ready for use, and whom it trusts. */
export interface TunnelCredentials {
  readonly identity: SpiffeId;
  readonly context: SecureContext;
  readonly bundle: TrustBundle;
  /** Changes with certificate or bundle. */
  readonly generation: string;
}

export interface HandshakeHandlers {
  /** The peer is verified; nothing has been read. The socket is the callee's. */
  onSecure(socket: TLSSocket, peer: SpiffeId): void;
  /** The raw socket is closed. Called once, never after `onSecure`. */
  onError(error: MeshError): void;
}

interface Unfinished {
  /** Only accepted ones have one. */
  place: Place | undefined;
  fail(error: MeshError): void;
}

export interface Handshakes {
  readonly unfinishedCount: number;
  accept(raw: Socket, credentials: TunnelCredentials, handlers: HandshakeHandlers): void;
  /** `expected`: the identities that may answer (T46). Returns a function that gives up. */
  connect(
    raw: Socket,
    credentials: TunnelCredentials,
    expected: readonly SpiffeId[],
    handlers: HandshakeHandlers,
  ): () => void;
}

/** `retryable` for a connection that went away without a word: its proxy may have been replaced. */
function failed(reason: string, cause?: unknown, retryable = false): MeshError {
  return new MeshError('MESH_TUNNEL_HANDSHAKE_FAILED', `Tunnel handshake failed: ${reason}`, {
    cause,
    flag: 'TLS_FAILURE',
    retryable,
  });
}

/** OpenSSL's errors, alerts among them, have codes of their own; ECONNRESET is the connection's. */
function failedBy(error: NodeJS.ErrnoException): MeshError {
  return failed(error.message, error, error.code === 'ECONNRESET' || error.code === 'EPIPE');
}

export function createHandshakes(clock: Clock): Handshakes {
  /** In order of arrival; only accepted ones are evicted, our own dials are bounded by the pool. */
  const unfinished = new Roster<Unfinished>();

  const run = (
    raw: Socket,
    tls: TLSSocket,
    event: 'secure' | 'secureConnect',
    credentials: TunnelCredentials,
    expected: readonly SpiffeId[] | undefined,
    handlers: HandshakeHandlers,
  ): Unfinished => {
    let settled = false;
    const settle = (): boolean => {
      if (settled) return false;
      settled = true;
      timer.cancel();
      item.place?.leave();
      return true;
    };
    const fail = (error: MeshError): void => {
      if (!settle()) return;
      tls.destroy();
      raw.destroy();
      handlers.onError(error);
    };
    const item: Unfinished = { place: undefined, fail };
    tls.on('error', (error) => fail(failedBy(error)));
    raw.on('error', (error) => fail(failedBy(error)));
    tls.on('close', () => fail(failed('the peer closed the connection', undefined, true)));
    const timer = clock.after(HANDSHAKE_TIMEOUT_MS, () => {
      const message = `Tunnel handshake failed: not finished in ${HANDSHAKE_TIMEOUT_MS / 1000} s; a NetworkPolicy may block port 15008`;
      fail(new MeshError('MESH_TUNNEL_HANDSHAKE_TIMEOUT', message, { flag: 'TLS_FAILURE' }));
    });
    tls.once(event, () => {
      if (tls.alpnProtocol !== 'h2') {
        fail(failed('the peer does not speak h2'));
        return;
      }
      const peer = authenticatePeer(tls, credentials.bundle, clock.wallMs());
      if (!peer.ok) {
        fail(peer.error);
        return;
      }
      const { id } = peer.value;
      if (expected !== undefined && !expected.includes(id)) {
        const message = `Tunnel handshake failed: "${id}" answered, expected "${expected.slice(0, 3).join('", "')}"`;
        fail(new MeshError('MESH_TUNNEL_IDENTITY_MISMATCH', message, { flag: 'IDENTITY_ERROR' }));
        return;
      }
      if (settle()) handlers.onSecure(tls, id);
    });
    return item;
  };

  return {
    get unfinishedCount() {
      return unfinished.size;
    },
    accept(raw, credentials, handlers) {
      if (unfinished.size >= HANDSHAKES_MAX) {
        unfinished.first?.fail(
          new MeshError(
            'MESH_LIMIT_EXCEEDED',
            `Tunnel handshake failed: ${HANDSHAKES_MAX} others are unfinished and this is the oldest`,
            { flag: 'LIMIT' },
          ),
        );
      }
      const tls = new TLSSocket(raw, tunnelServerOptions(credentials.context));
      const item = run(raw, tls, 'secure', credentials, undefined, handlers);
      item.place = unfinished.add(item);
    },
    connect(raw, credentials, expected, handlers) {
      const tls = connectTls({ socket: raw, ...tunnelClientOptions(credentials.context) });
      const item = run(raw, tls, 'secureConnect', credentials, expected, handlers);
      return () =>
        item.fail(new MeshError('MESH_ABORTED', 'Nobody waits for this tunnel any more'));
    },
  };
}
