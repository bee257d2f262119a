/** What the paths of a worker share: its view of the mesh, its pods, its tunnels and where it reports. */

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import type { SpiffeId } from '../core/identity.ts';
import type { CapturedPod, PodUid } from '../core/pod.ts';
import { FORBIDDEN_TARGET_PORTS } from '../core/pod.ts';
import type { Workload } from '../core/workload.ts';
import type { Native } from '../linux/native.ts';
import type { Authorizer } from '../policy/authorizer.ts';
import type { NodeState } from '../state/contract.ts';
import type { Handshakes, TunnelCredentials } from '../tunnel/handshake.ts';
import type { TunnelPool } from '../tunnel/pool.ts';
import type { Connections } from './connections.ts';
import type { Edges } from './edges.ts';
import type { HandshakeLog } from './handshake-log.ts';
import type { Journal } from './journal.ts';
import type { TunnelSessions } from './sessions.ts';
import type { PodSockets } from './pod-sockets.ts';
import type { RelayOptions } from './relay.ts';

/** A pod this worker serves. */
export interface ServedPod {
  readonly captured: CapturedPod;
  readonly uid: PodUid;
  readonly identity: SpiffeId;
  readonly sockets: PodSockets;
  /** Its workload in the mesh's view; undefined until it arrives. */
  workload(): Workload | undefined;
}

export interface WorkerContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly native: Native;
  readonly relayOptions: Omit<RelayOptions, 'onResult'>;
  readonly state: NodeState;
  readonly authorizer: Authorizer;
  readonly connections: Connections;
  readonly journal: Journal;
  readonly edges: Edges;
  readonly pool: TunnelPool;
  readonly handshakes: Handshakes;
  readonly handshakeLog: HandshakeLog;
  readonly sessions: TunnelSessions;
  servedPod(uid: PodUid): ServedPod | undefined;
  /** Undefined while the identity has no certificate here. */
  credentials(identity: SpiffeId): TunnelCredentials | undefined;
}

export function isForbiddenPort(port: number): boolean {
  return FORBIDDEN_TARGET_PORTS.includes(port);
}
