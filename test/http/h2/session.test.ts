/** Life of a session: opening, drain, GOAWAY, errors, keepalive, recycling, re-entrancy, leaks. */

import t from 'tap';

import { createFakeClock } from '../../../src/base/clock.ts';
import { MeshError } from '../../../src/base/errors.ts';
import {
  H2_ERROR,
  type H2Session,
  type H2Stream,
  type H2StreamHandlers,
  type HeaderList,
} from '../../../src/http/h2/contract.ts';
import { FLAG, FRAME, SETTING } from '../../../src/http/h2/frames.ts';
import { HeaderEncoder } from '../../../src/http/h2/hpack-encoder.ts';
import { createH2Session } from '../../../src/http/h2/session.ts';
import { encodeSettings } from '../../../src/http/h2/settings.ts';
import { createWindowBudget } from '../../../src/http/h2/window-budget.ts';
import {
  connectRaw,
  connectSessions,
  connectSockets,
  goawayCode,
  record,
  requestOn,
  sessionOptions,
  uint32,
  type RawPeer,
} from './peers.ts';

const CONNECT: HeaderList = [
  [':method', 'CONNECT'],
  [':authority', 'a:1'],
];

function block(headers: HeaderList): Buffer {
  return Buffer.from(new HeaderEncoder().encode(headers), 'latin1');
}

function whenClosed(session: H2Session): Promise<MeshError | undefined> {
  return new Promise((resolve) => session.onClosed(resolve));
}

/** Everything the peer has sent so far has been handled. */
async function synced(peer: RawPeer): Promise<void> {
  const seen = peer.frames.length;
  peer.send(FRAME.PING, 0, 0, Buffer.alloc(8));
  await peer.waitFor(
    (frame) => peer.frames.indexOf(frame) >= seen && frame.type === FRAME.PING && frame.flags === 1,
  );
}

void t.test('session: the server drains without losing a request that crosses (T72)', async (t) => {
  const served: number[] = [];
  const { client, server, close } = await connectSessions((stream) => {
    served.push(stream.id);
    stream.setHandlers(record(() => stream));
    stream.sendHeaders([[':status', '200']], true);
  });
  const first = requestOn(client, CONNECT, false);
  await first.answer.settled;
  server.drain();
  t.equal(server.state, 'draining');
  t.equal(server.streamSlots, 0);
  // The client has not heard of it yet.
  const crossing = requestOn(client, CONNECT, false);
  await crossing.answer.settled;
  t.equal(crossing.answer.error, undefined);
  t.same(served, [1, 3]);
  t.throws(
    () =>
      client.request(
        CONNECT,
        record(() => undefined),
        false,
      ),
    {
      code: 'MESH_HTTP2_GOAWAY',
      retryable: true,
    },
  );
  t.equal(client.state, 'draining');
  first.stream.end();
  crossing.stream.end();
  t.equal(await whenClosed(server), undefined);
  t.equal(await whenClosed(client), undefined);
  close();
});

void t.test(
  'session: GOAWAY gives back what the peer has not looked at, as retryable',
  async (t) => {
    const { session, peer, close } = await connectRaw('client');
    const streams = [1, 3, 5].map(() => requestOn(session, CONNECT, false));
    peer.send(FRAME.GOAWAY, 0, 0, Buffer.concat([uint32(1), uint32(0)]));
    await streams[1]?.answer.settled;
    const errors = streams.map(({ answer }) => answer.error as MeshError | undefined);
    t.equal(errors[0], undefined);
    for (const error of errors.slice(1)) {
      t.equal(error?.code, 'MESH_HTTP2_GOAWAY');
      t.equal(error?.retryable, true);
    }
    t.equal(session.openStreams, 1);
    t.equal(session.state, 'draining');
    t.equal(session.streamSlots, 0);
    close();
  },
);

void t.test('T71: a session whose peer stays after GOAWAY is reaped after 10 s', async (t) => {
  for (const [title, type, payload] of [
    ['our error', FRAME.DATA, Buffer.alloc(1)],
    ['the peer said error', FRAME.GOAWAY, Buffer.concat([uint32(0), uint32(1)])],
  ] as const) {
    const clock = createFakeClock();
    let reaped = 0;
    const { session, peer, close } = await connectRaw('server', {
      clock,
      onReaped: () => void reaped++,
    });
    peer.socket.allowHalfOpen = true;
    peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, block(CONNECT));
    peer.send(type, 0, 0, payload);
    await (title === 'our error' ? whenClosed(session) : synced(peer));
    t.equal(peer.closed, false, title);
    // What comes now is dropped.
    peer.send(FRAME.PING, 0, 0, Buffer.alloc(8));
    await clock.advance(9900);
    t.equal(reaped, 0);
    await clock.advance(200);
    t.equal(reaped, 1);
    await new Promise((resolve) => setTimeout(resolve, 10));
    t.equal(session.state, 'closed');
    t.equal(clock.pendingCount(), 0, 'no timer is left');
    close();
  }
});

void t.test('T71: a peer that floods a failed session is cut off at once', async (t) => {
  const { session, peer, close } = await connectRaw('server');
  peer.send(FRAME.DATA, 0, 0, Buffer.alloc(1));
  for (let i = 0; i < 30; i++) peer.socket.write(Buffer.alloc(100_000));
  await peer.waitClosed();
  t.equal(session.state, 'closed');
  close();
});

void t.test('session: keepalive pings a silent peer and gives up after 30 s (F33)', async (t) => {
  const clock = createFakeClock();
  const { session, peer, close } = await connectRaw('client', { clock });
  await peer.waitFor((frame) => frame.type === FRAME.PING);
  const { answer } = requestOn(session, CONNECT, false);
  await peer.waitFor((frame) => frame.type === FRAME.HEADERS);
  const before = peer.frames.length;
  await clock.advance(10_000);
  await peer.waitFor((frame) => frame.type === FRAME.PING && peer.frames.indexOf(frame) >= before);
  peer.send(FRAME.PING, FLAG.ACK, 0, Buffer.alloc(8));
  await new Promise((resolve) => setTimeout(resolve, 20));
  await clock.advance(29_000);
  t.equal(session.state, 'open');
  await clock.advance(2000);
  t.equal(session.state, 'closed');
  t.equal((answer.error as MeshError).code, 'MESH_DEADLINE_EXCEEDED');
  t.equal(clock.pendingCount(), 1, 'the reaper is left until the socket has closed');
  await peer.waitClosed();
  close();
});

void t.test('F62: own stalls are not held against the peer', async (t) => {
  const clock = createFakeClock();
  // Every tick comes 2 s late, as in a process without CPU time.
  let lateMs = 0;
  const slow = { ...clock, nowMs: () => clock.nowMs() + lateMs };
  const { session, close } = await connectRaw('client', { clock: slow });
  await new Promise((resolve) => setTimeout(resolve, 20));
  const starve = async (ticks: number): Promise<void> => {
    for (let i = 0; i < ticks; i++) {
      lateMs += 2000;
      await clock.advance(5000);
    }
  };
  await starve(10);
  t.equal(session.state, 'open', '50 s in which this process hardly ran');
  await starve(4);
  t.equal(session.state, 'closed', 'but not for ever');
  close();
});

void t.test('session: no preface or SETTINGS in 10 s ends it', async (t) => {
  const clock = createFakeClock();
  const sockets = await connectSockets();
  const session = createH2Session(sockets.server, sessionOptions('server', { clock }));
  const ended = whenClosed(session);
  await clock.advance(10_100);
  t.equal((await ended)?.code, 'MESH_DEADLINE_EXCEEDED');
  session.destroy();
  sockets.client.destroy();
});

void t.test('T72: a client session recycles itself at its last stream id', async (t) => {
  const { client, server, close } = await connectSessions(
    (stream) => {
      stream.setHandlers(record(() => stream));
      stream.sendHeaders([[':status', '200']], true);
    },
    {},
    { limits: { streamIdMax: 5 } },
  );
  const opened: H2Stream[] = [];
  for (const slots of [3, 2, 1]) {
    t.equal(client.streamSlots, slots);
    const { stream, answer } = requestOn(client, CONNECT, false);
    opened.push(stream);
    await answer.settled;
  }
  t.equal(client.state, 'draining');
  t.equal(client.streamSlots, 0);
  t.equal(client.openStreams, 3, 'running streams go on');
  for (const stream of opened) stream.end();
  t.equal(await whenClosed(client), undefined);
  t.equal(await whenClosed(server), undefined);
  close();
});

void t.test('T72: a server session drains at its stream id limit and at its age', async (t) => {
  const byIds = await connectRaw('server', {
    limits: { streamIdMax: 3 },
    onStream: (stream) => stream.setHandlers(record(() => stream)),
  });
  byIds.peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 3, block(CONNECT));
  const goaway = await byIds.peer.waitFor((frame) => frame.type === FRAME.GOAWAY);
  t.equal(goawayCode(goaway), H2_ERROR.NO_ERROR);
  t.equal(byIds.session.state, 'draining');
  byIds.close();
  const clock = createFakeClock();
  const byAge = await connectRaw('server', { clock, limits: { ageMaxMs: 60_000 } });
  for (let i = 0; i < 11; i++) {
    await synced(byAge.peer);
    await clock.advance(5000);
  }
  t.equal(byAge.session.state, 'open');
  await synced(byAge.peer);
  await clock.advance(5000);
  t.equal(byAge.session.state, 'draining');
  byAge.close();
});

void t.test('session: slots follow the peer', async (t) => {
  const { session, peer, close } = await connectRaw('client');
  t.equal(session.streamSlots, 100, 'assumed before SETTINGS');
  let told = 0;
  session.onSlots(() => void told++);
  peer.send(FRAME.SETTINGS, 0, 0, encodeSettings([[SETTING.MAX_CONCURRENT_STREAMS, 1]]));
  await synced(peer);
  t.equal(session.streamSlots, 1);
  t.equal(told, 1);
  const { stream } = requestOn(session, CONNECT, false);
  t.equal(session.streamSlots, 0);
  stream.reset(H2_ERROR.CANCEL);
  t.equal(session.streamSlots, 1);
  t.equal(told, 2);
  close();
});

void t.test('stream: an abort is RST_STREAM, never a clean end', async (t) => {
  const { session, peer, close } = await connectRaw('client');
  const { stream, answer } = requestOn(session, CONNECT, false);
  peer.send(FRAME.SETTINGS, 0, 0, encodeSettings([[SETTING.INITIAL_WINDOW_SIZE, 10]]));
  await synced(peer);
  stream.write(Buffer.alloc(100_000));
  stream.end();
  stream.reset(H2_ERROR.CANCEL);
  stream.reset(H2_ERROR.NO_ERROR);
  const reset = await peer.waitFor((frame) => frame.type === FRAME.RST_STREAM);
  t.equal(reset?.payload.readUInt32BE(), H2_ERROR.CANCEL);
  t.equal(stream.resetCode, H2_ERROR.CANCEL);
  await synced(peer);
  const ends = peer.frames.filter((frame) => frame.type === FRAME.DATA && (frame.flags & 1) !== 0);
  t.equal(ends.length, 0);
  t.equal((answer.error as MeshError).code, 'MESH_HTTP2_STREAM_RESET');
  t.equal(stream.write(Buffer.alloc(1)), true, 'writing to it is harmless');
  stream.end();
  close();
});

void t.test(
  'stream: late frames of a stream we reset are ignored, their bytes credited',
  async (t) => {
    const budget = createWindowBudget();
    const { session, peer, close } = await connectRaw('client', { windowBudget: budget });
    const { stream } = requestOn(session, CONNECT, false);
    stream.reset(H2_ERROR.CANCEL);
    peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, block([[':status', '200']]));
    for (let i = 0; i < 400; i++) peer.send(FRAME.DATA, 0, 1, Buffer.alloc(16_384));
    await synced(peer);
    t.equal(session.state, 'open');
    const credited = peer.frames
      .filter((frame) => frame.type === FRAME.WINDOW_UPDATE && frame.streamId === 0)
      .map((frame) => frame.payload.readUInt32BE());
    t.ok(credited.length >= 2, 'the connection window was opened again');
    t.equal(budget.heldBytes, 0);
    close();
  },
);

void t.test('stream: content-length must match the data, both ways', async (t) => {
  const seen: string[] = [];
  const { peer, close } = await connectRaw('server', {
    onStream(stream) {
      const seenStream = record(() => stream);
      stream.setHandlers(seenStream);
      void seenStream.settled.then(() =>
        seen.push(`${stream.id} ${seenStream.ended ? 'ended' : 'reset'}`),
      );
    },
  });
  const post = (length: string): HeaderList => [
    [':method', 'POST'],
    [':scheme', 'http'],
    [':path', '/'],
    ['content-length', length],
  ];
  const cases: readonly (readonly [length: string, bytes: number])[] = [
    ['5', 5],
    ['5', 4],
    ['5', 6],
    ['0', 0],
    ['5', 0],
  ];
  for (const [index, [length, bytes]] of cases.entries()) {
    const id = 1 + 2 * index;
    peer.send(FRAME.HEADERS, FLAG.END_HEADERS, id, block(post(length)));
    peer.send(FRAME.DATA, FLAG.END_STREAM, id, Buffer.alloc(bytes));
  }
  await synced(peer);
  t.same(seen, ['1 ended', '3 reset', '5 reset', '7 ended', '9 reset']);
  close();
  const client = await connectRaw('client');
  const { answer } = requestOn(client.session, post('0'), true);
  const head = block([
    [':status', '200'],
    ['content-length', '9'],
  ]);
  client.peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, head);
  client.peer.send(FRAME.DATA, FLAG.END_STREAM, 1, Buffer.alloc(3));
  await answer.settled;
  t.equal((answer.error as MeshError).code, 'MESH_HTTP2_PROTOCOL', 'a cut answer is no answer');
  client.close();
});

void t.test('stream: informational heads come before the final one', async (t) => {
  const { session, peer, close } = await connectRaw('client');
  const { answer } = requestOn(session, CONNECT, false);
  peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, block([[':status', '103']]));
  peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, block([[':status', '200']]));
  peer.send(FRAME.HEADERS, FLAG.END_HEADERS | 1, 1, block([['grpc-status', '0']]));
  await answer.settled;
  t.same(
    answer.headers.map((list) => list[0]),
    [
      [':status', '103'],
      [':status', '200'],
      ['grpc-status', '0'],
    ],
  );
  close();
});

void t.test('C03: any call from inside any callback leaves the session sound', async (t) => {
  type Act = (stream: H2Stream) => void;
  const acts: readonly (readonly [string, Act])[] = [
    ['write', (stream) => void stream.write(Buffer.alloc(70_000))],
    ['end', (stream) => stream.end()],
    ['reset', (stream) => stream.reset(H2_ERROR.CANCEL)],
    ['consume too much', (stream) => stream.consume(1_000_000)],
    ['set handlers', (stream) => stream.setHandlers(record(() => stream))],
    ['drain', (stream) => stream.session.drain()],
    ['destroy', (stream) => stream.session.destroy()],
    [
      'throw',
      () => {
        throw new Error('a handler failed');
      },
    ],
    [
      'request',
      (stream) => {
        if (stream.session.streamSlots > 0) requestOn(stream.session, CONNECT, false);
      },
    ],
  ];
  const places = ['onHeaders', 'onData', 'onEnd', 'onReset', 'onDrain'] as const;
  for (const place of places) {
    for (const [name, act] of acts) {
      for (const side of ['client', 'server'] as const) {
        let called = 0;
        const thrown: unknown[] = [];
        const handlersOf = (
          stream: () => H2Stream | undefined,
          mine: boolean,
        ): H2StreamHandlers => {
          const plain = record(stream);
          if (!mine) return plain;
          const hooked = (): void => {
            const target = stream();
            if (target === undefined || called++ > 3) return;
            act(target);
          };
          return { ...plain, [place]: hooked };
        };
        const { client, server, close } = await connectSessions(
          (stream) => {
            stream.setHandlers(handlersOf(() => stream, side === 'server'));
            stream.sendHeaders([[':status', '200']], false);
            stream.write(Buffer.alloc(400_000));
            stream.sendHeaders([['grpc-status', '0']], true);
          },
          { onHandlerError: (error) => void thrown.push(error) },
          { onHandlerError: (error) => void thrown.push(error) },
        );
        const box: { stream?: H2Stream } = {};
        const other = requestOn(client, CONNECT, false);
        box.stream = client.request(
          CONNECT,
          handlersOf(() => box.stream, side === 'client'),
          false,
        );
        box.stream.write(Buffer.alloc(400_000));
        box.stream.sendHeaders([['x', 'y']], true);
        other.stream.end();
        if (place === 'onReset') setTimeout(() => box.stream?.reset(H2_ERROR.CANCEL), 2);
        await other.answer.settled;
        close();
        const ours = thrown.filter((error) => !/a handler failed/.test(String(error)));
        t.same(ours, [], `${name} in ${place} of the ${side}`);
        t.equal(client.openStreams + server.openStreams, 0);
      }
    }
  }
});

void t.test('session: what a handler throws resets its stream alone', async (t) => {
  const thrown: unknown[] = [];
  const { client, close } = await connectSessions(
    (stream, headers) => {
      if (headers.some(([name]) => name === 'bad')) throw new Error('cannot serve');
      stream.setHandlers(record(() => stream));
      stream.sendHeaders([[':status', '200']], true);
    },
    { onHandlerError: (error) => void thrown.push(error) },
  );
  const bad = requestOn(client, [...CONNECT, ['bad', '1']], false);
  const good = requestOn(client, CONNECT, false);
  await bad.answer.settled;
  await good.answer.settled;
  t.equal(bad.stream.resetCode, H2_ERROR.INTERNAL_ERROR);
  t.ok(good.answer.ended);
  t.equal(thrown.length, 1);
  close();
});

void t.test(
  'session: the peer closing without GOAWAY resets streams and leaves nothing (C24)',
  async (t) => {
    const clock = createFakeClock();
    const { session, peer, close } = await connectRaw('client', { clock });
    const { answer } = requestOn(session, CONNECT, false);
    const ended = whenClosed(session);
    peer.socket.resetAndDestroy();
    t.ok((await ended) instanceof MeshError);
    t.ok(answer.error instanceof MeshError);
    await new Promise((resolve) => setTimeout(resolve, 20));
    t.equal(clock.pendingCount(), 0);
    close();
  },
);

void t.test('session: 1,000 sessions leave no timer, window or held byte', async (t) => {
  const clock = createFakeClock();
  const windowBudget = createWindowBudget();
  const shared = { clock, windowBudget };
  for (let i = 0; i < 1000; i += 50) {
    await Promise.all(
      Array.from({ length: 50 }, async (_, at) => {
        const { client, server, close } = await connectSessions(
          (stream) => {
            stream.setHandlers(record(() => stream));
            stream.sendHeaders([[':status', '200']], false);
            stream.write(Buffer.alloc(20_000));
            stream.end();
          },
          shared,
          shared,
        );
        const { stream, answer } = requestOn(client, CONNECT, false);
        stream.write(Buffer.alloc(5000));
        await answer.settled;
        // Some end cleanly, some abruptly, some from the other side.
        if (at % 3 === 0) {
          client.drain();
          stream.end();
          await whenClosed(server);
        } else if (at % 3 === 1) close();
        else {
          server.destroy();
          await whenClosed(client);
        }
        close();
      }),
    );
  }
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.equal(clock.pendingCount(), 0);
  t.equal(windowBudget.heldBytes, 0);
  t.equal(windowBudget.grownBytes, 0);
});

void t.test('who answers in HTTP/1 is told from who breaks the rules of HTTP/2', async (t) => {
  const sockets = await connectSockets();
  const session = createH2Session(sockets.client, sessionOptions('client'));
  const closed = new Promise<unknown>((resolve) => session.onClosed(resolve));
  sockets.server.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
  t.match(await closed, {
    code: 'MESH_HTTP2_PROTOCOL',
    message: 'The peer speaks HTTP/1, not HTTP/2',
  });
  sockets.server.destroy();
  session.destroy();
});
