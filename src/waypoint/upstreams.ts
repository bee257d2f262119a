/**
 * Connections to endpoints, pooled: HTTP/1.1 ones carry one request at a time and wait, idle, for the next; HTTP/2
 * sessions carry many. Both run through tunnels where the endpoint has one. Clients share them: who asks is
 * said per request (design, section 4).
 *
 * - An idle HTTP/1.1 connection is used last in, first out, and closed after `idleMs`.
 * - A connection made with an old certificate, or for other identities, is never used again.
 */

import { connect as connectTcp } from 'node:net';

import type { ReadBuffers } from '../base/buffer-pool.ts';
import type { Clock } from '../base/clock.ts';
import { errorFromNode, MeshError } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import { formatSocketAddress, type SocketAddress } from '../core/address.ts';
import type { SpiffeId } from '../core/identity.ts';
import { PORTS } from '../core/pod.ts';
import { TunnelByteStream, type ByteStream } from '../http/byte-stream.ts';
import { createH1Client, type H1ClientConnection } from '../http/h1/client-connection.ts';
import type { ScratchPool } from '../http/h1/scratch.ts';
import type { H2Session, HeaderList } from '../http/h2/contract.ts';
import type { HttpStream, HttpStreamHandlers } from '../http/http-stream.ts';
import { socketByteStream } from '../http/socket-stream.ts';
import { connectTunnel } from '../tunnel/client.ts';
import type { TunnelCredentials } from '../tunnel/handshake.ts';
import { formatForwarded, formatTraceparent } from '../tunnel/metadata.ts';
import { createTunnelPool, type TunnelPool, type TunnelTarget } from '../tunnel/pool.ts';

/** Where a request or connection goes. */
export interface UpstreamEndpoint {
  /** The workload's address and target port. */
  readonly address: SocketAddress;
  readonly protocol: 'hbone' | 'plain';
  /** For `hbone`: the identities of which the peer must show one. */
  readonly identities: readonly string[];
}

export interface UpstreamsOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly buffers: ReadBuffers;
  readonly scratch: ScratchPool;
  /** Tunnels to the endpoints' nodes. */
  readonly tunnels: TunnelPool;
  /** A session inside a stream, as the client. */
  readonly nest: (stream: ByteStream) => H2Session;
  readonly credentials: () => TunnelCredentials | undefined;
  /** What we say of ourselves inside tunnels. */
  readonly baggage: () => string;
  /** Unused connections are closed after this. Default 60,000 ms; below what servers usually allow. */
  readonly idleMs?: number;
  /** HTTP/1.1 connections to one endpoint. Default 1,024; beyond it `MESH_LIMIT_EXCEEDED`. */
  readonly connectionsMax?: number;
  /** Default 10,000 ms, for TCP; a tunnel has its own limits. */
  readonly connectTimeoutMs?: number;
}

/**
 * The permit of one connection, given back by calling it; undefined: there are as many as there may be, and `makeRoom`
 * could not end one of them. One function per service.
 */
export type AdmitConnection = (makeRoom: () => boolean) => (() => void) | undefined;

export interface UpstreamRequest {
  readonly headers: HeaderList;
  readonly endStream: boolean;
  readonly http: 'h1' | 'h2';
  /** Not on a connection that has been used: what failed there may fail again. */
  readonly fresh: boolean;
  /**
   * Asked before a new HTTP/1.1 connection is made; undefined: there must not be one more. What it returns is
   * called when the connection has closed. HTTP/2 needs none: one session carries all.
   */
  readonly admitConnection?: AdmitConnection | undefined;
}

export interface UpstreamHandlers {
  /** The request has been sent. `reused`: on a connection that had served others before. */
  onOpen(stream: HttpStream, reused: boolean): void;
  /** Nothing was sent. Once, never after `onOpen`. */
  onError(error: MeshError): void;
}

export interface Upstreams {
  readonly idleCount: number;
  /** Sends a request's head. Returns what gives up before `onOpen`. */
  open(
    endpoint: UpstreamEndpoint,
    request: UpstreamRequest,
    stream: HttpStreamHandlers,
    handlers: UpstreamHandlers,
  ): () => void;
  /** A connection for bytes. Set the stream's handlers before returning from `onOpen`. */
  dial(
    endpoint: UpstreamEndpoint,
    onOpen: (stream: ByteStream) => void,
    onError: (error: MeshError) => void,
  ): () => void;
  stop(): void;
}

const IDLE_DEFAULT_MS = 60_000;
const IDLE_LOOK_MS = 5000;
const CONNECTIONS_MAX_DEFAULT = 1024;
const CONNECT_TIMEOUT_DEFAULT_MS = 10_000;
const KEEPALIVE_MS = 60_000;
const NOTHING = (): void => {};

interface Idle {
  readonly connection: H1ClientConnection;
  /** All idle ones of a service with a limit, the longest idle first; with none undefined. */
  readonly siblings: Set<Idle> | undefined;
  sinceMs: number;
}

interface Pool {
  readonly key: string;
  readonly generation: string;
  readonly idle: Idle[];
  /** Idle, busy and being dialled. */
  count: number;
}

export function createUpstreams(options: UpstreamsOptions): Upstreams {
  const { clock, random, credentials } = options;
  const idleMs = options.idleMs ?? IDLE_DEFAULT_MS;
  const connectionsMax = options.connectionsMax ?? CONNECTIONS_MAX_DEFAULT;
  const pools = new Map<string, Pool>();
  /** Where the same endpoint was sent to before. */
  const remembered = new WeakMap<UpstreamEndpoint, Pool>();

  const look = clock.every(IDLE_LOOK_MS, () => {
    const beforeMs = clock.nowMs() - idleMs;
    for (const { idle } of pools.values()) {
      // The oldest are in front.
      let old = 0;
      while (old < idle.length && (idle[old]?.sinceMs ?? 0) <= beforeMs) old++;
      for (const { connection } of idle.splice(0, old)) connection.close();
    }
  });

  /** Of sessions straight to endpoints, while the certificate is the same. */
  const targets = new WeakMap<UpstreamEndpoint, TunnelTarget>();
  const sessionTarget = (endpoint: UpstreamEndpoint): TunnelTarget | undefined => {
    const known = targets.get(endpoint);
    const generation = endpoint.protocol === 'plain' ? '' : credentials()?.generation;
    if (known !== undefined && known.generation === generation) return known;
    const made = target(endpoint, endpoint.address);
    if (made !== undefined) targets.set(endpoint, made);
    return made;
  };

  const target = (endpoint: UpstreamEndpoint, address: SocketAddress): TunnelTarget | undefined => {
    const isPlain = endpoint.protocol === 'plain';
    const own = isPlain ? undefined : credentials();
    if (own === undefined && !isPlain) return undefined;
    return {
      source: own?.identity ?? ('' as SpiffeId),
      sourceWorkload: endpoint.protocol,
      generation: own?.generation ?? '',
      destinations: endpoint.identities.toSorted() as SpiffeId[],
      address,
    };
  };

  const dialTunnel = (
    endpoint: UpstreamEndpoint,
    onOpen: (stream: ByteStream) => void,
    onError: (error: MeshError) => void,
  ): (() => void) => {
    const { address } = endpoint;
    const tunnel = target(endpoint, { ip: address.ip, port: PORTS.hbone });
    if (tunnel === undefined) {
      onError(noCertificate(address));
      return NOTHING;
    }
    return connectTunnel(
      options.tunnels,
      clock,
      {
        target: tunnel,
        authority: formatSocketAddress(address),
        baggage: options.baggage(),
        forwarded: formatForwarded(address, ''),
        traceparent: formatTraceparent(random.bytes(24)),
      },
      {
        onOpen(stream) {
          const bytes = new TunnelByteStream(stream);
          stream.setHandlers(bytes.tunnelHandlers);
          onOpen(bytes);
        },
        onError,
      },
    );
  };

  const dialPlain = (
    { address }: UpstreamEndpoint,
    onOpen: (stream: ByteStream) => void,
    onError: (error: MeshError) => void,
  ): (() => void) => {
    const socket = connectTcp({
      host: address.ip,
      port: address.port,
      noDelay: true,
      // A silent stream is never given up for its silence: the kernel finds the host that is gone.
      keepAlive: true,
      keepAliveInitialDelay: KEEPALIVE_MS,
    });
    let settled = false;
    const settle = (error: MeshError | undefined): boolean => {
      if (settled) return false;
      settled = true;
      timer.cancel();
      socket.off('error', failed);
      if (error === undefined) return true;
      socket.on('error', () => {});
      socket.destroy();
      onError(error);
      return true;
    };
    const failed = (error: Error): void => {
      const what = `Cannot connect to "${formatSocketAddress(address)}"`;
      settle(errorFromNode(error, what));
    };
    socket.on('error', failed);
    const timer = clock.after(options.connectTimeoutMs ?? CONNECT_TIMEOUT_DEFAULT_MS, () => {
      const message = `Cannot connect to "${formatSocketAddress(address)}": no answer in time`;
      settle(new MeshError('MESH_CONNECT_TIMEOUT', message, { flag: 'CONNECT', retryable: true }));
    });
    socket.once('connect', () => {
      if (settled) return;
      const stream = socketByteStream(socket, options.buffers);
      settle(undefined);
      onOpen(stream);
    });
    return () => {
      if (settled) return;
      settled = true;
      timer.cancel();
      socket.on('error', () => {});
      socket.destroy();
    };
  };

  const dial: Upstreams['dial'] = (endpoint, onOpen, onError) =>
    endpoint.protocol === 'hbone'
      ? dialTunnel(endpoint, onOpen, onError)
      : dialPlain(endpoint, onOpen, onError);

  const sessions = createTunnelPool({
    clock,
    idleMs,
    dial: ({ address, destinations, sourceWorkload }, signal) =>
      new Promise((resolve, reject) => {
        const protocol = sourceWorkload === 'hbone' ? 'hbone' : 'plain';
        const cancel = dial(
          { address, protocol, identities: destinations },
          (stream) => resolve(options.nest(stream)),
          reject,
        );
        const abort = (): void => {
          cancel();
          reject(new MeshError('MESH_ABORTED', 'Nobody waits for this connection any more'));
        };
        if (signal.aborted) abort();
        else signal.addEventListener('abort', abort, { once: true });
      }),
  });

  const poolOf = (endpoint: UpstreamEndpoint): Pool => {
    const generation = endpoint.protocol === 'plain' ? '' : (credentials()?.generation ?? '');
    const known = remembered.get(endpoint);
    if (known?.generation === generation && pools.get(known.key) === known) return known;
    const identities = endpoint.identities.join(' ');
    const key = `${endpoint.address.ip} ${endpoint.address.port} ${generation} ${identities}`;
    const pool: Pool = pools.get(key) ?? { key, generation, idle: [], count: 0 };
    pools.set(key, pool);
    remembered.set(endpoint, pool);
    return pool;
  };

  /** By what lets connections of a service in. */
  const idleOf = new WeakMap<AdmitConnection, Set<Idle>>();
  const siblingsOf = (admit: AdmitConnection): Set<Idle> => {
    const known = idleOf.get(admit);
    if (known !== undefined) return known;
    const made = new Set<Idle>();
    idleOf.set(admit, made);
    return made;
  };

  const openH1 = (
    endpoint: UpstreamEndpoint,
    request: UpstreamRequest,
    streamHandlers: HttpStreamHandlers,
    handlers: UpstreamHandlers,
  ): (() => void) => {
    const pool = poolOf(endpoint);
    const send = (connection: H1ClientConnection): void => {
      const reused = connection.requests > 0;
      let stream: HttpStream;
      try {
        stream = connection.request(request.headers, streamHandlers, request.endStream);
      } catch (error) {
        connection.close();
        handlers.onError(errorFromNode(error, 'Cannot send a request'));
        return;
      }
      handlers.onOpen(stream, reused);
    };
    if (!request.fresh) {
      for (let last = pool.idle.pop(); last !== undefined; last = pool.idle.pop()) {
        last.siblings?.delete(last);
        if (!last.connection.idle) continue;
        send(last.connection);
        return NOTHING;
      }
    }
    if (pool.count >= connectionsMax) {
      const message = `Cannot connect to "${formatSocketAddress(endpoint.address)}": ${connectionsMax} connections are in use`;
      handlers.onError(new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'LIMIT' }));
      return NOTHING;
    }
    const forgetIfEmpty = (): void => {
      if (pool.count === 0 && pools.get(pool.key) === pool) pools.delete(pool.key);
    };
    const { admitConnection } = request;
    const siblings = admitConnection && siblingsOf(admitConnection);
    const release = admitConnection?.(() => {
      // One that nobody uses, be it to another endpoint, does not keep a request out.
      for (const idle of siblings ?? []) {
        idle.connection.close();
        return true;
      }
      return false;
    });
    if (admitConnection !== undefined && release === undefined) {
      forgetIfEmpty();
      const message = `Cannot connect to "${formatSocketAddress(endpoint.address)}": its service has as many connections as its policy allows`;
      handlers.onError(new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'OVERFLOW' }));
      return NOTHING;
    }
    pool.count++;
    let settled = false;
    const gone = (): void => {
      pool.count--;
      release?.();
      forgetIfEmpty();
    };
    const cancel = dial(
      endpoint,
      (stream) => {
        settled = true;
        const connection = createH1Client(stream, {
          scratch: options.scratch,
          onIdle() {
            own.sinceMs = clock.nowMs();
            pool.idle.push(own);
            siblings?.add(own);
          },
          onClosed: () => {
            const at = pool.idle.indexOf(own);
            if (at >= 0) pool.idle.splice(at, 1);
            siblings?.delete(own);
            gone();
          },
        });
        const own: Idle = { connection, siblings, sinceMs: 0 };
        send(connection);
      },
      (error) => {
        settled = true;
        gone();
        handlers.onError(error);
      },
    );
    return () => {
      if (settled) return;
      settled = true;
      cancel();
      gone();
    };
  };

  return {
    get idleCount() {
      let count = 0;
      for (const { idle } of pools.values()) count += idle.length;
      return count;
    },
    open(endpoint, request, streamHandlers, handlers) {
      if (request.http === 'h1') return openH1(endpoint, request, streamHandlers, handlers);
      const session = sessionTarget(endpoint);
      if (session === undefined) {
        handlers.onError(noCertificate(endpoint.address));
        return NOTHING;
      }
      return sessions.request(
        session,
        request.headers,
        streamHandlers,
        (stream) => handlers.onOpen(stream, true),
        (error) => handlers.onError(error),
        request.endStream,
      );
    },
    dial,
    stop() {
      look.cancel();
      sessions.drain();
      for (const { idle } of pools.values()) {
        for (const { connection } of idle.splice(0)) connection.close();
      }
    },
  };
}

function noCertificate(address: SocketAddress): MeshError {
  const message = `Cannot connect to "${formatSocketAddress(address)}": the waypoint has no certificate yet`;
  return new MeshError('MESH_CERTIFICATE_UNAVAILABLE', message, {
    flag: 'TLS_FAILURE',
    retryable: true,
  });
}
