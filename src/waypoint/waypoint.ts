/**
 * The waypoint: accepts tunnels, serves what is bound to it, and leaves in order. Composed here from the parts of this
 * folder; sockets, keys and configuration come from outside.
 */

import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';

import type { ReadBuffers } from '../base/buffer-pool.ts';
import type { Clock } from '../base/clock.ts';
import { createDeadlineSweep } from '../base/deadline-sweep.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Random } from '../base/random.ts';
import { Roster } from '../base/roster.ts';
import type { RequestReporter } from '../core/request-record.ts';
import { createScratchPool } from '../http/h1/scratch.ts';
import type { ByteStream } from '../http/byte-stream.ts';
import type { H2ServerStream, H2Session, HeaderList } from '../http/h2/contract.ts';
import type { H2Limits } from '../http/h2/limits.ts';
import { createAuthorizer } from '../policy/authorizer.ts';
import { isWaypointOnly } from '../core/policy.ts';
import type { Client, NodeState } from '../state/contract.ts';
import { createHandshakes, type TunnelCredentials } from '../tunnel/handshake.ts';
import { formatBaggage, metadataOf } from '../tunnel/metadata.ts';
import { createTunnelPool } from '../tunnel/pool.ts';
import { createTunnelAcceptor } from './accept.ts';
import type { WaypointContext } from './context.ts';
import { dialTunnelSession } from './dial-session.ts';
import { createWaypointMetrics } from './metrics.ts';
import type { Guard } from './guard.ts';
import { RequestIds } from './request.ts';
import { ServedConnection, type ConnectionFacts } from './served-connection.ts';
import type { ServicePlans } from './service-plan.ts';
import type { ResilienceMetrics } from './resilience-metrics.ts';
import type { Traffic } from './traffic.ts';
import { createUpstreams } from './upstreams.ts';

/** Makes sessions with the process's buffers, windows and limits. */
export interface SessionFactory {
  overSocket(
    socket: TLSSocket,
    role: 'client' | 'server',
    onStream?: (stream: H2ServerStream, headers: HeaderList, endStream: boolean) => void,
  ): H2Session;
  overStream(
    stream: ByteStream,
    role: 'client' | 'server',
    onStream?: (stream: H2ServerStream, headers: HeaderList, endStream: boolean) => void,
  ): H2Session;
}

/**
 * Of HTTP/2 sessions inside tunnels: each is one application's, not a node's with all of its users. It may still reset all of
 * its streams twice a second before they are answered; a flood of resets (T60) is over before others notice.
 */
export const CLIENT_SESSION_LIMITS: Partial<H2Limits> = {
  earlyResets: { burst: 500, perSecond: 500 },
};

export interface WaypointOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly buffers: ReadBuffers;
  readonly sessions: SessionFactory;
  readonly state: NodeState;
  readonly plans: ServicePlans;
  readonly traffic: Traffic;
  readonly resilience: ResilienceMetrics;
  readonly guard: Guard;
  readonly reporter: RequestReporter;
  readonly registry: Registry;
  /** Undefined while there is no certificate. */
  readonly credentials: () => TunnelCredentials | undefined;
  /** The waypoint's own place, for choosing endpoints near it. */
  readonly client: () => Client;
  /** `namespace/account` of hops whose forwarding headers are believed. Default none. */
  readonly trustedHops?: ReadonlySet<string>;
  /**
   * How long nothing may pass while somebody waits: for the head of an answer, or for a peer that does not take
   * its bytes. A stream that is merely silent is left alone. Default 3,600,000 ms.
   */
  readonly idleTimeoutMs?: number;
}

export interface Waypoint {
  /** A socket accepted on the HBONE port. */
  accept(socket: Socket): void;
  /** A connection that came in some other way than through a tunnel; whoever calls has proved who the client is. */
  serve(stream: ByteStream, facts: ConnectionFacts): void;
  /** Requests and connections that have not ended. */
  readonly openCount: number;
  readonly sessionCount: number;
  /** No new ones; idle connections are closed, answers say so, running ones go on. */
  drain(): void;
  stop(): void;
}

const IDLE_DEFAULT_MS = 3_600_000;
const NO_HOPS: ReadonlySet<string> = new Set();

export function createWaypoint(options: WaypointOptions): Waypoint {
  const { clock, random, logger, state, sessions } = options;
  const trustedHops = options.trustedHops ?? NO_HOPS;
  const handshakes = createHandshakes(clock);
  const deadlines = createDeadlineSweep(clock);
  const scratch = createScratchPool();
  const running = new Roster<{ recheck(): void }>();
  const recheck = (): void => running.each((one) => one.recheck());
  const stopRecheck = state.onPolicyChange(recheck);
  options.guard.policies.onChange(recheck);
  const open = new Roster<{ drain(): void }>();
  const tunnels = createTunnelPool({
    clock,
    dial: (target, signal) =>
      dialTunnelSession(
        {
          handshakes,
          credentials: options.credentials,
          make: (socket) => sessions.overSocket(socket, 'client'),
        },
        target,
        signal,
      ),
  });
  const context: WaypointContext = {
    clock,
    random,
    logger,
    deadlines,
    scratch,
    requestIds: new RequestIds(random),
    state,
    authorizer: createAuthorizer(state.policies, isWaypointOnly),
    upstreams: createUpstreams({
      clock,
      random,
      buffers: options.buffers,
      scratch,
      tunnels,
      nest: (stream) => sessions.overStream(stream, 'client'),
      credentials: options.credentials,
      baggage: () => {
        const own = state.workloads.get(options.client().uid);
        return own === undefined ? '' : formatBaggage(metadataOf(own));
      },
    }),
    plans: options.plans,
    traffic: options.traffic,
    resilience: options.resilience,
    running,
    guard: options.guard,
    reporter: options.reporter,
    metrics: createWaypointMetrics(options.registry),
    client: options.client,
    isTrustedHop: (account) => trustedHops.has(account),
    serveH2: (stream, onStream) => sessions.overStream(stream, 'server', onStream),
    open,
    idleTimeoutMs: options.idleTimeoutMs ?? IDLE_DEFAULT_MS,
  };
  const acceptor = createTunnelAcceptor({
    context,
    handshakes,
    credentials: options.credentials,
    makeSession: (socket, onStream) => sessions.overSocket(socket, 'server', onStream),
  });
  return {
    accept: (socket) => acceptor.accept(socket),
    serve: (stream, facts) => new ServedConnection(context, facts).serve(stream),
    get openCount() {
      return open.size;
    },
    get sessionCount() {
      return acceptor.sessionCount;
    },
    drain() {
      acceptor.drain();
      open.each((connection) => connection.drain());
    },
    stop() {
      stopRecheck();
      deadlines.stop();
      context.upstreams.stop();
      tunnels.drain();
    },
  };
}
