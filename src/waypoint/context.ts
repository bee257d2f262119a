/** What the paths of a waypoint share: its view of the mesh, its own certificate, its upstreams and where it reports. */

import type { Clock } from '../base/clock.ts';
import type { DeadlineSweep } from '../base/deadline-sweep.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import type { Roster } from '../base/roster.ts';
import type { RequestReporter } from '../core/request-record.ts';
import type { ScratchPool } from '../http/h1/scratch.ts';
import type { H2Session, H2ServerStream, HeaderList } from '../http/h2/contract.ts';
import type { ByteStream } from '../http/byte-stream.ts';
import type { Authorizer } from '../policy/authorizer.ts';
import type { Client, NodeState } from '../state/contract.ts';
import type { WaypointMetrics } from './metrics.ts';
import type { Guard } from './guard.ts';
import type { RequestIds } from './request.ts';
import type { ServicePlans } from './service-plan.ts';
import type { ResilienceMetrics } from './resilience-metrics.ts';
import type { Traffic } from './traffic.ts';
import type { Upstreams } from './upstreams.ts';

export interface WaypointContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly deadlines: DeadlineSweep;
  readonly scratch: ScratchPool;
  readonly requestIds: RequestIds;
  readonly state: NodeState;
  readonly authorizer: Authorizer;
  readonly upstreams: Upstreams;
  readonly plans: ServicePlans;
  readonly traffic: Traffic;
  readonly resilience: ResilienceMetrics;
  readonly guard: Guard;
  readonly reporter: RequestReporter;
  readonly metrics: WaypointMetrics;
  /** Who we are when an endpoint is chosen: the waypoint's own place. */
  client(): Client;
  /** Whether what this identity (`namespace/account`) says about hops before it is believed. */
  isTrustedHop(account: string): boolean;
  /** An HTTP/2 server session inside a tunnel's stream. */
  serveH2(
    stream: ByteStream,
    onStream: (stream: H2ServerStream, headers: HeaderList, endStream: boolean) => void,
  ): H2Session;
  /** What policy may end while it runs: requests and connections. */
  readonly running: Roster<{ recheck(): void }>;
  /** Connections that have not ended. */
  readonly open: Roster<{ drain(): void }>;
  /** Of a stream without bytes in either direction. */
  readonly idleTimeoutMs: number;
}
