/** Sockets under a gRPC server: the same for TLS (controller) and a Unix socket (agent). */

import type { Socket } from 'node:net';

import type { ReadBuffers } from '../base/buffer-pool.ts';
import type { Clock } from '../base/clock.ts';
import type { H2Session } from '../http/h2/contract.ts';
import { createH2Session } from '../http/h2/session.ts';
import type { WindowBudget } from '../http/h2/window-budget.ts';
import type { GrpcServer } from './grpc-server.ts';

/** What every session of a process shares. */
export interface SessionShares {
  readonly clock: Clock;
  readonly readBuffers: ReadBuffers;
  readonly windowBudget: WindowBudget;
}

/** Calls one connection may have open: a stream, and certificates beside it. */
const CALLS_PER_CONNECTION_MAX = 100;

/**
 * Serves gRPC on an accepted (for TLS: secured, `h2` negotiated) socket, which the returned session owns: it
 * finds out by pings that the client is dead, and ends with the socket.
 */
export function acceptGrpcSocket<P>(
  socket: Socket,
  grpc: GrpcServer<P>,
  peer: P,
  shares: SessionShares,
): H2Session {
  // Tried on loopback with messages of 100 kB: without it each window waits for a delayed TCP
  // acknowledgement, and a response takes 5 ms instead of 0.5.
  socket.setNoDelay(true);
  return createH2Session(socket, {
    ...shares,
    role: 'server',
    limits: { streamsMax: CALLS_PER_CONNECTION_MAX },
    onStream: (stream, headers, endStream) => grpc.accept(stream, headers, endStream, peer),
  });
}
