/** Flow control both ways, backpressure, taking turns, and who owns which bytes. */

import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock, createSystemClock, type Clock } from '../../../src/base/clock.ts';
import {
  FRAME_HEADER_BYTES,
  H2_ERROR,
  type H2ServerStream,
  type H2Session,
  type H2Stream,
  type HeaderList,
} from '../../../src/http/h2/contract.ts';
import { createFrameReader, PAYLOAD } from '../../../src/http/h2/frame-reader.ts';
import { FLAG, FRAME, writeFrameHead } from '../../../src/http/h2/frames.ts';
import { HeaderEncoder } from '../../../src/http/h2/hpack-encoder.ts';
import {
  ConnectionWindow,
  STREAM_WINDOW_MAX_BYTES,
  StreamWindow,
} from '../../../src/http/h2/receive-window.ts';
import { createH2Session } from '../../../src/http/h2/session.ts';
import { createWindowBudget } from '../../../src/http/h2/window-budget.ts';
import {
  connectRaw,
  connectSessions,
  goawayCode,
  record,
  requestOn,
  sessionOptions,
  uint32,
} from './peers.ts';
import { connectTls, makeCertificate } from './tls-pair.ts';

const CONNECT: HeaderList = [
  [':method', 'CONNECT'],
  [':authority', 'a:1'],
];
const MIB = 1024 * 1024;

function block(headers: HeaderList): Buffer {
  return Buffer.from(new HeaderEncoder().encode(headers), 'latin1');
}

/** Writes `total` bytes of `fill` as fast as it may; resolves when all has been taken. */
function pour(stream: H2Stream, total: number, fill: number): { onDrain(): void; left: number } {
  const chunk = Buffer.alloc(32 * 1024, fill);
  const source = {
    left: total,
    onDrain() {
      while (source.left > 0) {
        const bytes = Math.min(source.left, chunk.length);
        source.left -= bytes;
        if (!stream.write(chunk.subarray(0, bytes))) return;
      }
      stream.end();
    },
  };
  return source;
}

void t.test('T66: one stalled reader does not hold up 99 others of its session', async (t) => {
  const received = new Map<number, number>();
  const finished = Promise.withResolvers<void>();
  let done = 0;
  const { client, server, close } = await connectSessions((stream) => {
    stream.sendHeaders([[':status', '200']], false);
    stream.setHandlers({
      ...record(() => stream),
      onData(chunk) {
        received.set(stream.id, (received.get(stream.id) ?? 0) + chunk.length);
        // The user of stream 1 has stopped reading.
        if (stream.id !== 1) stream.consume(chunk.length);
      },
      onEnd() {
        if (++done === 99) finished.resolve();
      },
    });
  });
  const perStream = MIB;
  for (let i = 0; i < 100; i++) {
    const box: { stream?: H2Stream } = {};
    const handlers = record(() => box.stream);
    const stream = client.request(CONNECT, handlers, false);
    box.stream = stream;
    const source = pour(stream, perStream, 1);
    handlers.onDrain = () => source.onDrain();
    source.onDrain();
  }
  await finished.promise;
  for (const [id, bytes] of received) {
    if (id !== 1) t.equal(bytes, perStream, `stream ${id}`);
  }
  t.equal(received.get(1), 256 * 1024, 'the stalled one got its window, no more');
  t.equal(server.openStreams, 100);
  close();
});

void t.test('T66: 150 stalled readers do not hold up the last one', async (t) => {
  const finished = Promise.withResolvers<number>();
  const { client, close } = await connectSessions((stream) => {
    let bytes = 0;
    stream.setHandlers({
      ...record(() => stream),
      onData(chunk) {
        bytes += chunk.length;
        if (stream.id === 301) stream.consume(chunk.length);
      },
      onEnd: () => finished.resolve(bytes),
    });
  });
  await once(setTimeoutEmitter(30), 'done');
  for (let i = 0; i <= 150; i++) {
    const box: { stream?: H2Stream } = {};
    const handlers = record(() => box.stream);
    const stream = client.request(CONNECT, handlers, false);
    box.stream = stream;
    const source = pour(stream, 512 * 1024, 1);
    handlers.onDrain = () => source.onDrain();
    source.onDrain();
  }
  t.equal(await finished.promise, 512 * 1024);
  close();
});

/** SETTINGS of the other side have come after a moment. */
function setTimeoutEmitter(delayMs: number): net.Socket {
  const emitter = new net.Socket();
  emitter.on('error', () => {});
  setTimeout(() => emitter.emit('done'), delayMs);
  return emitter;
}

void t.test('flow control: a peer beyond a window is refused', async (t) => {
  await t.test('of a stream', async (t) => {
    const { session, peer, close } = await connectRaw('server', {
      initialWindowBytes: 70_000,
      onStream: (stream) => stream.setHandlers({ ...record(() => stream), onData: () => {} }),
    });
    peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, block(CONNECT));
    for (let i = 0; i < 5; i++) peer.send(FRAME.DATA, 0, 1, Buffer.alloc(16_384));
    const reset = await peer.waitFor((frame) => frame.type === FRAME.RST_STREAM);
    t.equal(reset?.payload.readUInt32BE(), H2_ERROR.FLOW_CONTROL_ERROR);
    t.equal(session.state, 'open');
    close();
  });
  await t.test('of the connection, when the process holds too much', async (t) => {
    const windowBudget = createWindowBudget(MIB);
    const { peer, close } = await connectRaw('server', {
      windowBudget,
      onStream: (stream) => stream.setHandlers({ ...record(() => stream), onData: () => {} }),
    });
    // 17 MiB that nobody consumes, from a peer that ignores the connection window.
    for (let id = 1; id < 2 * 68; id += 2) {
      peer.send(FRAME.HEADERS, FLAG.END_HEADERS, id, block(CONNECT));
      for (let i = 0; i < 16; i++) peer.send(FRAME.DATA, 0, id, Buffer.alloc(16_384));
    }
    for (let id = 137; id < 150; id += 2) {
      peer.send(FRAME.HEADERS, FLAG.END_HEADERS, id, block(CONNECT));
      for (let i = 0; i < 16; i++) peer.send(FRAME.DATA, 0, id, Buffer.alloc(16_384));
    }
    const goaway = await peer.waitFor((frame) => frame.type === FRAME.GOAWAY);
    t.equal(goawayCode(goaway), H2_ERROR.FLOW_CONTROL_ERROR);
    close();
    t.equal(windowBudget.heldBytes, 0);
  });
});

void t.test('flow control: padding is given back, however the frame is cut', async (t) => {
  const { session, peer, close } = await connectRaw('server', {
    initialWindowBytes: 1000,
    onStream: (stream) => stream.setHandlers(record(() => stream)),
  });
  peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, block(CONNECT));
  const padded = Buffer.alloc(1 + 50 + 200);
  padded[0] = 200;
  const frame = Buffer.alloc(FRAME_HEADER_BYTES + padded.length);
  writeFrameHead(frame, 0, padded.length, FRAME.DATA, FLAG.PADDED, 1);
  padded.copy(frame, FRAME_HEADER_BYTES);
  let given = 0;
  for (let i = 0; i < 100; i++) {
    for (let at = 0; at < frame.length; at += 1 + (i % 97)) {
      peer.socket.write(frame.subarray(at, at + 1 + (i % 97)));
    }
    if (i % 3 === 2) {
      await peer.waitFor((seen) => {
        const update = seen.type === FRAME.WINDOW_UPDATE && seen.streamId === 1;
        return update && peer.frames.indexOf(seen) >= given;
      });
      given = peer.frames.length;
    }
  }
  t.equal(session.state, 'open');
  close();
});

void t.test(
  'windows grow for readers that keep up, within the caps, and shrink at the end',
  (t) => {
    const clock = createFakeClock();
    let nowMs = 0;
    const fast: Clock = { ...clock, nowMs: () => nowMs };
    const budget = createWindowBudget(5 * MIB);
    const updates: [number, number][] = [];
    const connection = new ConnectionWindow(fast, budget, (id, bytes) => updates.push([id, bytes]));
    connection.rttMs = 10;
    const stream = new StreamWindow(connection, 1, 256 * 1024, 0);
    const slow = new StreamWindow(connection, 3, 256 * 1024, 0);
    for (let i = 0; i < 20; i++) {
      const half = stream.sizeBytes / 2;
      nowMs += 1;
      stream.receive(half);
      stream.consume(half);
      slow.receive(1024);
    }
    t.equal(stream.sizeBytes, STREAM_WINDOW_MAX_BYTES);
    t.equal(budget.grownBytes, STREAM_WINDOW_MAX_BYTES - 256 * 1024);
    for (let i = 0; i < 20; i++) {
      nowMs += 1000;
      slow.receive(128 * 1024);
      slow.consume(128 * 1024);
    }
    t.equal(slow.sizeBytes, 256 * 1024, 'a slow peer is not limited by its window');
    const third = new StreamWindow(connection, 5, 256 * 1024, 0);
    for (let i = 0; i < 40; i++) {
      nowMs += 1;
      third.receive(third.sizeBytes / 2);
      third.consume(third.sizeBytes / 2);
    }
    t.equal(third.sizeBytes, MIB, 'the process has no more to give');
    for (const window of [stream, slow, third]) window.close();
    t.equal(budget.grownBytes, 0);
    t.equal(budget.heldBytes, 0);
    t.end();
  },
);

void t.test('backpressure: a writer is stopped, and woken when its bytes have gone', async (t) => {
  let consumer: H2ServerStream | undefined;
  let held = 0;
  const { client, close } = await connectSessions((stream) => {
    consumer = stream;
    stream.setHandlers({ ...record(() => stream), onData: (chunk) => void (held += chunk.length) });
  });
  const box: { stream?: H2Stream } = {};
  const handlers = record(() => box.stream);
  const stream = client.request(CONNECT, handlers, false);
  box.stream = stream;
  let written = 0;
  const drains: number[] = [];
  const fill = (): void => {
    while (stream.write(Buffer.alloc(16 * 1024))) written += 16 * 1024;
    written += 16 * 1024;
  };
  handlers.onDrain = () => void drains.push(written);
  fill();
  for (let rounds = 0; rounds < 50; rounds++) {
    await new Promise((resolve) => setImmediate(resolve));
    if (drains.length > 0 && drains.at(-1) === written) fill();
  }
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.equal(held, 256 * 1024, 'the window is full');
  t.ok(written - held <= 64 * 1024, `${written - held} bytes are queued`);
  const before = drains.length;
  consumer?.consume(held);
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.equal(drains.length, before + 1);
  close();
});

const certificate = makeCertificate();
const noTls = certificate === undefined ? 'no openssl to make a certificate' : false;

void t.test(
  'TLS: frames written in place arrive whole, with no foreign byte',
  { skip: noTls },
  async (t) => {
    const { client: near, server: far } = await connectTls(certificate ?? { key: '', cert: '' });
    const sums = new Map<number, { bytes: number; wrong: number }>();
    const finished = Promise.withResolvers<void>();
    let ended = 0;
    const server = createH2Session(
      far,
      sessionOptions('server', {
        maxFrameBytes: 256 * 1024,
        onStream(stream, headers) {
          const fill = Number(headers.find(([name]) => name === 'fill')?.[1]);
          const sum = { bytes: 0, wrong: 0 };
          sums.set(fill, sum);
          stream.setHandlers({
            ...record(() => stream),
            onData(chunk) {
              sum.bytes += chunk.length;
              for (const byte of chunk) if (byte !== fill) sum.wrong++;
              // Reading in jerks makes the writer's socket fill up again and again.
              if (sum.bytes % 7 < 3) setTimeout(() => stream.consume(chunk.length), 1);
              else stream.consume(chunk.length);
            },
            onEnd: () => void (++ended === 4 && finished.resolve()),
          });
          stream.sendHeaders([[':status', '200']], false);
        },
      }),
    );
    const client = createH2Session(near, sessionOptions('client'));
    // One buffer for all streams, filled anew before each write, as a read buffer is.
    const shared = Buffer.alloc(FRAME_HEADER_BYTES + 64 * 1024);
    const perStream = 4 * MIB;
    for (let fill = 1; fill <= 4; fill++) {
      const box: { stream?: H2Stream } = {};
      const handlers = record(() => box.stream);
      const stream = client.request([...CONNECT, ['fill', String(fill)]], handlers, false);
      box.stream = stream;
      let left = perStream;
      let bytes = 1000 * fill;
      handlers.onDrain = () => {
        while (left > 0) {
          bytes = (bytes * 7) % (64 * 1024 - 1);
          const count = Math.min(left, bytes + 1);
          left -= count;
          shared.fill(fill, FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + count);
          const more = stream.writeFramed(shared, count);
          shared.fill(0xee);
          if (!more) return;
        }
        stream.end();
      };
      setImmediate(() => handlers.onDrain());
    }
    await finished.promise;
    for (const [fill, sum] of sums) t.same(sum, { bytes: perStream, wrong: 0 }, `stream ${fill}`);
    client.destroy();
    server.destroy();
  },
);

void t.test('Unix socket: requests with prior knowledge', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'h2-unix-'));
  const path = join(folder, 'socket');
  const sessions: H2Session[] = [];
  const listener = net.createServer((socket) => {
    const options = sessionOptions('server', {
      onStream(stream) {
        stream.setHandlers({
          ...record(() => stream),
          onData(chunk) {
            stream.write(chunk);
            stream.consume(chunk.length);
          },
          onEnd: () => stream.sendHeaders([['grpc-status', '0']], true),
        });
        stream.sendHeaders([[':status', '200']], false);
      },
    });
    sessions.push(createH2Session(socket, options));
  });
  listener.on('error', () => {});
  listener.listen(path);
  await once(listener, 'listening');
  // The session may be made before the socket is connected.
  const client = createH2Session(net.connect(path), sessionOptions('client'));
  const { stream, answer } = requestOn(client, CONNECT, false);
  stream.write(Buffer.alloc(MIB, 7));
  stream.end();
  await answer.settled;
  t.ok(Buffer.concat(answer.chunks).equals(Buffer.alloc(MIB, 7)));
  t.same(answer.headers[1], [['grpc-status', '0']]);
  client.destroy();
  for (const session of sessions) session.destroy();
  listener.close();
  rmSync(folder, { recursive: true, force: true });
});

void t.test('frame reader: the same frames however the bytes are cut', (t) => {
  const frameArbitrary = fc.record({
    type: fc.constantFrom(0, 0, 1, 4, 6, 200),
    padded: fc.boolean(),
    bytes: fc.uint8Array({ maxLength: 60 }),
  });
  const read = (parts: readonly Buffer[]): string => {
    const log: string[] = [];
    let data = Buffer.alloc(0);
    const reader = createFrameReader({
      stopped: false,
      spent: false,
      onHead: (type) =>
        type === FRAME.DATA ? PAYLOAD.stream : type > 9 ? PAYLOAD.skip : PAYLOAD.whole,
      onFrame: (type, flags, id, payload) =>
        void log.push(`${type} ${flags} ${id} ${payload.toString('hex')}`),
      onData: (piece) => void (data = Buffer.concat([data, piece])),
      onDataEnd() {
        log.push(`data ${data.toString('hex')}`);
        data = Buffer.alloc(0);
      },
      onBadPadding: () => void log.push('bad padding'),
    });
    for (const part of parts) reader.push(part, 0, part.length);
    return log.join('\n');
  };
  fc.assert(
    fc.property(
      fc.array(frameArbitrary, { minLength: 1, maxLength: 6 }),
      fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 20 }),
      (frames, cuts) => {
        const whole = Buffer.concat(
          frames.map(({ type, padded, bytes }, index) => {
            const pad = type === 0 && padded ? Math.min(bytes.length, 9) : 0;
            const payload =
              type === 0 && padded
                ? Buffer.concat([Buffer.from([pad]), bytes, Buffer.alloc(pad)])
                : Buffer.from(bytes);
            const head = Buffer.alloc(FRAME_HEADER_BYTES);
            const flags = type === 0 && padded ? FLAG.PADDED : 0;
            writeFrameHead(head, 0, payload.length, type, flags, index + 1);
            return Buffer.concat([head, payload]);
          }),
        );
        const parts: Buffer[] = [];
        for (let at = 0, cut = 0; at < whole.length; cut++) {
          const length = cuts[cut % cuts.length] ?? 1;
          parts.push(whole.subarray(at, at + length));
          at += length;
        }
        return read([whole]) === read(parts);
      },
    ),
  );
  t.end();
});

void t.test('session: any bytes after the preface end it or not, and throw nothing', async (t) => {
  const headArbitrary = fc.tuple(
    fc.integer({ min: 0, max: 11 }),
    fc.integer({ min: 0, max: 255 }),
    fc.integer({ min: 0, max: 6 }),
    fc.uint8Array({ maxLength: 40 }),
  );
  const thrown: unknown[] = [];
  await fc.assert(
    fc.asyncProperty(fc.array(headArbitrary, { maxLength: 30 }), async (frames) => {
      const { session, peer, close } = await connectRaw('server', {
        clock: createSystemClock(),
        onHandlerError: (error) => void thrown.push(error),
        onStream: (stream) => stream.setHandlers(record(() => stream)),
      });
      peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, block(CONNECT));
      for (const [type, flags, id, payload] of frames) {
        peer.send(type, flags, id, Buffer.from(payload));
      }
      const seen = peer.frames.length;
      peer.send(FRAME.PING, 0, 0, Buffer.alloc(8, 0x55));
      // A header block left open may swallow the PING: then the session fails, which is as good.
      await peer.waitFor(
        (frame) =>
          peer.frames.indexOf(frame) >= seen &&
          (frame.type === FRAME.GOAWAY || (frame.type === FRAME.PING && frame.payload[0] === 0x55)),
      );
      close();
      return session.openStreams === 0 && session.state === 'closed';
    }),
    { numRuns: 150 },
  );
  t.same(thrown, []);
});

void t.test('peers may send one byte at a time', async (t) => {
  const { session, peer, close } = await connectRaw('server', {
    onStream: (stream) => {
      stream.setHandlers(record(() => stream));
      stream.sendHeaders([[':status', '200']], true);
    },
  });
  const head = block(CONNECT);
  const frame = Buffer.alloc(FRAME_HEADER_BYTES + head.length);
  writeFrameHead(frame, 0, head.length, FRAME.HEADERS, FLAG.END_HEADERS | FLAG.END_STREAM, 1);
  head.copy(frame, FRAME_HEADER_BYTES);
  for (const byte of frame) {
    peer.socket.write(Buffer.from([byte]));
    await new Promise((resolve) => setImmediate(resolve));
  }
  const answer = await peer.waitFor((seen) => seen.type === FRAME.HEADERS);
  t.equal(answer?.streamId, 1);
  peer.send(FRAME.WINDOW_UPDATE, 0, 0, uint32(5));
  t.equal(session.openStreams, 0);
  close();
});
