/**
 * A foreign HBONE data plane by hand, on node's own TLS and HTTP/2 and nothing of ours: gets certificates from the
 * mesh's CA over gRPC, opens tunnels and serves them, as `reference` implementations do on the wire.
 */

import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { appendFileSync, readFileSync } from 'node:fs';
import * as http2 from 'node:http2';
import { join } from 'node:path';
import { connect as connectTls, type TLSSocket } from 'node:tls';

import { create, fromBinary, toBinary } from '@bufbuild/protobuf';

import {
  IstioCertificateRequestSchema,
  IstioCertificateResponseSchema,
} from '../../src/discovery/gen/istio/v1/auth/ca_pb.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import { createCsr } from '../../src/identity/csr.ts';
import { createKeyPair, privateKeyPem } from '../../src/identity/keys.ts';
import type { TestMesh } from './harness.ts';
import { connectFrom, listenIn, type Address, type Place, type PodServer } from './pod-sockets.ts';

const CREATE = '/istio.v1.auth.IstioCertificateService/CreateCertificate';
const STEP_TIMEOUT_MS = 10_000;

/** A certificate with its key, as PEM, and whom its owner trusts. */
export interface ForeignCertificate {
  readonly key: string;
  readonly cert: string;
  readonly ca: readonly string[];
}

/** The token of a node of the demo's mesh. */
export function tokenOf(running: TestMesh, node: string): string {
  const lines = readFileSync(join(running.dir, 'tokens'), 'utf8').split('\n');
  const line = lines.find((candidate) => candidate.startsWith(`${node} `));
  if (line === undefined) throw new Error(`No token of "${node}"`);
  return line.slice(node.length + 1);
}

/** Lets another node join; the controller sees it within a second. */
export function addToken(running: TestMesh, node: string): string {
  const token = `token-of-${node}-fedcba9876543210`;
  appendFileSync(join(running.dir, 'tokens'), `${node} ${token}\n`);
  return token;
}

/** One CreateCertificate call, from the hub. Rejects with the gRPC status and message. */
export async function requestCertificate(
  running: TestMesh,
  token: string,
  identity: string,
): Promise<ForeignCertificate> {
  const root = readFileSync(join(running.dir, 'trust', 'root-cert.pem'), 'utf8');
  const raw = connectFrom(running.native, running.mesh.topology.hub, {
    host: '172.31.0.1',
    port: 15_012,
  });
  const socket = connectTls({
    socket: raw,
    ca: root,
    ALPNProtocols: ['h2'],
    checkServerIdentity: () => undefined,
  });
  socket.on('error', () => {});
  const session = http2.connect('https://172.31.0.1:15012', { createConnection: () => socket });
  session.on('error', () => {});
  try {
    const keys = createKeyPair();
    const request = toBinary(
      IstioCertificateRequestSchema,
      create(IstioCertificateRequestSchema, {
        csr: createCsr(identity as SpiffeId, keys),
        validityDuration: 3600n,
        metadata: { ImpersonatedIdentity: identity },
      }),
    );
    const head = Buffer.alloc(5);
    head.writeUInt32BE(request.length, 1);
    const stream = session.request({
      ':method': 'POST',
      ':path': CREATE,
      'content-type': 'application/grpc',
      te: 'trailers',
      authorization: `Bearer ${token}`,
    });
    let status = '';
    let message = '';
    const note = (headers: http2.IncomingHttpHeaders): void => {
      status = String(headers['grpc-status'] ?? status);
      message = String(headers['grpc-message'] ?? message);
    };
    stream.on('response', note);
    stream.on('trailers', note);
    stream.end(Buffer.concat([head, request]));
    const chunks: Buffer[] = [];
    for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk);
    if (status !== '0') throw new Error(`status ${status}: ${decodeURIComponent(message)}`);
    const body = Buffer.concat(chunks);
    const answer = fromBinary(IstioCertificateResponseSchema, body.subarray(5));
    return {
      key: privateKeyPem(keys.privateKey),
      cert: answer.certChain.slice(0, -1).join('\n'),
      ca: answer.certChain.slice(-1),
    };
  } finally {
    session.destroy();
  }
}

/** The SPIFFE identity in a peer's certificate. */
export function identityOf(socket: TLSSocket): string {
  const { raw } = socket.getPeerCertificate();
  return new X509Certificate(raw).subjectAltName?.replace(/^URI:/, '') ?? '';
}

export interface TunnelSession {
  readonly session: http2.ClientHttp2Session;
  readonly socket: TLSSocket;
  /** Identity of who answered. */
  readonly peer: string;
  close(): void;
}

/** TLS and an HTTP/2 session to `to`, or an error. Without a certificate: as an anonymous client. */
export async function openSession(
  running: TestMesh,
  place: Place,
  to: Address,
  certificate: Partial<ForeignCertificate>,
  settings: http2.Settings = {},
): Promise<TunnelSession> {
  const raw = connectFrom(running.native, place, to);
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});
  const socket = connectTls({
    socket: raw,
    ...(certificate.key === undefined ? {} : { key: certificate.key }),
    ...(certificate.cert === undefined ? {} : { cert: certificate.cert }),
    ...(certificate.ca === undefined ? {} : { ca: [...certificate.ca] }),
    rejectUnauthorized: certificate.ca !== undefined,
    minVersion: 'TLSv1.3',
    ALPNProtocols: ['h2'],
    servername: '',
    checkServerIdentity: () => undefined,
  });
  const fail = (error: Error): void => {
    socket.destroy();
    raw.destroy();
    failed.reject(error);
  };
  socket.on('error', fail);
  raw.on('error', fail);
  socket.on('close', () => failed.reject(new Error('closed before it was ready')));
  // The raw socket may be half open, so the peer's FIN alone closes nothing, neither here nor in HTTP/2.
  socket.on('end', () => fail(new Error('ended before it was ready')));
  const timer = setTimeout(() => fail(new Error('not ready in time')), STEP_TIMEOUT_MS);
  try {
    await Promise.race([once(socket, 'secureConnect'), failed.promise]);
    const session = http2.connect('https://tunnel', {
      createConnection: () => socket,
      settings: { enablePush: false, ...settings },
    });
    session.on('error', fail);
    // A 1.3 client thinks it is done before the server has looked at its certificate.
    await Promise.race([once(session, 'remoteSettings'), failed.promise]);
    return {
      session,
      socket,
      peer: identityOf(socket),
      close() {
        session.destroy();
        raw.destroy();
      },
    };
  } finally {
    clearTimeout(timer);
  }
}

export interface Tunnel {
  readonly stream: http2.ClientHttp2Stream;
  readonly status: number;
  readonly headers: http2.IncomingHttpHeaders;
}

/** Sends a CONNECT (or what `headers` make of it) and waits for the answer; rejects when reset. */
export function openTunnel(
  { session }: TunnelSession,
  authority: string,
  headers: http2.OutgoingHttpHeaders = {},
): Promise<Tunnel> {
  return new Promise((resolve, reject) => {
    const stream = session.request(
      { ':method': 'CONNECT', ':authority': authority, ...headers },
      { endStream: false },
    );
    const timer = setTimeout(() => reject(new Error('no answer in time')), STEP_TIMEOUT_MS);
    stream.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    stream.on('close', () => {
      clearTimeout(timer);
      reject(new Error(`stream closed with code ${stream.rstCode}`));
    });
    stream.once('response', (answer) => {
      clearTimeout(timer);
      resolve({ stream, status: Number(answer[':status']), headers: answer });
    });
  });
}

/** Ends our side after `send` and reads the rest of the tunnel. */
export async function exchangeThrough(tunnel: Tunnel, send: Buffer | string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  tunnel.stream.end(send);
  for await (const chunk of tunnel.stream as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

export interface HboneServer extends PodServer {
  /** CONNECT requests so far, with the identity of the session they came on. */
  readonly requests: readonly {
    readonly peer: string;
    readonly headers: http2.IncomingHttpHeaders;
  }[];
  readonly sessions: ReadonlySet<http2.ServerHttp2Session>;
}

/** A foreign server on port 15008 of a pod: hands every CONNECT to `onConnect`. */
export async function serveHbone(
  running: TestMesh,
  place: Place,
  certificate: ForeignCertificate,
  onConnect: (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void,
  settings: http2.Settings = {},
): Promise<HboneServer> {
  const requests: { peer: string; headers: http2.IncomingHttpHeaders }[] = [];
  const sessions = new Set<http2.ServerHttp2Session>();
  const server = http2.createSecureServer({
    key: certificate.key,
    cert: certificate.cert,
    ca: [...certificate.ca],
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
    settings,
  });
  server.on('session', (session) => {
    sessions.add(session);
    session.on('error', () => {});
    session.on('close', () => sessions.delete(session));
  });
  server.on('stream', (stream: http2.ServerHttp2Stream, headers) => {
    stream.on('error', () => {});
    const socket = stream.session?.socket as TLSSocket | undefined;
    requests.push({ peer: socket === undefined ? '' : identityOf(socket), headers });
    onConnect(stream, headers);
  });
  server.on('error', () => {});
  const listening = await listenIn(running.native, place, 15_008, (socket) =>
    server.emit('connection', socket),
  );
  return {
    ...listening,
    requests,
    sessions,
    close() {
      for (const session of sessions) session.destroy();
      listening.close();
    },
  };
}
