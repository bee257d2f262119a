/** Opens a verified tunnel session from the waypoint's own network. */

import { connect as connectTcp } from 'node:net';
import type { TLSSocket } from 'node:tls';

import { errorFromNode, MeshError } from '../base/errors.ts';
import { formatSocketAddress } from '../core/address.ts';
import type { H2Session } from '../http/h2/contract.ts';
import type { Handshakes, TunnelCredentials } from '../tunnel/handshake.ts';
import type { TunnelTarget } from '../tunnel/pool.ts';

export interface DialParts {
  readonly handshakes: Handshakes;
  readonly credentials: () => TunnelCredentials | undefined;
  readonly make: (socket: TLSSocket) => H2Session;
}

/** Limits of time are the handshake's, which runs while TCP connects. */
export function dialTunnelSession(
  parts: DialParts,
  target: TunnelTarget,
  signal: AbortSignal,
): Promise<H2Session> {
  return new Promise((resolve, reject) => {
    const credentials = parts.credentials();
    if (credentials?.generation !== target.generation) {
      const message = `Cannot open a tunnel for "${target.source}": its certificate is gone`;
      const options = { flag: 'TLS_FAILURE', retryable: true } as const;
      reject(new MeshError('MESH_CERTIFICATE_UNAVAILABLE', message, options));
      return;
    }
    const { address } = target;
    const raw = connectTcp({ host: address.ip, port: address.port, noDelay: true });
    let connected = false;
    let cancel = (): void => void raw.destroy();
    raw.on('error', (error) => {
      const what = `Cannot connect to "${formatSocketAddress(address)}"`;
      if (!connected) reject(errorFromNode(error, what));
    });
    raw.once('connect', () => {
      connected = true;
      cancel = parts.handshakes.connect(raw, credentials, target.destinations, {
        onSecure: (socket) => resolve(parts.make(socket)),
        onError: reject,
      });
    });
    const abort = (): void => {
      cancel();
      reject(new MeshError('MESH_ABORTED', 'Nobody waits for this tunnel any more'));
    };
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
  });
}
