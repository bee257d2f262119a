/**
 * The controller's port: TLS with a certificate of the mesh's own CA, kept fresh, and the gRPC services behind
 * it. Clients prove themselves with tokens; what they may do is the control plane's business.
 */

import { createServer, type Server, type Socket } from 'node:net';
import { TLSSocket, type SecureContext } from 'node:tls';

import type { Clock, Timer } from '../base/clock.ts';
import { startListening } from '../base/listen.ts';
import type { Logger } from '../base/logger.ts';
import { unwrap } from '../base/result.ts';
import type { IpAddress } from '../core/address.ts';
import { parseAddress } from '../core/address.ts';
import { formatIdentity } from '../core/identity.ts';
import type { GrpcServer } from '../discovery/grpc-server.ts';
import { createH2Session } from '../http/h2/session.ts';
import type { CertificateAuthority } from '../identity/ca.ts';
import { createKeyPair, privateKeyPem } from '../identity/keys.ts';
import { createMeshSecureContext, discoveryServerOptions } from '../identity/tls.ts';
import { createWorkloadCertificate } from '../identity/workload-certificate.ts';
import type { SessionParts } from './dial.ts';

const LEAF_TTL_MS = 24 * 3_600_000;
const HANDSHAKE_TIMEOUT_MS = 5000;
/** Connections that have not finished their handshake, and in all (T105). */
const CONNECTIONS_MAX = 20_000;

export interface ControllerServerOptions {
  readonly parts: SessionParts;
  readonly logger: Logger;
  readonly ca: CertificateAuthority;
  /** DNS names and addresses that clients may know us by. */
  readonly names: readonly string[];
  readonly port: number;
  readonly grpc: GrpcServer<Socket>;
}

export interface ControllerServer {
  /** Another root issues now, or half of the certificate's life is over. */
  renewCertificate(): void;
  close(): void;
}

/** Resolves when the port listens; rejects with a `MeshError` that names it. */
export async function serveController(options: ControllerServerOptions): Promise<ControllerServer> {
  const { parts, logger, ca, grpc } = options;
  const { clock } = parts;
  let context = makeContext(ca, options.names);
  const renewCertificate = (): void => {
    context = makeContext(ca, options.names);
    logger.info('the controller has a new certificate');
  };
  const renewal = clock.every(LEAF_TTL_MS / 2, renewCertificate);
  const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, (raw) => {
    acceptTls(clock, logger, raw, context, (socket) => {
      createH2Session(socket, {
        role: 'server',
        ...parts,
        onStream: (stream, headers, endStream) => grpc.accept(stream, headers, endStream, socket),
      });
    });
  });
  server.maxConnections = CONNECTIONS_MAX;
  await startListening(server, { host: '::', port: options.port }, `[::]:${options.port}`);
  server.on('error', (error) => logger.error('the discovery port failed', { error }));
  return {
    renewCertificate,
    close() {
      renewal.cancel();
      server.close();
    },
  };
}

function acceptTls(
  clock: Clock,
  logger: Logger,
  raw: Socket,
  context: SecureContext,
  onSecure: (socket: TLSSocket) => void,
): void {
  const socket = new TLSSocket(raw, discoveryServerOptions(context));
  let timer: Timer | undefined;
  const fail = (error: Error): void => {
    timer?.cancel();
    logger.debug('a discovery connection ended early', { error: error.message });
    socket.destroy();
    raw.destroy();
  };
  raw.on('error', fail);
  socket.on('error', fail);
  timer = clock.after(HANDSHAKE_TIMEOUT_MS, () => fail(new Error('handshake timed out')));
  socket.once('close', () => timer?.cancel());
  socket.once('secure', () => {
    timer?.cancel();
    if (socket.alpnProtocol === 'h2') onSecure(socket);
    else fail(new Error('the client does not speak h2'));
  });
}

function makeContext(ca: CertificateAuthority, names: readonly string[]): SecureContext {
  const identity = formatIdentity({
    trustDomain: ca.trustDomain,
    namespace: 'nodemesh-system',
    serviceAccount: 'nodemesh-controller',
  });
  const keys = createKeyPair();
  const ips: IpAddress[] = [];
  const dnsNames: string[] = [];
  for (const name of names) {
    const ip = parseAddress(name);
    if (ip.ok) ips.push(ip.value);
    else dnsNames.push(name);
  }
  const issued = unwrap(ca.issueServer(keys.publicKey, identity, { dnsNames, ips }, LEAF_TTL_MS));
  const pem = privateKeyPem(keys.privateKey);
  const certificate = unwrap(createWorkloadCertificate(identity, pem, issued.chainPem));
  return createMeshSecureContext(certificate, ca.bundle);
}
