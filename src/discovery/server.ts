/**
 * The delta ADS server: gives each authenticated client what its view holds, and takes its reports.
 *
 * - Nothing is read before `authenticate` has said who the client is; a refusal is opaque outside.
 * - A client has at most one response per type that it has not acknowledged. Changes meanwhile merge into a set
 *   of names, so a client that reads slowly or not at all costs neither memory nor anybody else's time (C109).
 * - A client's rejection (NACK) is counted and reported; the others and the rest of the response stand.
 */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Result } from '../base/result.ts';
import type { GrpcMetadata } from './grpc-client.ts';
import type { GrpcMethod, GrpcServerCall } from './grpc-server.ts';
import { GRPC_STATUS, grpcError } from './grpc-status.ts';
import type { ResourceCache } from './resource-cache.ts';
import { createDiscoveryServerMetrics } from './server-metrics.ts';
import { ServerStream } from './server-stream.ts';
import type { NodeClaim, Rejection } from './wire-messages.ts';
import type { WireResource } from './wire-resource.ts';

/** Who a client was proven to be. Whoever authenticates may keep more in its own, wider type. */
export interface ClientInfo {
  /** One per pod or worker: what is limited per client goes by it. */
  readonly id: string;
  /** Streams that it may have; default `STREAMS_PER_CLIENT_MAX`. For an id that several processes share. */
  readonly streamsMax?: number;
}

export type View = ReadonlyMap<string, ResourceCache>;

export interface DiscoveryServerOptions<C extends ClientInfo, P> {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly registry: Registry;
  /** Runs first, on the request's metadata and what is known of the connection. */
  authenticate(metadata: GrpcMetadata, peer: P): Promise<Result<C>>;
  /**
   * The caches this client may see, by type URL (T106). Waits until they are complete: what is missing from
   * them counts as removed. `claim` is what the client says of itself, and proves nothing.
   */
  viewFor(client: C, claim: NodeClaim): View | Promise<View>;
  /** What a client sent upward; awaited before its next request is read. */
  onReports?(client: C, typeUrl: string, resources: readonly WireResource[]): void | Promise<void>;
  /** What a client did not accept; it keeps the last good. */
  onRejected?(client: C, typeUrl: string, rejections: readonly Rejection[]): void;
  /** The last stream of this client's id has ended. */
  onClientGone?(client: C): void;
  /** Bounds a request; what a client holds of a whole cluster must fit. Default 64 MiB. */
  readonly requestMaxBytes?: number;
  /** Least time between two unasked responses of a type to a client; answers never wait. Default 20. */
  readonly pushIntervalMs?: number;
}

export interface DiscoveryServer<C extends ClientInfo, P> {
  /** To be served under `DISCOVERY_PATH` (wire-messages.ts). */
  readonly method: GrpcMethod<P>;
  readonly clientCount: number;
  /**
   * Ids of the clients that are connected, take this type and have not acknowledged this generation of its
   * cache. A client that has rejected a resource of it counts as having it: it keeps the last good.
   */
  behind(published: { readonly typeUrl: string; readonly generation: number }): Iterable<string>;
  /** Ends the streams of the clients that `matches` names; they may come back and authenticate anew. */
  disconnect(matches: (client: C) => boolean): void;
}

const REQUEST_BYTES_DEFAULT = 67_108_864;
const PUSH_INTERVAL_DEFAULT_MS = 20;
/** Streams in all; each costs a few kilobytes. */
export const STREAMS_MAX = 10_000;
/** Streams of one client id: an upgrade overlaps two; above, the oldest is taken to be dead and ended. */
export const STREAMS_PER_CLIENT_MAX = 4;

export function createDiscoveryServer<C extends ClientInfo, P>(
  options: DiscoveryServerOptions<C, P>,
): DiscoveryServer<C, P> {
  const { logger } = options;
  const metrics = createDiscoveryServerMetrics(options.registry);
  const byClient = new Map<string, Set<ServerStream<C, P>>>();
  let streamCount = 0;

  const identify = async (call: GrpcServerCall<P>): Promise<C> => {
    const client = await options.authenticate(call.metadata, call.peer);
    if (client.ok) return client.value;
    metrics.refused.add(1, ['unauthenticated']);
    const error = new MeshError(
      'MESH_DISCOVERY_UNAUTHENTICATED',
      `Cannot serve discovery client: ${client.error.message}`,
      { cause: client.error },
    );
    logger.warn('Discovery client refused', { error });
    // Whoever proves callers cannot be asked right now: not the caller's fault, and not the last word.
    if (client.error.retryable) throw grpcError(GRPC_STATUS.UNAVAILABLE, 'Try again', error);
    throw grpcError(GRPC_STATUS.UNAUTHENTICATED, 'Unauthenticated', error);
  };

  const add = (stream: ServerStream<C, P>): void => {
    const { id, streamsMax = STREAMS_PER_CLIENT_MAX } = stream.client;
    const streams = byClient.get(id) ?? new Set();
    byClient.set(id, streams);
    const [oldest] = streams;
    if (oldest !== undefined && streams.size >= streamsMax) {
      metrics.refused.add(1, ['superseded']);
      streams.delete(oldest);
      oldest.end(GRPC_STATUS.ABORTED, 'Superseded by newer streams of the same client');
    }
    streams.add(stream);
    metrics.clients.set(++streamCount);
  };

  const remove = (stream: ServerStream<C, P>): void => {
    const { id } = stream.client;
    const streams = byClient.get(id);
    streams?.delete(stream);
    metrics.clients.set(--streamCount);
    if (streams?.size !== 0) return;
    byClient.delete(id);
    options.onClientGone?.(stream.client);
  };

  return {
    get clientCount() {
      return byClient.size;
    },
    *behind({ typeUrl, generation }) {
      for (const [id, streams] of byClient) {
        for (const stream of streams) {
          if (!stream.isBehind(typeUrl, generation)) continue;
          yield id;
          break;
        }
      }
    },
    disconnect(matches) {
      for (const stream of [...byClient.values()].flatMap((streams) => [...streams])) {
        if (!matches(stream.client)) continue;
        metrics.refused.add(1, ['disconnected']);
        stream.end(GRPC_STATUS.UNAVAILABLE, 'Disconnected by the server');
      }
    },
    method: {
      requestMaxBytes: options.requestMaxBytes ?? REQUEST_BYTES_DEFAULT,
      async handle(call) {
        const client = await identify(call);
        if (streamCount >= STREAMS_MAX) {
          metrics.refused.add(1, ['limit']);
          throw grpcError(GRPC_STATUS.RESOURCE_EXHAUSTED, `More than ${STREAMS_MAX} streams`);
        }
        const stream = new ServerStream<C, P>({
          options,
          pushIntervalMs: options.pushIntervalMs ?? PUSH_INTERVAL_DEFAULT_MS,
          metrics,
          call,
          client,
        });
        add(stream);
        try {
          call.start();
          await stream.serve();
        } finally {
          remove(stream);
        }
      },
    },
  };
}
