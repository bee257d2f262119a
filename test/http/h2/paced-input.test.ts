/** A burst of requests is taken up over several turns, on every kind of connection, and nothing of it is lost. */

import t, { type Test } from 'tap';

import { TunnelByteStream } from '../../../src/http/byte-stream.ts';
import type { H2ServerStream, H2Session, HeaderList } from '../../../src/http/h2/contract.ts';
import { FLAG, FRAME, PREFACE } from '../../../src/http/h2/frames.ts';
import { HeaderEncoder } from '../../../src/http/h2/hpack-encoder.ts';
import { REQUESTS_PER_TURN } from '../../../src/http/h2/paced-input.ts';
import { createH2Session, createNestedH2Session } from '../../../src/http/h2/session.ts';
import {
  connectRaw,
  connectSessions,
  connectSockets,
  goawayCode,
  record,
  requestOn,
  sessionOptions,
} from './peers.ts';
import { connectTls, makeCertificate } from './tls-pair.ts';

type OnStream = (stream: H2ServerStream, headers: HeaderList, endStream: boolean) => void;
interface Ends {
  readonly client: H2Session;
  readonly close: () => void;
}

const POST: HeaderList = [
  [':method', 'POST'],
  [':scheme', 'http'],
  [':authority', 'a'],
  [':path', '/'],
];
const CONNECT: HeaderList = [
  [':method', 'CONNECT'],
  [':authority', 'a:1'],
];
/** The preface and empty SETTINGS. */
const START = Buffer.from(`${PREFACE}\0\0\0\x04\0\0\0\0\0`, 'latin1');
const BURST = 5 * REQUESTS_PER_TURN + 3;
/** More than the window of a tunnel's stream: it must be given back. */
const LARGE_BYTES = 4 * 1024 * 1024;

/** Counts the turns of the loop, and of what is told how often in one of them. */
function countTurns(): {
  count(): void;
  readonly most: number;
  readonly all: number;
  stop(): void;
} {
  const inTurn = new Map<number, number>();
  let turn = 0;
  let immediate = setImmediate(function next() {
    turn++;
    immediate = setImmediate(next);
  });
  return {
    count: () => void inTurn.set(turn, (inTurn.get(turn) ?? 0) + 1),
    get most() {
      return Math.max(0, ...inTurn.values());
    },
    get all() {
      return [...inTurn.values()].reduce((sum, count) => sum + count, 0);
    },
    stop: () => clearImmediate(immediate),
  };
}

async function overTunnel(onStream: OnStream): Promise<Ends> {
  let inner: H2Session | undefined;
  const outer = await connectSessions((stream) => {
    stream.sendHeaders([[':status', '200']], false);
    const bytes = new TunnelByteStream(stream);
    stream.setHandlers(bytes.tunnelHandlers);
    inner = createNestedH2Session(bytes, sessionOptions('server', { onStream }));
  });
  const box: { bytes?: TunnelByteStream } = {};
  const stream = outer.client.request(
    CONNECT,
    {
      onHeaders: () => {},
      onData: (chunk) => box.bytes?.tunnelHandlers.onData(chunk),
      onEnd: () => box.bytes?.tunnelHandlers.onEnd(),
      onReset: (error) => box.bytes?.tunnelHandlers.onReset(error),
      onDrain: () => box.bytes?.tunnelHandlers.onDrain(),
    },
    false,
  );
  box.bytes = new TunnelByteStream(stream);
  const client = createNestedH2Session(box.bytes, sessionOptions('client'));
  return {
    client,
    close() {
      client.destroy();
      inner?.destroy();
      outer.close();
    },
  };
}

async function overTls(onStream: OnStream): Promise<Ends> {
  const sockets = await connectTls(makeCertificate() ?? { key: '', cert: '' });
  const server = createH2Session(sockets.server, sessionOptions('server', { onStream }));
  const client = createH2Session(sockets.client, sessionOptions('client'));
  return {
    client,
    close() {
      client.destroy();
      server.destroy();
    },
  };
}

async function testBurst(t: Test, connect: (onStream: OnStream) => Promise<Ends>): Promise<void> {
  const turns = countTurns();
  const order: number[] = [];
  const { client, close } = await connect((stream) => {
    turns.count();
    order.push(stream.id);
    const body = record(() => stream);
    stream.setHandlers(body);
    void body.settled.then(() => {
      stream.sendHeaders([[':status', '200']], false);
      stream.write(Buffer.from(`${stream.id}:${body.bytes}`));
      stream.end();
    });
  });
  const { answer: first } = requestOn(client, POST, true);
  await first.settled;
  const asked = Array.from({ length: BURST }, (_, index) => {
    const asking = requestOn(client, POST, false);
    asking.stream.write(Buffer.alloc(10 + index));
    if (index < BURST - 1) asking.stream.end();
    return asking;
  });
  const last = asked.at(-1);
  if (last === undefined) throw new Error('no request');
  const large = Buffer.alloc(64 * 1024);
  for (let left = LARGE_BYTES; left > 0; left -= large.length) {
    if (!last.stream.write(large)) {
      const { drains } = last.answer;
      while (last.answer.drains === drains) await new Promise((resolve) => setImmediate(resolve));
    }
  }
  last.stream.end();
  for (const [index, { stream, answer }] of asked.entries()) {
    await answer.settled;
    const bytes = 10 + index + (index === BURST - 1 ? LARGE_BYTES : 0);
    t.equal(Buffer.concat(answer.chunks).toString(), `${stream.id}:${bytes}`);
  }
  t.equal(turns.all, BURST + 1);
  t.ok(turns.most <= REQUESTS_PER_TURN, `at most ${turns.most} in a turn`);
  t.strictSame(order, [1, ...asked.map(({ stream }) => stream.id)], 'in order');
  turns.stop();
  close();
}

t.test('over TCP', (t) => testBurst(t, connectSessions));
t.test(
  'over TLS',
  { skip: makeCertificate() === undefined ? 'no openssl to make a certificate' : false },
  (t) => testBurst(t, overTls),
);
t.test('inside a tunnel', (t) => testBurst(t, overTunnel));

/** A burst as one write. */
function burst(requests: number): Buffer {
  const head = Buffer.from(new HeaderEncoder().encode(POST), 'latin1');
  return Buffer.concat(
    Array.from({ length: requests }, (_, index) => {
      const frame = Buffer.alloc(9);
      frame.writeUIntBE(head.length, 0, 3);
      frame[3] = FRAME.HEADERS;
      frame[4] = FLAG.END_HEADERS | FLAG.END_STREAM;
      frame.writeUInt32BE(2 * index + 1, 5);
      return Buffer.concat([frame, head]);
    }),
  );
}

t.test('an end behind a burst is heard after the burst', async (t) => {
  let begun = 0;
  const { session, peer } = await connectRaw('server', {
    onStream(stream) {
      begun++;
      stream.setHandlers(record(() => stream));
    },
  });
  const closed = new Promise<Error | undefined>((resolve) => session.onClosed(resolve));
  peer.socket.end(burst(BURST));
  t.match(await closed, { code: 'MESH_CONNECTION_CLOSED' });
  t.equal(begun, BURST);
  peer.socket.destroy();
});

t.test('an end that a tunnel brings while a burst waits is heard after the burst', async (t) => {
  let begun = 0;
  const ended = Promise.withResolvers<Error | undefined>();
  const { client, close } = await connectSessions((stream) => {
    stream.sendHeaders([[':status', '200']], false);
    const bytes = new TunnelByteStream(stream);
    stream.setHandlers(bytes.tunnelHandlers);
    const onStream: OnStream = (inner) => {
      begun++;
      inner.setHandlers(record(() => inner));
    };
    createNestedH2Session(bytes, sessionOptions('server', { onStream })).onClosed(ended.resolve);
  });
  const { stream } = requestOn(client, CONNECT, false);
  stream.write(Buffer.concat([START, burst(BURST)]));
  stream.end();
  t.match(await ended.promise, { code: 'MESH_CONNECTION_CLOSED' });
  t.equal(begun, BURST);
  close();
});

t.test('a session that fails amid a burst begins nothing more, and closes', async (t) => {
  let begun = 0;
  const { session, peer } = await connectRaw('server', {
    onStream(stream) {
      if (++begun === 2 * REQUESTS_PER_TURN) stream.session.destroy();
      else stream.setHandlers(record(() => stream));
    },
  });
  peer.socket.write(burst(BURST));
  await peer.waitClosed();
  t.equal(begun, 2 * REQUESTS_PER_TURN);
  t.equal(session.openStreams, 0);
});

t.test('a frame that breaks a rule behind a burst ends the session in its turn', async (t) => {
  let begun = 0;
  const { peer, close } = await connectRaw('server', {
    onStream(stream) {
      begun++;
      stream.setHandlers(record(() => stream));
    },
  });
  const broken = Buffer.from([0, 0, 0, FRAME.PUSH_PROMISE, 0, 0, 0, 0, 1]);
  peer.socket.write(Buffer.concat([burst(BURST), broken, burst(BURST)]));
  const goaway = await peer.waitFor(({ type }) => type === FRAME.GOAWAY);
  t.equal(goawayCode(goaway), 1);
  t.equal(begun, BURST);
  close();
});

t.test('who is cut off amid a burst leaves nothing behind', async (t) => {
  const sockets = await connectSockets();
  const session = createH2Session(
    sockets.server,
    sessionOptions('server', {
      onStream(stream) {
        stream.setHandlers(record(() => stream));
        sockets.client.resetAndDestroy();
      },
    }),
  );
  const closed = new Promise((resolve) => session.onClosed(resolve));
  sockets.client.write(Buffer.concat([START, burst(BURST)]));
  await closed;
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(session.openStreams, 0);
});
