/** Builds connected HTTP/2 ends over loopback for the tests: our sessions, `node:http2`, and raw frames. */

import { once } from 'node:events';
import net from 'node:net';

import { createReadBuffers } from '../../../src/base/buffer-pool.ts';
import { createSystemClock } from '../../../src/base/clock.ts';
import type {
  H2ServerStream,
  H2Session,
  H2Stream,
  H2StreamHandlers,
  HeaderList,
} from '../../../src/http/h2/contract.ts';
import { PREFACE, readUint31, readUint32, writeFrameHead } from '../../../src/http/h2/frames.ts';
import type { H2SessionOptions } from '../../../src/http/h2/session-options.ts';
import { createH2Session } from '../../../src/http/h2/session.ts';
import { createWindowBudget } from '../../../src/http/h2/window-budget.ts';

export type Overrides = Partial<Omit<H2SessionOptions, 'role'>>;

export function sessionOptions(
  role: 'client' | 'server',
  overrides: Overrides = {},
): H2SessionOptions {
  return {
    role,
    clock: createSystemClock(),
    readBuffers: createReadBuffers(),
    windowBudget: createWindowBudget(),
    ...overrides,
  };
}

/** Two ends of one loopback connection. */
export async function connectSockets(): Promise<{ client: net.Socket; server: net.Socket }> {
  const listener = net.createServer();
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as net.AddressInfo;
  const client = net.connect({ port, host: '127.0.0.1', noDelay: true });
  client.on('error', () => {});
  const [server] = (await once(listener, 'connection')) as [net.Socket];
  server.on('error', () => {});
  server.setNoDelay(true);
  listener.close();
  return { client, server };
}

/** Our client and our server, joined. */
export async function connectSessions(
  onStream: (stream: H2ServerStream, headers: HeaderList, endStream: boolean) => void,
  serverOverrides: Overrides = {},
  clientOverrides: Overrides = {},
): Promise<{ client: H2Session; server: H2Session; close: () => void }> {
  const sockets = await connectSockets();
  const server = createH2Session(
    sockets.server,
    sessionOptions('server', { onStream, ...serverOverrides }),
  );
  const client = createH2Session(sockets.client, sessionOptions('client', clientOverrides));
  return {
    client,
    server,
    close() {
      client.destroy();
      server.destroy();
    },
  };
}

/** Handlers that collect what happens to a stream; data is consumed unless told otherwise. */
export interface Recorder extends H2StreamHandlers {
  readonly headers: HeaderList[];
  readonly chunks: Buffer[];
  bytes: number;
  ended: boolean;
  drains: number;
  error: Error | undefined;
  /** Resolves at `onEnd` or `onReset`. */
  readonly settled: Promise<void>;
}

export function record(stream: () => H2Stream | undefined, keep = true): Recorder {
  let settle = (): void => {};
  const settled = new Promise<void>((resolve) => {
    settle = resolve;
  });
  const recorder: Recorder = {
    headers: [],
    chunks: [],
    bytes: 0,
    ended: false,
    drains: 0,
    error: undefined,
    settled,
    onHeaders: (headers) => void recorder.headers.push(headers),
    onData(chunk) {
      recorder.bytes += chunk.length;
      if (keep) recorder.chunks.push(Buffer.from(chunk));
      stream()?.consume(chunk.length);
    },
    onEnd() {
      recorder.ended = true;
      settle();
    },
    onReset(error) {
      recorder.error = error;
      settle();
    },
    onDrain: () => void recorder.drains++,
  };
  return recorder;
}

/** Sends a request on our client and records the answer. */
export function requestOn(
  session: H2Session,
  headers: HeaderList,
  endStream: boolean,
): { stream: H2Stream; answer: Recorder } {
  const box: { stream?: H2Stream } = {};
  const answer = record(() => box.stream);
  box.stream = session.request(headers, answer, endStream);
  return { stream: box.stream, answer };
}

/** What a sender sees when the other side has closed. */
const CUT_OFF: readonly string[] = ['ECONNRESET', 'EPIPE'];

export interface RawFrame {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
  readonly payload: Buffer;
}

/** A peer that says what it is told to, however wrong. */
export interface RawPeer {
  readonly socket: net.Socket;
  readonly frames: RawFrame[];
  readonly closed: boolean;
  send(type: number, flags: number, streamId: number, payload?: Buffer): void;
  /** Waits until a frame satisfies `match`, or the connection has closed (then undefined). */
  waitFor(match: (frame: RawFrame) => boolean): Promise<RawFrame | undefined>;
  /** Rejects when the connection failed otherwise than by being cut off. */
  waitClosed(): Promise<void>;
}

export function createRawPeer(socket: net.Socket, sendsPreface: boolean): RawPeer {
  const frames: RawFrame[] = [];
  let rest: Buffer = Buffer.alloc(0);
  let prefaceLeft = sendsPreface ? 0 : PREFACE.length;
  let closed = false;
  let failure: NodeJS.ErrnoException | undefined;
  const waiters = new Set<() => void>();
  const wake = (): void => {
    for (const waiter of waiters) waiter();
  };
  socket.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk]);
    const skipped = Math.min(prefaceLeft, rest.length);
    prefaceLeft -= skipped;
    rest = rest.subarray(skipped);
    while (rest.length >= 9) {
      const length = rest.readUIntBE(0, 3);
      if (rest.length < 9 + length) break;
      const payload = Buffer.from(rest.subarray(9, 9 + length));
      frames.push({
        type: rest[3] ?? 0,
        flags: rest[4] ?? 0,
        streamId: readUint31(rest, 5),
        payload,
      });
      rest = rest.subarray(9 + length);
    }
    wake();
  });
  socket.on('error', (error: NodeJS.ErrnoException) => (failure = error));
  socket.on('close', () => {
    closed = true;
    wake();
  });
  if (sendsPreface) socket.write(PREFACE);
  const peer: RawPeer = {
    socket,
    frames,
    get closed() {
      return closed;
    },
    send(type, flags, streamId, payload = Buffer.alloc(0)) {
      const frame = Buffer.alloc(9 + payload.length);
      writeFrameHead(frame, 0, payload.length, type, flags, streamId);
      payload.copy(frame, 9);
      socket.write(frame);
    },
    waitFor(match) {
      return new Promise((resolve) => {
        let seen = 0;
        const look = (): void => {
          for (; seen < frames.length; seen++) {
            const frame = frames[seen];
            if (frame !== undefined && match(frame)) {
              waiters.delete(look);
              resolve(frame);
              return;
            }
          }
          if (closed) {
            waiters.delete(look);
            resolve(undefined);
          }
        };
        waiters.add(look);
        look();
      });
    },
    async waitClosed() {
      // Not `once`, which fails when an error comes first: who is cut off while sending sees a reset.
      if (!closed) await new Promise<void>((resolve) => socket.once('close', () => resolve()));
      if (failure !== undefined && !CUT_OFF.includes(failure.code ?? '')) throw failure;
    },
  };
  return peer;
}

/** Our session and a raw peer across from it; the peer has sent preface and empty SETTINGS. */
export async function connectRaw(
  role: 'client' | 'server',
  overrides: Overrides = {},
): Promise<{ session: H2Session; peer: RawPeer; close: () => void }> {
  const sockets = await connectSockets();
  const session = createH2Session(
    role === 'server' ? sockets.server : sockets.client,
    sessionOptions(role, overrides),
  );
  const peer = createRawPeer(
    role === 'server' ? sockets.client : sockets.server,
    role === 'server',
  );
  peer.send(4, 0, 0);
  return {
    session,
    peer,
    close() {
      session.destroy();
      peer.socket.destroy();
    },
  };
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function goawayCode(frame: RawFrame | undefined): number | undefined {
  return frame === undefined ? undefined : readUint32(frame.payload, 4);
}

/** A session of ours on each connection to a port of loopback. */
export async function listenSessions(
  onStream: (stream: H2ServerStream, headers: HeaderList, endStream: boolean) => void,
  overrides: Overrides = {},
): Promise<{ port: number; sessions: H2Session[]; close: () => void }> {
  const sessions: H2Session[] = [];
  const listener = net.createServer((socket) => {
    sessions.push(createH2Session(socket, sessionOptions('server', { onStream, ...overrides })));
  });
  listener.on('error', () => {});
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  return {
    port: (listener.address() as net.AddressInfo).port,
    sessions,
    close() {
      listener.close();
      for (const session of sessions) session.destroy();
    },
  };
}
