/**
 * A worker: carries the bytes of every captured pod of its node. It learns from the agent whom to serve and who
 * is who, takes listeners from the supervisor or makes them, and reports what it serves and counts. It may be
 * killed at any moment; what it holds alone is its own connections.
 */

import type { Socket } from 'node:net';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { PORTS, type PodUid } from '../core/pod.ts';
import type { ConnectionReporter } from '../core/connection-record.ts';
import type { Native } from '../linux/native.ts';
import { createAuthorizer } from '../policy/authorizer.ts';
import type { NodeState, Unsubscribe } from '../state/contract.ts';
import { createHandshakes } from '../tunnel/handshake.ts';
import { createTunnelPool } from '../tunnel/pool.ts';
import { createAcceptGuard } from './accept-guard.ts';
import { createConnections } from './connections.ts';
import type { ServedPod, WorkerContext } from './context.ts';
import type { Credentials } from './credentials.ts';
import { createDialQueue } from './dial-queue.ts';
import { createEdges } from './edges.ts';
import { createHandshakeLog } from './handshake-log.ts';
import { acceptPassthrough } from './inbound-passthrough.ts';
import { acceptTunnel } from './inbound.ts';
import { createJournal } from './journal.ts';
import { HEARTBEAT_MS, type HeldListener, type ToChild, type ToSupervisor } from './messages.ts';
import { acceptOutbound } from './outbound.ts';
import { createPodReadiness } from './pod-readiness.ts';
import { createPods, type PodStatus } from './pods.ts';
import type { RelayOptions } from './relay.ts';
import { createTunnelSessions, type MakeSession } from './sessions.ts';

/** Left for the process itself: its line to the agent, namespaces of new pods. */
const OWN_DESCRIPTORS = 16;
/** How long a worker without connections waits for its peers to take their GOAWAY. */
const GOODBYE_MS = 2000;
const HELD_MS = 30_000;
const GOODBYE_LOOK_MS = 50;

export interface WorkerOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly native: Native;
  readonly state: NodeState;
  readonly credentials: Credentials;
  readonly reporter: ConnectionReporter;
  readonly relayOptions: Omit<RelayOptions, 'onResult'>;
  readonly makeSession: MakeSession;
  readonly tell: (message: ToSupervisor) => void;
  /** How many descriptors this process may have, and has. */
  readonly descriptors: { readonly limit: number; readonly openCount: () => number };
  /** A descriptor of ours for descriptor `fd` of process `pid`. */
  readonly duplicateFrom: (pid: number, fd: number) => number;
  /** Which pods this worker serves, or why not, changed. */
  readonly onStatus: (statuses: readonly PodStatus[]) => void;
}

export interface Worker {
  receive(message: ToChild): void;
  readonly connectionCount: number;
  stop(): void;
}

export function createWorker(options: WorkerOptions): Worker {
  const { clock, logger, state, credentials, tell } = options;
  const guard = createAcceptGuard({ clock, logger, ...options.descriptors });
  const connections = createConnections(clock);
  const handshakes = createHandshakes(clock);
  const sessions = createTunnelSessions(handshakes, options.makeSession);
  const pool = createTunnelPool({
    clock,
    dial: (target, signal) =>
      sessions.dial(
        target,
        pods.get(target.sourceWorkload as PodUid)?.sockets,
        credentials.get(target.source),
        signal,
      ),
  });
  const held = new Map<string, HeldListener>();
  const workloadWatches = new Map<PodUid, Unsubscribe>();
  let supervisorPid = 0;
  let draining = false;

  const context: WorkerContext = {
    clock,
    random: options.random,
    logger,
    native: options.native,
    relayOptions: options.relayOptions,
    state,
    authorizer: createAuthorizer(state.policies),
    connections,
    journal: createJournal(clock, options.reporter),
    edges: createEdges(),
    pool,
    handshakes,
    handshakeLog: createHandshakeLog(clock, logger, (code) =>
      options.reporter.handshakeFailed(code),
    ),
    sessions,
    servedPod: (uid) => pods.get(uid),
    credentials: (identity) => credentials.get(identity),
  };

  /** Pods of whose workload we have heard, be it that there is none. */
  const known = new Set<PodUid>();
  const readiness = createPodReadiness(clock, (uid) => {
    const pod = pods.get(uid);
    return (
      pod !== undefined &&
      known.has(uid) &&
      state.policiesSynced &&
      credentials.get(pod.identity) !== undefined
    );
  });

  const accept = (pod: ServedPod, port: number, socket: Socket): void => {
    if (readiness.isReady(pod.uid)) serve(pod, port, socket);
    else {
      socket.on('error', () => {});
      readiness.whenReady(pod.uid, () => {
        serve(pod, port, socket);
        finish();
      });
    }
  };

  const serve = (pod: ServedPod, port: number, socket: Socket): void => {
    if (port === PORTS.outbound) acceptOutbound(context, pod, socket);
    else if (port === PORTS.hbone) acceptTunnel(context, pod, socket);
    else acceptPassthrough(context, pod, socket);
  };

  const pods = createPods({
    clock,
    random: options.random,
    logger,
    native: options.native,
    state,
    guard,
    dialQueue: createDialQueue(clock, options.descriptors.limit - OWN_DESCRIPTORS),
    adopt(pod, port, netnsInode) {
      const listener = held.get(`${pod}:${port}`);
      held.delete(`${pod}:${port}`);
      if (listener?.netnsInode !== netnsInode) return undefined;
      return options.duplicateFrom(supervisorPid, listener.fd);
    },
    created: (listener) => tell({ kind: 'listening', listener }),
    accept,
    onChange: () => report(),
  });

  /** Who listens but lacks something does not serve: a predecessor would close its listeners on that word. */
  const report = (): void => {
    const statuses = pods.statuses().map((status) =>
      status.listening && !readiness.isReady(status.pod)
        ? {
            ...status,
            listening: false,
            reason: 'workload, policies or certificate are not here',
          }
        : status,
    );
    const serving = statuses.filter(({ listening }) => listening).map(({ pod }) => pod);
    tell({ kind: 'serving', pods: serving });
    options.onStatus(statuses);
  };

  const recheck = (): void =>
    connections.recheck((connection) =>
      context.authorizer.decide(connection.facts, connection.target()),
    );

  /** Something that pods need has arrived, or gone. */
  const reassess = (): void => {
    readiness.poke();
    report();
  };
  credentials.onChange(reassess);

  /** What is held for pods that went while nobody was here; long after the agent has told of those that are there. */
  const letGoOfRest = (): void => {
    clock.after(HELD_MS, () => {
      if (!state.policiesSynced) {
        letGoOfRest();
        return;
      }
      const gone = new Set([...held.values()].map(({ pod }) => pod));
      held.clear();
      for (const pod of gone) if (pods.get(pod) === undefined) tell({ kind: 'unlistened', pod });
    });
  };

  const syncPods = (): void => {
    const wanted = [...state.pods.capturedPods()];
    for (const { pod } of wanted) {
      if (workloadWatches.has(pod.podUid)) continue;
      const heard = (): void => {
        if (known.has(pod.podUid)) return;
        known.add(pod.podUid);
        reassess();
      };
      const changed = (): void => {
        heard();
        recheck();
      };
      workloadWatches.set(pod.podUid, state.onWorkloadChange(pod.workloadUid, changed));
      // On demand: asks for the pod's own workload, without which nothing is decided.
      state.whenKnown([pod.workloadUid]).then(heard, (error: unknown) => {
        logger.warn('a captured pod is not known to the controller yet', {
          pod: pod.podUid,
          error: error instanceof Error ? error.message : String(error),
        });
      });
    }
    const uids = new Set(wanted.map(({ pod }) => pod.podUid));
    for (const [uid, stop] of workloadWatches) {
      if (uids.has(uid)) continue;
      stop();
      workloadWatches.delete(uid);
      known.delete(uid);
      pool.release(uid);
      sessions.drain(uid);
      tell({ kind: 'unlistened', pod: uid });
    }
    if (!draining) pods.set(wanted);
  };

  const heartbeat = clock.every(HEARTBEAT_MS, () => tell({ kind: 'heartbeat' }));
  const unsubscribes = [
    state.onPolicyChange(() => {
      reassess();
      recheck();
    }),
    state.onCapturedChange(syncPods),
  ];

  let finishing = false;
  let goodbyeEndMs: number | undefined;
  // Looked at once the loop has turned: a connection that was made is registered anew as a relay in the same turn.
  const finish = (): void => {
    if (!draining || finishing) return;
    finishing = true;
    clock.after(0, () => {
      finishing = false;
      if (connections.count > 0 || readiness.waitingCount > 0) return;
      // Peers learn by GOAWAY that their tunnels end here; a moment for that, or they meet a reset.
      const quiet = handshakes.unfinishedCount === 0 && sessions.acceptedCount === 0;
      goodbyeEndMs ??= clock.nowMs() + GOODBYE_MS;
      if (quiet || clock.nowMs() >= goodbyeEndMs) tell({ kind: 'drained' });
      else clock.after(GOODBYE_LOOK_MS, finish);
    });
  };
  connections.onIdle(finish);

  const drain = (deadlineMs: number): void => {
    if (draining) return;
    draining = true;
    pods.release();
    sessions.drain();
    pool.drain();
    clock.after(deadlineMs, () => {
      const message = 'Connection ended: the proxy was replaced and its drain deadline passed';
      connections.closeAll(new MeshError('MESH_DRAINED', message, { flag: 'DRAIN' }));
      // Resets are on their way once the loop has turned.
      clock.after(100, () => tell({ kind: 'drained' }));
    });
    finish();
  };

  return {
    get connectionCount() {
      return connections.count;
    },
    receive(message) {
      switch (message.kind) {
        case 'start':
          supervisorPid = message.supervisorPid;
          for (const listener of message.held) {
            held.set(`${listener.pod}:${listener.port}`, listener);
          }
          if (held.size > 0) letGoOfRest();
          break;
        case 'relisten':
          pods.renew();
          break;
        case 'release':
          pods.release(message.pod);
          break;
        case 'reclaim':
          pods.reclaim();
          syncPods();
          break;
        case 'drain':
          drain(message.deadlineMs);
          break;
        case 'retire':
          break;
      }
    },
    stop() {
      heartbeat.cancel();
      guard.stop();
      for (const stop of unsubscribes) stop();
      for (const stop of workloadWatches.values()) stop();
      context.journal.stop();
      pods.release();
    },
  };
}
