/**
 * A waypoint on loopback with everything real but the control plane: TLS tunnels in, applications on sockets or behind
 * tunnels of their own, and the view of the mesh written by the test.
 */

import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Duplex } from 'node:stream';

import { createReadBuffers } from '../../src/base/buffer-pool.ts';
import { createSystemClock, type Clock } from '../../src/base/clock.ts';
import type { LogFields, Logger } from '../../src/base/logger.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { Policy } from '../../src/core/policy.ts';
import type { RequestRecord } from '../../src/core/request-record.ts';
import type { RouteSet, WaypointService } from '../../src/core/route.ts';
import type { AppProtocol } from '../../src/core/workload.ts';
import type { H2Session, H2Stream } from '../../src/http/h2/contract.ts';
import type { H2Limits } from '../../src/http/h2/limits.ts';
import { createH2Session, createNestedH2Session } from '../../src/http/h2/session.ts';
import { createWindowBudget } from '../../src/http/h2/window-budget.ts';
import type { CertificateAuthority } from '../../src/identity/ca.ts';
import type { Client, NodeState } from '../../src/state/contract.ts';
import { createNodeState } from '../../src/state/node-state.ts';
import { createHandshakes } from '../../src/tunnel/handshake.ts';
import { receiveConnect } from '../../src/tunnel/server.ts';
import type { RateStore } from '../../src/waypoint/rate-limiter.ts';
import { createHistogramStore } from '../../src/telemetry/histogram-store.ts';
import { createRegistry } from '../../src/telemetry/registry.ts';
import { createRequestLog } from '../../src/telemetry/request-log.ts';
import { createRequestMetrics } from '../../src/telemetry/request-metrics.ts';
import { createRequestReporter } from '../../src/telemetry/request-reporter.ts';
import { createSeriesStore } from '../../src/telemetry/series-store.ts';
import type { Tracing } from '../../src/telemetry/tracing.ts';
import { createHttpPolicyBook } from '../../src/policy/http-policy-book.ts';
import type { Guard } from '../../src/waypoint/guard.ts';
import { createJwksStore } from '../../src/waypoint/jwks.ts';
import { createRequestAuthenticator } from '../../src/waypoint/request-authenticator.ts';
import { createServicePlans, type ServicePlans } from '../../src/waypoint/service-plan.ts';
import { createResilienceMetrics } from '../../src/waypoint/resilience-metrics.ts';
import { Traffic } from '../../src/waypoint/traffic.ts';
import {
  CLIENT_SESSION_LIMITS,
  createWaypoint,
  type SessionFactory,
  type Waypoint,
} from '../../src/waypoint/waypoint.ts';
import { key, NETWORK, service, workload } from '../state/build.ts';
import { createTestCa, credentialsOf } from '../tunnel/fixture.ts';

export const WAYPOINT: SpiffeId = 'spiffe://cluster.local/ns/shop/sa/waypoint' as SpiffeId;
export const WEB: SpiffeId = 'spiffe://cluster.local/ns/shop/sa/web' as SpiffeId;
const APP: SpiffeId = 'spiffe://cluster.local/ns/shop/sa/default' as SpiffeId;
export const NO_ROUTES: RouteSet = { http: [], tls: [], tcp: [] };

export interface RigApp {
  /** Service name; its address is `10.96.0.N`, N counted from 1 in order. */
  readonly name: string;
  /** Ports of its endpoints on 127.0.0.1. */
  readonly ports: readonly number[];
  readonly appProtocol?: AppProtocol;
  readonly routes?: RouteSet;
  /** Endpoints stand behind a tunnel of their own. */
  readonly tunnelled?: boolean;
}

export interface RigOptions {
  readonly apps: readonly RigApp[];
  readonly policies?: readonly Policy[];
  readonly trustedHops?: ReadonlySet<string>;
  readonly idleTimeoutMs?: number;
  readonly rateStore?: RateStore;
  /** Of the waypoint and its policies; sessions and the mesh have the system's. */
  readonly clock?: Clock;
  readonly tracing?: Tracing;
  /** Of the HTTP/2 sessions inside tunnels. */
  readonly limits?: Partial<H2Limits>;
}

export interface LogLine {
  readonly message: string;
  readonly fields: LogFields;
}

export interface Rig {
  readonly waypoint: Waypoint;
  readonly plans: ServicePlans;
  readonly traffic: Traffic;
  readonly guard: Guard;
  readonly state: NodeState;
  readonly records: RequestRecord[];
  /** What the access and audit logs say. */
  readonly lines: readonly LogLine[];
  /** The sum of the series that have all of these label values. */
  metric(name: string, labels?: Readonly<Record<string, string>>): number;
  readonly ca: CertificateAuthority;
  /** Resolves when that many requests have been recorded. */
  recorded(count: number): Promise<void>;
  /** A connection through the tunnel to service `name`, as its client's application sees it. */
  open(name: string, identity?: SpiffeId): Promise<Duplex>;
  /** A tunnel session as `identity`. */
  session(identity?: SpiffeId): Promise<H2Session>;
  readonly port: number;
  vip(name: string): string;
  setRoutes(name: string, routes: RouteSet): void;
  close(): Promise<void>;
}

const clock = createSystemClock();
const random = createSystemRandom();

export const silentLogger: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: (message: string, fields?: LogFields) =>
    process.emitWarning(`${message} ${JSON.stringify(fields)}`),
  child: () => silentLogger,
};

/** Keeps what is logged, as objects. */
function recordingLogger(lines: LogLine[]): Parameters<typeof createRequestLog>[0] {
  const keep = (message: string, fields: LogFields = {}): void => {
    lines.push({ message, fields });
  };
  const logger: Logger = { debug: keep, info: keep, warn: keep, error: keep, child: () => logger };
  return { child: () => logger, lines: () => ({ write: () => false }) };
}

/** A stream of a tunnel as a Node stream: what Node's own HTTP client can speak over. */
class TunnelDuplex extends Duplex {
  readonly stream: H2Stream;
  #blocked: (() => void) | undefined;
  reset = false;

  constructor(stream: H2Stream) {
    super({ allowHalfOpen: true, highWaterMark: 64 * 1024 });
    this.stream = stream;
    this.on('error', () => {});
    stream.setHandlers({
      onHeaders: () => {},
      onData: (chunk) => void this.push(Buffer.from(chunk)),
      onEnd: () => void this.push(null),
      onReset: (error) => {
        this.reset = true;
        this.destroy(error);
      },
      onDrain: () => {
        const blocked = this.#blocked;
        this.#blocked = undefined;
        blocked?.();
      },
    });
  }

  override _read(size: number): void {
    this.stream.consume(Math.min(size, 0));
  }

  override push(chunk: Buffer | null): boolean {
    // Read through: the window is given back as bytes are taken over here.
    if (chunk !== null) this.stream.consume(chunk.length);
    return super.push(chunk);
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    if (this.stream.write(chunk)) done();
    else this.#blocked = done;
  }

  override _final(done: () => void): void {
    this.stream.end();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.stream.reset(8);
    done(error);
  }

  /** For Node's HTTP agent, which takes it for a socket. */
  setNoDelay(): this {
    return this;
  }

  setKeepAlive(): this {
    return this;
  }

  setTimeout(): this {
    return this;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }
}

export function listen(server: Server, host = '127.0.0.1', port = 0): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => resolve((server.address() as AddressInfo).port));
  });
}

export async function createRig(options: RigOptions): Promise<Rig> {
  const ca = await createTestCa();
  const parts = { clock, readBuffers: createReadBuffers(), windowBudget: createWindowBudget() };
  const sessions: SessionFactory = {
    overSocket: (socket, role, onStream) =>
      createH2Session(socket, { role, ...parts, ...(onStream === undefined ? {} : { onStream }) }),
    overStream: (stream, role, onStream) =>
      createNestedH2Session(stream, {
        role,
        ...parts,
        ...(role === 'server' ? { limits: { ...CLIENT_SESSION_LIMITS, ...options.limits } } : {}),
        ...(onStream === undefined ? {} : { onStream }),
      }),
  };
  const state = createNodeState({ clock, random });
  const plans = createServicePlans(state, { namespace: 'shop', name: 'waypoint' });
  const closers: (() => void)[] = [];
  const address = (index: number): string => `10.96.0.${index + 1}`;
  const config = (app: RigApp, routes: RouteSet): WaypointService => ({
    key: key(app.name),
    ports: [
      {
        port: 80,
        appProtocol: app.appProtocol ?? 'UNKNOWN',
        producer: routes,
        consumers: new Map(),
      },
    ],
  });
  let podCount = 0;
  for (const [index, app] of options.apps.entries()) {
    const ports = [
      { servicePort: 80, targetPort: 0, appProtocol: app.appProtocol ?? 'UNKNOWN' },
    ] as const;
    state.applyAddresses({
      services: [service(app.name, { vips: [address(index)], ports })],
      workloads: await Promise.all(
        app.ports.map(async (targetPort, pod) => {
          const tunnelled = app.tunnelled === true;
          const host = tunnelled ? podAddress(podCount++) : '127.0.0.1';
          if (tunnelled) closers.push(await createPodTunnel(host, ca, parts));
          return workload(`${app.name}-${pod}`, {
            addresses: [host],
            tunnelProtocol: tunnelled ? 'hbone' : 'none',
            services: new Map([
              [key(app.name), [{ servicePort: 80, targetPort, appProtocol: 'UNKNOWN' as const }]],
            ]),
          });
        }),
      ),
    });
    plans.apply([config(app, app.routes ?? NO_ROUTES)], []);
  }
  state.applyPolicies({ policies: options.policies ?? [] });
  state.markPoliciesSynced();
  state.markAddressesSynced();
  const own = credentialsOf(ca, WAYPOINT);
  const place = (): Client => ({
    uid: 'waypoint',
    namespace: 'shop',
    network: NETWORK,
    clusterId: 'cluster1',
    node: 'node1',
    locality: { region: '', zone: '', subzone: '' },
  });
  const store = createSeriesStore(clock);
  const histograms = createHistogramStore(store);
  const registry = createRegistry(store, histograms);
  const lines: LogLine[] = [];
  const reporter = createRequestReporter({
    metrics: createRequestMetrics(store, histograms),
    log: createRequestLog(recordingLogger(lines)),
    tracing: options.tracing,
  });
  const resilience = createResilienceMetrics(registry);
  const traffic = new Traffic({
    clock: options.clock ?? clock,
    random,
    source: state.services,
    client: place,
    metrics: resilience,
    rateStore: options.rateStore,
  });
  const jwks = createJwksStore({
    clock,
    random,
    logger: silentLogger,
    fetch: () => Promise.reject(new Error('no keys are fetched here')),
  });
  const guard: Guard = {
    authenticator: createRequestAuthenticator(clock, jwks),
    policies: createHttpPolicyBook(),
  };
  guard.authenticator.apply([], [], true);
  guard.policies.apply([], [], true);
  const records: RequestRecord[] = [];
  let waiting: { count: number; resolve: () => void } | undefined;
  const waypoint = createWaypoint({
    clock: options.clock ?? clock,
    random,
    logger: silentLogger,
    buffers: parts.readBuffers,
    sessions,
    state,
    plans,
    reporter: {
      begin: (headers) => reporter.begin(headers),
      messages: (edge, requests, responses) => reporter.messages(edge, requests, responses),
      ended(record) {
        reporter.ended(record);
        records.push(record);
        if (waiting !== undefined && records.length >= waiting.count) waiting.resolve();
      },
    },
    guard,
    registry,
    credentials: () => own,
    client: place,
    traffic,
    resilience,
    ...(options.trustedHops === undefined ? {} : { trustedHops: options.trustedHops }),
    ...(options.idleTimeoutMs === undefined ? {} : { idleTimeoutMs: options.idleTimeoutMs }),
  });
  const accepted = new Set<Socket>();
  const server = createServer((socket) => {
    accepted.add(socket);
    socket.on('close', () => accepted.delete(socket));
    waypoint.accept(socket);
  });
  const port = await listen(server);
  const handshakes = createHandshakes(clock);
  const dialled = new Map<SpiffeId, Promise<H2Session>>();
  const session = (identity: SpiffeId = WEB): Promise<H2Session> =>
    new Promise((resolve, reject) => {
      const raw = connect(port, '127.0.0.1');
      raw.on('error', reject);
      handshakes.connect(raw, credentialsOf(ca, identity), [WAYPOINT], {
        onSecure: (socket) => resolve(sessions.overSocket(socket, 'client')),
        onError: reject,
      });
    });
  const vip = (name: string): string => address(options.apps.findIndex((app) => app.name === name));
  return {
    waypoint,
    guard,
    plans,
    traffic,
    state,
    records,
    lines,
    metric(name, labels = {}) {
      const family = store.families.get(name);
      if (family === undefined) throw new Error(`no metric ${name}`);
      const wanted = Object.entries(labels).map(
        ([label, value]) => [family.options.labels.indexOf(label), value] as const,
      );
      return [...family.series.values()]
        .filter((series) => wanted.every(([at, value]) => series.labels[at] === value))
        .reduce((sum, { value }) => sum + value, 0);
    },
    ca,
    port,
    vip,
    session,
    recorded: (count) =>
      new Promise((resolve) => {
        if (records.length >= count) resolve();
        else waiting = { count, resolve };
      }),
    async open(name, identity = WEB) {
      let dialling = dialled.get(identity);
      if (dialling === undefined || (await dialling).streamSlots === 0) {
        dialling = session(identity);
        dialled.set(identity, dialling);
      }
      const stream = await connectStream(await dialling, `${vip(name)}:80`);
      return new TunnelDuplex(stream);
    },
    setRoutes(name, routes) {
      const app = options.apps.find((candidate) => candidate.name === name);
      if (app !== undefined) plans.apply([config(app, routes)], []);
    },
    async close() {
      waypoint.stop();
      store.stop();
      traffic[Symbol.dispose]();
      for (const dialling of dialled.values()) (await dialling).destroy();
      for (const close of closers) close();
      for (const socket of accepted) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** CONNECT on a session; rejects with the status when it is refused. */
export function connectStream(session: H2Session, authority: string): Promise<H2Stream> {
  return new Promise((resolve, reject) => {
    const stream: H2Stream = session.request(
      [
        [':method', 'CONNECT'],
        [':authority', authority],
      ],
      {
        onHeaders(headers) {
          const status = headers[0]?.[1];
          if (status === '200') resolve(stream);
          else reject(new Error(`status ${status}`));
        },
        onData: () => {},
        onEnd: () => {},
        onReset: reject,
        onDrain: () => {},
      },
      false,
    );
  });
}

/** Loopback addresses of this process's pods. */
function podAddress(index: number): string {
  return `127.${100 + (process.pid % 100)}.${(process.pid >> 8) % 250}.${index + 1}`;
}

/** A pod's tunnel port: what a node proxy does for it. */
async function createPodTunnel(
  host: string,
  ca: CertificateAuthority,
  parts: Omit<Parameters<typeof createH2Session>[1], 'role'>,
): Promise<() => void> {
  const handshakes = createHandshakes(clock);
  const credentials = credentialsOf(ca, APP);
  const sockets = new Set<Socket>();
  const server = createServer((raw) => {
    sockets.add(raw);
    handshakes.accept(raw, credentials, {
      onSecure(socket, peer) {
        createH2Session(socket, {
          role: 'server',
          ...parts,
          onStream: (stream, headers) =>
            receiveConnect(
              stream,
              headers,
              peer,
              (request) => {
                const { authority } = request;
                const far = connect(
                  authority.port,
                  authority.kind === 'address' ? authority.ip : '',
                );
                far.on('error', () => request.refuse(503, 'no application'));
                far.once('connect', () => {
                  request.accept('', (accepted) => {
                    const duplex = new TunnelDuplex(accepted);
                    duplex.pipe(far).pipe(duplex);
                    duplex.on('close', () => far.destroy());
                    far.on('close', () => duplex.destroy());
                    return {
                      onHeaders: () => {},
                      onData: (chunk) => void duplex.push(Buffer.from(chunk)),
                      onEnd: () => void duplex.push(null),
                      onReset: (error) => void duplex.destroy(error),
                      onDrain: () => {},
                    };
                  });
                });
              },
              () => {},
            ),
        });
      },
      onError: () => {},
    });
  });
  await listen(server, host, 15008);
  return () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
}
