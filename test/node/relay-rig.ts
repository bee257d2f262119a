/** What the relay tests stand on: two applications on loopback with one or two relays between them. */

import { execFileSync } from 'node:child_process';
import { createHash, type Hash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls, TLSSocket } from 'node:tls';

import { createReadBuffers, type ReadBuffers } from '../../src/base/buffer-pool.ts';
import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import type { H2Session, H2Stream } from '../../src/http/h2/contract.ts';
import { createH2Session } from '../../src/http/h2/session.ts';
import { createWindowBudget } from '../../src/http/h2/window-budget.ts';
import {
  createRelaySweep,
  type Relay,
  type RelayResult,
  type RelaySweep,
} from '../../src/node/relay.ts';
import { relaySockets } from '../../src/node/relay-sockets.ts';
import { relayStream } from '../../src/node/relay-stream.ts';

export interface Rig {
  readonly clock: FakeClock;
  readonly buffers: ReadBuffers;
  readonly sweep: RelaySweep;
  /** A new pair of applications, joined. */
  open(): Promise<Joined>;
  close(): Promise<void>;
}

export interface Joined {
  readonly a: App;
  readonly b: App;
  /** The relay next to A, and the one next to B; the same one when there is no tunnel. */
  readonly near: Relay;
  readonly far: Relay;
  /** Plain sockets of the relay; for looking at their queues. */
  readonly nearSocket: Socket;
  readonly farSocket: Socket;
  /** Results of all relays, when they have ended. */
  readonly results: Promise<readonly RelayResult[]>;
}

/** One application: what it received, and how it ended. */
export class App {
  readonly socket: Socket;
  readonly hash: Hash = createHash('sha256');
  readonly chunks: Buffer[] = [];
  keep = true;
  received = 0;
  ended = false;
  closed = false;
  error: string | undefined;
  #changed: () => void = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('error', (error: NodeJS.ErrnoException) => {
      this.error = error.code;
      this.#changed();
    });
    socket.on('data', (chunk: Buffer) => {
      this.received += chunk.byteLength;
      if (this.keep) this.chunks.push(chunk);
      this.hash.update(chunk);
      this.#changed();
    });
    socket.on('end', () => {
      this.ended = true;
      this.#changed();
    });
    socket.on('close', () => {
      this.closed = true;
      this.#changed();
    });
  }

  get bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }

  /** Resolves when `test` holds; checked whenever something arrives. */
  async until(test: (app: App) => boolean): Promise<void> {
    while (!test(this)) {
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    }
  }
}

/** A connected pair; [0] is the side that connected. */
export async function socketPair(): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const accepted = new Promise<Socket>((resolve) => {
    server.once('connection', (socket: Socket) => {
      socket.on('error', () => {});
      resolve(socket);
    });
  });
  const { port } = server.address() as AddressInfo;
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  socket.on('error', () => {});
  const [other] = await Promise.all([
    accepted,
    new Promise((resolve) => socket.once('connect', resolve)),
  ]);
  server.close();
  return [socket, other];
}

/** A collector of results: `onResult` to give to `count` relays. */
export function collectResults(count: number): {
  onResult: (result: RelayResult) => void;
  results: Promise<readonly RelayResult[]>;
} {
  const all: RelayResult[] = [];
  let finish: (results: readonly RelayResult[]) => void = () => {};
  const results = new Promise<readonly RelayResult[]>((resolve) => (finish = resolve));
  return {
    onResult(result) {
      all.push(result);
      if (all.length > count) throw new Error('More results than relays');
      if (all.length === count) finish(all);
    },
    results,
  };
}

export interface RigOptions {
  readonly ownMax?: number;
  /** False: no stream's window grows beyond the initial 256 KiB. Default true. */
  readonly windowsGrow?: boolean;
}

export async function createSocketRig(options: RigOptions = {}): Promise<Rig> {
  const clock = createFakeClock();
  const buffers = createReadBuffers(options);
  const sweep = createRelaySweep({ clock });
  return {
    clock,
    buffers,
    sweep,
    async open() {
      const [[appA, nearSocket], [farSocket, appB]] = await Promise.all([
        socketPair(),
        socketPair(),
      ]);
      const { onResult, results } = collectResults(1);
      const relay = relaySockets(nearSocket, farSocket, { buffers, sweep, onResult });
      const ends = { a: new App(appA), b: new App(appB), nearSocket, farSocket };
      return { ...ends, near: relay, far: relay, results };
    },
    async close() {
      sweep.stop();
    },
  };
}

/** A self-signed certificate; what TLS checks is not under test here. */
function certificate(): { key: Buffer; cert: Buffer } {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-relay-'));
  try {
    const options =
      'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test';
    const files = ['-keyout', join(folder, 'key'), '-out', join(folder, 'cert')];
    execFileSync('openssl', [...options.split(' '), ...files], { stdio: 'ignore' });
    return { key: readFileSync(join(folder, 'key')), cert: readFileSync(join(folder, 'cert')) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function tlsPair(): Promise<[TLSSocket, TLSSocket]> {
  const [rawClient, rawServer] = await socketPair();
  rawClient.setNoDelay(true);
  rawServer.setNoDelay(true);
  const server = new TLSSocket(rawServer, { isServer: true, ...certificate() });
  server.on('error', () => {});
  const client = connectTls({ socket: rawClient, rejectUnauthorized: false });
  client.on('error', () => {});
  await Promise.all([
    new Promise((resolve) => server.once('secure', resolve)),
    new Promise((resolve) => client.once('secureConnect', resolve)),
  ]);
  return [client, server];
}

export interface TunnelRig extends Rig {
  readonly client: H2Session;
  readonly server: H2Session;
  /** One end only: a stream of `client` as an application would never see it, and the relay of `server`. */
  openBare(): Promise<Bare>;
}

export interface Bare {
  readonly stream: H2Stream;
  /** What the bare end received. */
  readonly received: Buffer[];
  readonly events: string[];
  readonly b: App;
  readonly results: Promise<readonly RelayResult[]>;
}

/** Each connection is one stream of one TLS session, with a relay at both ends of it. */
export async function createTunnelRig(options: RigOptions = {}): Promise<TunnelRig> {
  const clock = createFakeClock();
  const buffers = createReadBuffers(options);
  const sweep = createRelaySweep({ clock });
  const [clientSocket, serverSocket] = await tlsPair();
  const windowBudget = createWindowBudget(options.windowsGrow === false ? 0 : undefined);
  const common = { clock, readBuffers: buffers, windowBudget };
  const arrivals: ((stream: H2Stream) => void)[] = [];
  const server = createH2Session(serverSocket, {
    ...common,
    role: 'server',
    onStream(stream) {
      arrivals.shift()?.(stream);
    },
  });
  const client = createH2Session(clientSocket, { ...common, role: 'client' });
  const ready = new Promise<void>((resolve) => client.onSlots(resolve));
  if (client.streamSlots === 0) await ready;

  interface Opened {
    readonly stream: H2Stream;
    readonly appB: Socket;
    readonly farSocket: Socket;
    readonly far: Relay;
  }

  const request = async (
    onResult: (result: RelayResult) => void,
    onOpen: (stream: H2Stream) => void,
  ): Promise<Opened> => {
    const [farSocket, appB] = await socketPair();
    return new Promise((resolve) => {
      let far: Relay | undefined;
      arrivals.push((arrived) => {
        arrived.sendHeaders([[':status', '200']], false);
        far = relayStream(farSocket, arrived, { buffers, sweep, onResult });
      });
      const stream = client.request(
        [
          [':method', 'CONNECT'],
          [':authority', '10.0.0.1:80'],
        ],
        {
          onHeaders() {
            onOpen(stream);
            if (far !== undefined) resolve({ stream, appB, farSocket, far });
          },
          onData() {},
          onEnd() {},
          onReset() {},
          onDrain() {},
        },
        false,
      );
    });
  };

  return {
    clock,
    buffers,
    sweep,
    client,
    server,
    async open() {
      const [appA, nearSocket] = await socketPair();
      const { onResult, results } = collectResults(2);
      const near: { relay?: Relay } = {};
      const opened = await request(onResult, (stream) => {
        near.relay = relayStream(nearSocket, stream, { buffers, sweep, onResult });
      });
      if (near.relay === undefined) throw new Error('The stream was not opened');
      const { appB, farSocket, far } = opened;
      const ends = { a: new App(appA), b: new App(appB), nearSocket, farSocket };
      return { ...ends, near: near.relay, far, results };
    },
    async openBare() {
      const { onResult, results } = collectResults(1);
      const received: Buffer[] = [];
      const events: string[] = [];
      const opened = await request(onResult, (stream) => {
        stream.setHandlers({
          onHeaders() {},
          onData(chunk) {
            received.push(Buffer.from(chunk));
            stream.consume(chunk.byteLength);
          },
          onEnd: () => void events.push('end'),
          onReset: () => void events.push(`reset ${stream.resetCode}`),
          onDrain() {},
        });
      });
      return { stream: opened.stream, received, events, b: new App(opened.appB), results };
    },
    async close() {
      sweep.stop();
      client.destroy();
      server.destroy();
    },
  };
}

/** Bytes that tell where they belong: every word holds its place, every stream has its own seed. */
export function pattern(byteCount: number, seed: number, offset = 0): Buffer {
  const bytes = Buffer.allocUnsafe(byteCount);
  for (let index = 0; index < byteCount; index++) {
    const place = index + offset;
    bytes[index] = (place ^ (place >> 8) ^ (place >> 16) ^ seed) & 255;
  }
  return bytes;
}
