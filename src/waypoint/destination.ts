/**
 * One service port that requests are sent to: its endpoints and how they fare, its limits, its retry budget. Shared by
 * all requests of the process, whatever route they came by; lives as long as somebody uses it.
 */

import type { Clock } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import type { SocketAddress } from '../core/address.ts';
import { DEFAULT_OUTLIERS, type Affinity } from '../core/traffic-policy.ts';
import {
  workloadIdentity,
  type Service,
  type ServiceKey,
  type Workload,
} from '../core/workload.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import type { Client, EndpointDestination } from '../state/contract.ts';
import { targetPort } from '../state/endpoint-picker.ts';
import { chooseAddress } from '../state/resolve.ts';
import { chooseAffinity, type AffinityChoice } from './affinity.ts';
import type { BalancedEndpoint } from './balanced-endpoint.ts';
import { OutlierDetector, type Passage } from './outlier-detector.ts';
import { RequestLimiter } from './request-limiter.ts';
import type { ResilienceMetrics } from './resilience-metrics.ts';
import { RetryAllowance } from './retry-budget.ts';
import type { MergedTraffic } from './traffic-layers.ts';
import type { AdmitConnection } from './upstreams.ts';
import { UpstreamPicker, type Picked } from './upstream-picker.ts';
import { UpstreamSet, type EndpointSource } from './upstream-set.ts';

/** One request's stay at one endpoint. Exactly one `end`. */
export interface Visit {
  readonly target: EndpointDestination;
  /** The first byte of an answer has come. */
  answered(): void;
  /** The request there is a probe whose outcome is not known yet. */
  readonly probing: boolean;
  /** It is well, whatever becomes of what was begun: others may go there while a probe's stream or connection lives on. */
  stands(): void;
  /** `success`: what outlier detection makes of it; undefined: nobody knows, the client went away. */
  end(success: boolean | undefined): void;
}

export interface DestinationOptions {
  readonly key: ServiceKey;
  readonly port: number;
  readonly source: EndpointSource;
  readonly client: Client;
  readonly clock: Clock;
  readonly random: Random;
  readonly metrics: ResilienceMetrics;
}

const CLIENT_ADDRESS: Affinity = { kind: 'source-address' };
/** A failed attempt counts for balancing as if it had taken this long (Linkerd's load biaser): a fast failure must not attract. */
const FAILURE_MS = 5_000;
/** gRPC statuses without a say of the policy. */
const GRPC_FAILURES: readonly number[] = DEFAULT_OUTLIERS.grpcStatuses;

export class Destination {
  readonly limiter: RequestLimiter;
  readonly allowance: RetryAllowance;
  readonly label: readonly [service: string];
  /** `namespace/hostname:port`. */
  readonly name: string;
  readonly #options: DestinationOptions;
  readonly #set: UpstreamSet;
  readonly #picker: UpstreamPicker;
  readonly #outliers: OutlierDetector;
  #traffic: MergedTraffic;
  /** When it was asked for last. */
  usedMs: number;

  constructor(options: DestinationOptions, traffic: MergedTraffic) {
    const { key, port, source, client, clock, random, metrics } = options;
    this.#options = options;
    this.#traffic = traffic;
    this.usedMs = clock.nowMs();
    this.label = [key];
    this.name = `${key}:${port}`;
    this.limiter = new RequestLimiter(traffic.limits, clock);
    this.allowance = new RetryAllowance(traffic.retries.budget);
    const count = (): void => metrics.ejected.set(this.#outliers.awayCount, this.label);
    this.#outliers = new OutlierDetector(traffic.outliers ?? DEFAULT_OUTLIERS, random, {
      ejected: () => {
        metrics.ejections.add(1, this.label);
        count();
      },
      returned: count,
    });
    this.#set = new UpstreamSet(key, port, source, client, traffic.balancing.zone);
    this.#picker = new UpstreamPicker(this.#set, this.#outliers, traffic.balancing, random, clock);
  }

  get traffic(): MergedTraffic {
    return this.#traffic;
  }

  /** For `UpstreamRequest.admitConnection`; undefined: connections are not limited. */
  get connectionGate(): AdmitConnection | undefined {
    return this.#traffic.limits.connectionsMax === 0 ? undefined : this.#admitConnection;
  }

  readonly #admitConnection: AdmitConnection = (makeRoom) => {
    const permit =
      this.limiter.openConnection() ?? (makeRoom() ? this.limiter.openConnection() : undefined);
    if (permit !== undefined) return () => permit.release();
    this.#options.metrics.shed.add(1, [...this.label, 'connections']);
    return undefined;
  };

  /** Nothing of it is in use and nobody has asked for it since `sinceMs`. */
  isIdle(sinceMs: number): boolean {
    return (
      this.usedMs < sinceMs &&
      this.limiter.active + this.limiter.connections + this.limiter.waiting === 0
    );
  }

  configure(traffic: MergedTraffic): void {
    this.#traffic = traffic;
    this.limiter.configure(traffic.limits);
    this.allowance.configure(traffic.retries.budget);
    this.#picker.configure(traffic.balancing);
    this.#outliers.configure(traffic.outliers ?? DEFAULT_OUTLIERS);
    if (traffic.outliers === undefined) this.#outliers.clear();
  }

  /** As the policy says, else the service's own `sessionAffinity`. */
  affinity(headers: HeaderList, sourceAddress: string): AffinityChoice {
    const { source, key } = this.#options;
    const own = source.get(key)?.clientAffinity === true ? CLIENT_ADDRESS : undefined;
    const affinity = this.#traffic.balancing.affinity ?? own;
    return chooseAffinity(affinity, headers, sourceAddress, this.#options.random);
  }

  /** `exclude`: uids of earlier attempts. Undefined: nobody can take it. */
  visit(hash: number | undefined, exclude: ReadonlySet<string>): Visit | undefined {
    const picked = this.#picker.pick(hash, exclude);
    if (picked === undefined) return undefined;
    const target = this.#targetOf(picked.endpoint);
    if (target === undefined) {
      // A probe that cannot be made tells nothing.
      this.#outliers.report(picked.endpoint.workload.uid, picked.passage, undefined, 0);
      return undefined;
    }
    return new Stay(this, picked, target, this.#options.clock);
  }

  /** Whether an answer counts as a failure of the endpoint. `grpcStatus`: undefined for plain HTTP. */
  isFailure(status: number, grpcStatus: number | undefined): boolean {
    if (status >= 500) return true;
    const failures = this.#traffic.outliers?.grpcStatuses ?? GRPC_FAILURES;
    return grpcStatus !== undefined && failures.includes(grpcStatus);
  }

  /** A stay at `uid` has ended. */
  report(uid: string, passage: Passage, success: boolean | undefined, nowMs: number): void {
    if (this.#traffic.outliers === undefined && passage !== 'probe') return;
    this.#outliers.report(uid, passage, success, nowMs);
  }

  /** The same object while endpoint and service stay what they are: pools of connections are found by it. */
  #targetOf(endpoint: BalancedEndpoint): EndpointDestination | undefined {
    const { service } = this.#set;
    const { target, workload } = endpoint;
    if (target?.workload === workload && target.service === service) return target;
    return (endpoint.target = this.#makeTarget(workload, service));
  }

  #makeTarget(workload: Workload, service: Service | undefined): EndpointDestination | undefined {
    const ip = chooseAddress(workload, service, undefined);
    const port =
      service === undefined ? undefined : targetPort(workload, service, this.#options.port);
    if (service === undefined || ip === undefined || port === undefined) return undefined;
    const address: SocketAddress = { ip, port };
    return {
      kind: 'endpoint',
      workload,
      service,
      address,
      protocol: workload.tunnelProtocol === 'hbone' ? 'hbone' : 'plain',
      identities: [workloadIdentity(workload), ...service.subjectAltNames],
    };
  }
}

class Stay implements Visit {
  readonly target: EndpointDestination;
  readonly #destination: Destination;
  readonly #picked: Picked;
  readonly #clock: Clock;
  readonly #startMs: number;
  #answered = false;
  #stands = false;
  #open = true;

  constructor(destination: Destination, picked: Picked, target: EndpointDestination, clock: Clock) {
    this.target = target;
    this.#destination = destination;
    this.#picked = picked;
    this.#clock = clock;
    this.#startMs = clock.nowMs();
    picked.endpoint.active += 1;
  }

  answered(): void {
    if (this.#answered || !this.#open) return;
    this.#answered = true;
    const nowMs = this.#clock.nowMs();
    this.#picked.endpoint.observe(nowMs - this.#startMs, nowMs);
  }

  get probing(): boolean {
    return this.#open && !this.#stands && this.#picked.passage === 'probe';
  }

  stands(): void {
    if (!this.probing) return;
    this.#stands = true;
    const { uid } = this.target.workload;
    this.#destination.report(uid, 'probe', true, this.#clock.nowMs());
  }

  end(success: boolean | undefined): void {
    if (!this.#open) return;
    this.#open = false;
    const { endpoint, passage } = this.#picked;
    endpoint.active -= 1;
    const nowMs = this.#clock.nowMs();
    if (success === false) endpoint.observe(FAILURE_MS, nowMs);
    if (!this.#stands) {
      this.#destination.report(this.target.workload.uid, passage, success, nowMs);
    }
  }
}
