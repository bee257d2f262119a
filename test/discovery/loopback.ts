/** Discovery and CA over real sockets on loopback: our server on our HTTP/2, and dials to it. */

import { once } from 'node:events';
import { createServer, connect, type AddressInfo, type Server, type Socket } from 'node:net';

import { createReadBuffers } from '../../src/base/buffer-pool.ts';
import { createSystemClock, type Clock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import { createNullLogger, type LogFields, type Logger } from '../../src/base/logger.ts';
import { createNullRegistry, type Registry } from '../../src/base/metrics.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import { fail, ok } from '../../src/base/result.ts';
import {
  createDiscoveryClient,
  type DiscoveryClient,
  type DiscoveryClientOptions,
  type TypeSubscription,
} from '../../src/discovery/client.ts';
import {
  createGrpcServer,
  type GrpcMethod,
  type GrpcServer,
} from '../../src/discovery/grpc-server.ts';
import { ResourceCache } from '../../src/discovery/resource-cache.ts';
import {
  createDiscoveryServer,
  type ClientInfo,
  type DiscoveryServer,
  type DiscoveryServerOptions,
} from '../../src/discovery/server.ts';
import { DISCOVERY_PATH } from '../../src/discovery/wire-messages.ts';
import { createWireResource, type WireResource } from '../../src/discovery/wire-resource.ts';
import type { H2Session } from '../../src/http/h2/contract.ts';
import { createH2Session } from '../../src/http/h2/session.ts';
import { createWindowBudget } from '../../src/http/h2/window-budget.ts';

export const TOKEN = 'good-token';
export const clock: Clock = createSystemClock();
const shares = {
  clock,
  readBuffers: createReadBuffers(),
  windowBudget: createWindowBudget(),
};

/** A real server socket with our gRPC behind it. */
export interface Loopback {
  readonly port: number;
  readonly grpc: GrpcServer<string>;
  /** Server sides of the connections that stand. */
  readonly sockets: ReadonlySet<Socket>;
  dial(): Promise<H2Session>;
  close(): Promise<void>;
}

export async function serveLoopback(
  methods: ReadonlyMap<string, GrpcMethod<string>>,
  logger: Logger = createNullLogger(),
  port: number = 0,
): Promise<Loopback> {
  const grpc = createGrpcServer<string>({ clock, logger, methods });
  const sockets = new Set<Socket>();
  const sessions = new Set<H2Session>();
  // Without noDelay each window waits for a delayed TCP acknowledgement: a response of 100 kB takes 5 ms
  // instead of 0.5 (tried).
  const server: Server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    const session = createH2Session(socket, {
      ...shares,
      role: 'server',
      onStream: (stream, headers, endStream) => grpc.accept(stream, headers, endStream, 'loopback'),
    });
    sessions.add(session);
    session.onClosed(() => sessions.delete(session));
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address() as AddressInfo;
  return {
    port: address.port,
    grpc,
    sockets,
    dial: () => dialLoopback(address.port),
    async close() {
      server.close();
      await grpc.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

export async function dialLoopback(port: number, signal?: AbortSignal): Promise<H2Session> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  socket.on('error', () => {});
  await once(socket, 'connect', { signal });
  return createH2Session(socket, { ...shares, role: 'client' });
}

/** Remembers what was logged. */
export function createListLogger(): Logger & {
  readonly lines: { message: string; fields: LogFields }[];
} {
  const lines: { message: string; fields: LogFields }[] = [];
  const add = (message: string, fields: LogFields = {}): void =>
    void lines.push({ message, fields });
  const logger = { lines, debug: add, info: add, warn: add, error: add, child: () => logger };
  return logger;
}

/** Remembers the last value of each series, and counters' sums. */
export function createListRegistry(): Registry & {
  read(name: string, ...labels: string[]): number;
} {
  const values = new Map<string, number>();
  const observed = new Map<string, () => number>();
  const key = (name: string, labels: readonly string[] = []): string => [name, ...labels].join('|');
  return {
    counter: ({ name }) => ({
      add: (value, labels) => {
        values.set(key(name, labels), (values.get(key(name, labels)) ?? 0) + value);
      },
    }),
    gauge: ({ name }) => ({ set: (value, labels) => void values.set(key(name, labels), value) }),
    observedGauge: ({ name }, read) => void observed.set(name, read),
    read: (name, ...labels) => observed.get(name)?.() ?? values.get(key(name, labels)) ?? 0,
  };
}

export interface DiscoveryLoopback extends Loopback {
  readonly discovery: DiscoveryServer<ClientInfo, string>;
}

/** A discovery server whose clients are told apart by the header `client-id`. */
export async function serveDiscovery(
  caches: readonly ResourceCache[],
  options: Partial<DiscoveryServerOptions<ClientInfo, string>> = {},
  port: number = 0,
): Promise<DiscoveryLoopback> {
  const discovery = createDiscoveryServer<ClientInfo, string>({
    clock,
    logger: createNullLogger(),
    registry: createNullRegistry(),
    async authenticate(metadata) {
      if (metadata.get('authorization') === `Bearer ${TOKEN}`) {
        return ok({ id: metadata.get('client-id') ?? 'nobody' });
      }
      return fail(
        new MeshError('MESH_DISCOVERY_UNAUTHENTICATED', 'The token is not the secret one'),
      );
    },
    viewFor: () => new Map(caches.map((cache) => [cache.typeUrl, cache])),
    pushIntervalMs: 0,
    ...options,
  });
  const methods = new Map([[DISCOVERY_PATH, discovery.method]]);
  return { ...(await serveLoopback(methods, options.logger, port)), discovery };
}

/** One type's state on a client, as its updates left it. */
export interface Held {
  readonly subscription: TypeSubscription;
  readonly resources: Map<string, string>;
  /** Names that came, in order. */
  readonly received: string[];
  readonly removed: string[];
  /** Names to reject. */
  readonly bad: Set<string>;
  updates: number;
}

export function createHeld(typeUrl: string, mode: TypeSubscription['mode'] = 'wildcard'): Held {
  const held: Held = {
    resources: new Map(),
    received: [],
    removed: [],
    bad: new Set(),
    updates: 0,
    subscription: {
      typeUrl,
      mode,
      async apply({ resources, removed }) {
        held.updates++;
        for (const { name, body } of resources) {
          held.received.push(name);
          if (!held.bad.has(name)) held.resources.set(name, Buffer.from(body).toString());
        }
        for (const name of removed) {
          held.removed.push(name);
          held.resources.delete(name);
        }
        const rejected = resources.filter(({ name }) => held.bad.has(name));
        return rejected.map(({ name }) => ({ name, reason: `"${name}" is bad` }));
      },
    },
  };
  return held;
}

export interface RunningClient {
  readonly client: DiscoveryClient;
  readonly stop: () => Promise<void>;
}

export function runClient(
  port: number | (() => number),
  held: readonly Held[],
  options: Partial<DiscoveryClientOptions> = {},
  id: string = 'node-a',
): RunningClient {
  const abort = new AbortController();
  const client = createDiscoveryClient({
    clock,
    random: createSeededRandom(1),
    logger: createNullLogger(),
    registry: createNullRegistry(),
    connect: (signal) => dialLoopback(typeof port === 'number' ? port : port(), signal),
    token: async () => TOKEN,
    node: { id, cluster: '', metadata: new Map([['NODE_NAME', id]]) },
    authority: 'localhost',
    scheme: 'http',
    metadata: new Map([['client-id', id]]),
    subscriptions: held.map(({ subscription }) => subscription),
    reconnectSpreadMs: 0,
    ...options,
  });
  const running = client.run(abort.signal);
  return {
    client,
    async stop() {
      abort.abort();
      await running;
    },
  };
}

/** Waits, on real time, until `isTrue`; fails after two seconds. */
export async function until(isTrue: () => boolean, what: string): Promise<void> {
  const endMs = performance.now() + 2_000;
  while (!isTrue()) {
    if (performance.now() > endMs) throw new Error(`Not within 2 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export function textResource(name: string, text: string = name): WireResource {
  return createWireResource(name, Buffer.from(text));
}
