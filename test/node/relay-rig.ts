/** What the relay tests stand on: two applications on loopback with one or two relays between them. */

import { createHash, type Hash } from 'node:crypto';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

import { createReadBuffers, type ReadBuffers } from '../../src/base/buffer-pool.ts';
import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import {
  createRelaySweep,
  type Relay,
  type RelayResult,
  type RelaySweep,
} from '../../src/node/relay.ts';
import { relaySockets } from '../../src/node/relay-sockets.ts';

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

/** Bytes that tell where they belong: every word holds its place, every stream has its own seed. */
export function pattern(byteCount: number, seed: number, offset = 0): Buffer {
  const bytes = Buffer.allocUnsafe(byteCount);
  for (let index = 0; index < byteCount; index++) {
    const place = index + offset;
    bytes[index] = (place ^ (place >> 8) ^ (place >> 16) ^ seed) & 255;
  }
  return bytes;
}
