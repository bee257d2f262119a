/** A pair of tunnel ends over loopback: real certificates, real TLS, real sessions. */

import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

import { createReadBuffers } from '../../src/base/buffer-pool.ts';
import { createSystemClock } from '../../src/base/clock.ts';
import type { MeshError } from '../../src/base/errors.ts';
import { unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { IpAddress } from '../../src/core/address.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { H2Session } from '../../src/http/h2/contract.ts';
import { createH2Session } from '../../src/http/h2/session.ts';
import { createWindowBudget } from '../../src/http/h2/window-budget.ts';
import type { CertificateAuthority } from '../../src/identity/ca.ts';
import { createKeyPair, privateKeyPem } from '../../src/identity/keys.ts';
import { openSelfSignedCa } from '../../src/identity/self-signed-ca.ts';
import { createMeshSecureContext } from '../../src/identity/tls.ts';
import type { TrustBundle } from '../../src/identity/trust-bundle.ts';
import { createWorkloadCertificate } from '../../src/identity/workload-certificate.ts';
import { createHandshakes, type TunnelCredentials } from '../../src/tunnel/handshake.ts';
import { createTunnelPool, type TunnelPool, type TunnelTarget } from '../../src/tunnel/pool.ts';
import { receiveConnect, type TunnelRequest } from '../../src/tunnel/server.ts';

export const CLIENT: SpiffeId = 'spiffe://cluster.local/ns/shop/sa/web' as SpiffeId;
export const SERVER: SpiffeId = 'spiffe://cluster.local/ns/shop/sa/db' as SpiffeId;

export const clock = createSystemClock();
const random = createSystemRandom();
const parts = { clock, readBuffers: createReadBuffers(), windowBudget: createWindowBudget() };

/** A CA whose state is in memory. */
export async function createTestCa(trustDomain = 'cluster.local'): Promise<CertificateAuthority> {
  let files: ReadonlyMap<string, string> = new Map();
  return openSelfSignedCa({
    clock,
    random,
    trustDomain,
    mustExist: false,
    storage: {
      read: () => Promise.resolve(files),
      write: (next) => Promise.resolve(void (files = next)),
    },
  });
}

let generation = 0;

export function credentialsOf(
  ca: CertificateAuthority,
  identity: SpiffeId,
  bundle: TrustBundle = ca.bundle,
): TunnelCredentials {
  const keys = createKeyPair();
  const issued = unwrap(ca.issue(keys.publicKey, identity, 3_600_000));
  const pem = privateKeyPem(keys.privateKey);
  const certificate = unwrap(createWorkloadCertificate(identity, pem, issued.chainPem));
  return {
    identity,
    context: createMeshSecureContext(certificate, bundle),
    bundle,
    generation: String(generation++),
  };
}

export interface TunnelEnds {
  readonly target: TunnelTarget;
  readonly pool: TunnelPool;
  /** Sessions the server has accepted since the start. */
  readonly accepted: readonly H2Session[];
  readonly peers: readonly SpiffeId[];
  readonly invalid: readonly MeshError[];
  readonly handshakeErrors: readonly MeshError[];
  close(): void;
}

export interface TunnelEndsOptions {
  readonly client?: TunnelCredentials;
  readonly server?: TunnelCredentials;
  readonly expected?: readonly SpiffeId[];
  readonly streamsPerSessionMax?: number;
  readonly idleMs?: number;
  readonly onRequest: (request: TunnelRequest) => void;
}

/** A listening tunnel server and a pool that dials it. */
export async function createTunnelEnds(options: TunnelEndsOptions): Promise<TunnelEnds> {
  const ca = await createTestCa();
  const clientCredentials = options.client ?? credentialsOf(ca, CLIENT);
  const serverCredentials = options.server ?? credentialsOf(ca, SERVER);
  const handshakes = createHandshakes(clock);
  const accepted: H2Session[] = [];
  const peers: SpiffeId[] = [];
  const invalid: MeshError[] = [];
  const handshakeErrors: MeshError[] = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (raw) => {
    sockets.add(raw);
    handshakes.accept(raw, serverCredentials, {
      onSecure(socket, peer) {
        peers.push(peer);
        accepted.push(
          createH2Session(socket, {
            role: 'server',
            ...parts,
            onStream: (stream, headers) =>
              receiveConnect(stream, headers, peer, options.onRequest, (error) =>
                invalid.push(error),
              ),
          }),
        );
      },
      onError: (error) => handshakeErrors.push(error),
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const target: TunnelTarget = {
    source: CLIENT,
    sourceWorkload: 'pod-1',
    generation: clientCredentials.generation,
    destinations: options.expected ?? [SERVER],
    address: { ip: '127.0.0.1' as IpAddress, port },
  };
  const pool = createTunnelPool({
    clock,
    ...(options.streamsPerSessionMax === undefined
      ? {}
      : { streamsPerSessionMax: options.streamsPerSessionMax }),
    ...(options.idleMs === undefined ? {} : { idleMs: options.idleMs }),
    dial: (to) =>
      new Promise((resolve, reject) => {
        const raw = connect({ host: to.address.ip, port: to.address.port, allowHalfOpen: true });
        sockets.add(raw);
        raw.on('error', reject);
        raw.once('connect', () => {
          handshakes.connect(raw, clientCredentials, to.destinations, {
            onSecure: (socket) => resolve(createH2Session(socket, { role: 'client', ...parts })),
            onError: reject,
          });
        });
      }),
  });
  return {
    target,
    pool,
    accepted,
    peers,
    invalid,
    handshakeErrors,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
