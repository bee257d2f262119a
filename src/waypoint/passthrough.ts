/**
 * A connection that is carried as bytes: TCP, TLS that ends at the application, and protocols in which the server speaks
 * first. Routed once, when it opens; one record when it ends.
 */

import type { WatchedDeadline } from '../base/deadline-sweep.ts';
import { MeshError } from '../base/errors.ts';
import type { Place } from '../base/roster.ts';
import type { RouteRef } from '../core/route.ts';
import type { ServiceKey } from '../core/workload.ts';
import type { ByteStream } from '../http/byte-stream.ts';
import type { AttemptTarget } from './attempt.ts';
import { relayBytes, type ByteRelay, type ByteRelayResult } from './byte-relay.ts';
import { chooseConnectionBackend, chooseConnectionRule } from './connection-route.ts';
import type { WaypointContext } from './context.ts';
import type { ReadAheadStream } from './detect.ts';
import type { Visit } from './destination.ts';
import { judgeBytes } from './guard.ts';
import { recordBase } from './record-base.ts';
import type { Permit } from './request-limiter.ts';
import type { ServedConnection } from './served-connection.ts';

/** Endpoints tried for one connection. */
const TRIES_MAX = 3;

export class Passthrough implements WatchedDeadline {
  readonly #context: WaypointContext;
  readonly #connection: ServedConnection;
  readonly #client: ReadAheadStream;
  readonly #startMs: number;
  readonly #startWallMs: number;
  readonly #tried = new Set<string>();
  #attempts = 0;
  #target: AttemptTarget | undefined;
  #backend = '';
  #route: RouteRef | undefined;
  #routeRule = '';
  #relay: ByteRelay | undefined;
  readonly #early: Buffer[] = [];
  #earlyEnd = false;
  #permit: Permit | undefined;
  #visit: Visit | undefined;
  #giveUp: () => void = () => {};
  readonly #places: Place[] = [];
  #over = false;
  deadlineMs: number = Number.POSITIVE_INFINITY;

  constructor(context: WaypointContext, connection: ServedConnection, client: ReadAheadStream) {
    this.#context = context;
    this.#connection = connection;
    this.#client = client;
    this.#startMs = context.clock.nowMs();
    this.#startWallMs = context.clock.wallMs();
  }

  /** `serverName`: of a TLS client; undefined for TCP. */
  start(serverName: string | undefined): void {
    const { deadlines, open, running } = this.#context;
    this.#places.push(open.add(this), running.add(this), deadlines.add(this));
    this.#active();
    this.#client.setHandlers({
      // The window bounds what comes before the endpoint is there.
      onData: (chunk) => void this.#early.push(Buffer.from(chunk)),
      onEnd: () => {
        this.#earlyEnd = true;
      },
      onReset: (error) => this.#fail(error),
      onDrain: () => {},
    });
    this.#client.replay();
    const { addressed, client } = this.#connection;
    const { guard, plans, random } = this.#context;
    const refused = judgeBytes(guard, this.#connection);
    if (refused !== undefined) {
      this.#fail(refused);
      return;
    }
    const { service, port } = addressed;
    const configured = service === undefined ? undefined : plans.port(service.key, port);
    const set = configured?.consumers.get(client.namespace) ?? configured?.producer;
    const rules = serverName === undefined ? set?.tcp : set?.tls;
    if (rules === undefined || rules.length === 0) {
      this.#dial(service?.key, port);
      return;
    }
    const rule = chooseConnectionRule(rules, serverName ?? '');
    const backend = rule === undefined ? undefined : chooseConnectionBackend(rule, random);
    this.#route = rule?.route;
    this.#routeRule = rule === undefined ? '' : String(rule.index);
    if (backend === undefined) {
      const message = rule === undefined ? 'no route matches' : 'the route has no usable backend';
      this.#fail(
        new MeshError('MESH_DESTINATION_UNKNOWN', `Cannot serve the connection: ${message}`, {
          flag: 'NO_ENDPOINT',
        }),
      );
      return;
    }
    this.#dial(backend.service, backend.port);
  }

  onDeadline(): void {
    if (this.#relay?.stuck === false) {
      this.#active();
      return;
    }
    const message = 'The connection ended: no bytes for too long';
    this.#fail(new MeshError('MESH_DEADLINE_EXCEEDED', message, { flag: 'LIMIT' }));
  }

  recheck(): void {
    const target = this.#target;
    if (target === undefined) return;
    const denied =
      judgeBytes(this.#context.guard, this.#connection) ??
      this.#connection.denial(target.workload, target.address);
    if (denied !== undefined) this.#fail(denied);
  }

  /** Nothing tells the peers to leave: running connections go on until the process ends. */
  drain(): void {}

  #dial(service: ServiceKey | undefined, port: number): void {
    const { upstreams } = this.#context;
    let target: AttemptTarget | undefined;
    if (service === undefined) target = this.#connection.addressedWorkload();
    else {
      this.#backend = `${service}:${port}`;
      if (!this.#admit(service, port)) return;
      target = this.#visitOf(service, port);
    }
    if (target === undefined) {
      this.#fail(
        new MeshError('MESH_NO_HEALTHY_ENDPOINT', 'The connection has no endpoint to go to', {
          flag: 'NO_ENDPOINT',
        }),
      );
      return;
    }
    const denied = this.#connection.denial(target.workload, target.address);
    if (denied !== undefined) {
      this.#fail(denied);
      return;
    }
    this.#target = target;
    this.#tried.add(target.workload.uid);
    this.#attempts++;
    this.#giveUp = upstreams.dial(
      target,
      (stream) => this.#join(stream),
      (error) => {
        this.#visit?.end(false);
        if (this.#over) return;
        if (this.#attempts < TRIES_MAX) this.#dial(service, port);
        else this.#fail(error);
      },
    );
  }

  /** A place among the connections of the service; held until the end. */
  #admit(service: ServiceKey, port: number): boolean {
    if (this.#permit !== undefined) return true;
    const { traffic, resilience } = this.#context;
    const destination = traffic.destination(service, port);
    this.#permit = destination.limiter.openConnection();
    if (this.#permit !== undefined) return true;
    resilience.shed.add(1, [...destination.label, 'connections']);
    const message = `"${service}" has as many connections as its policy allows`;
    this.#fail(new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'OVERFLOW' }));
    return false;
  }

  #visitOf(service: ServiceKey, port: number): AttemptTarget | undefined {
    const { traffic } = this.#context;
    const destination = traffic.destination(service, port);
    const { hash } = destination.affinity([], this.#connection.sourceAddress.ip);
    this.#visit = traffic.visit(destination, hash, this.#tried);
    return this.#visit?.target;
  }

  #join(upstream: ByteStream): void {
    this.#visit?.answered();
    this.#visit?.stands();
    if (this.#over) {
      upstream.reset();
      return;
    }
    this.#giveUp = () => {};
    const early = this.#early.splice(0);
    let earlyBytes = 0;
    this.#relay = relayBytes(
      this.#client,
      upstream,
      () => this.#active(),
      ({ bytesToUpstream, bytesToClient, error }) => {
        this.#finish({ bytesToUpstream: bytesToUpstream + earlyBytes, bytesToClient, error });
      },
    );
    for (const chunk of early) {
      earlyBytes += chunk.length;
      upstream.write(chunk);
    }
    if (earlyBytes > 0) this.#client.consume(earlyBytes);
    if (this.#earlyEnd) this.#client.endNow();
  }

  #fail(error: MeshError): void {
    if (this.#over) return;
    if (this.#relay !== undefined) {
      this.#relay.close(error);
      return;
    }
    this.#giveUp();
    this.#finish({ bytesToUpstream: 0, bytesToClient: 0, error });
    this.#client.reset();
  }

  #active(): void {
    this.deadlineMs = this.#context.deadlines.nowMs() + this.#context.idleTimeoutMs;
  }

  #finish({ bytesToUpstream, bytesToClient, error }: ByteRelayResult): void {
    if (this.#over) return;
    this.#over = true;
    this.#permit?.release();
    // A connection that stood was a success of its endpoint, however it ended.
    this.#visit?.end(this.#relay === undefined ? undefined : true);
    const { clock, reporter } = this.#context;
    for (const place of this.#places) place.leave();
    reporter.ended({
      ...recordBase(this.#connection, this.#target, error),
      protocol: 'tcp',
      httpVersion: '',
      method: '',
      authority: '',
      path: '',
      userAgent: '',
      requestId: '',
      route: this.#route,
      routeRule: this.#routeRule,
      backend: this.#backend,
      requestPrincipal: '',
      status: 0,
      grpcStatus: -1,
      audited: [],
      wouldDeny: [],
      attempts: this.#attempts,
      requestBytes: bytesToUpstream,
      responseBytes: bytesToClient,
      startWallMs: this.#startWallMs,
      durationMs: clock.nowMs() - this.#startMs,
      upstreamMs: undefined,
      trace: undefined,
    });
  }
}
