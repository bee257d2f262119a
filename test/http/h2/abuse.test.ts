/** The abuse budgets of a server session, each against a raw peer that breaks it (T60 to T65). */

import t, { type Test } from 'tap';

import { createFakeClock } from '../../../src/base/clock.ts';
import type { MeshError } from '../../../src/base/errors.ts';
import {
  H2_ERROR,
  type H2ServerStream,
  type H2Session,
  type HeaderList,
} from '../../../src/http/h2/contract.ts';
import { FLAG, FRAME, SETTING } from '../../../src/http/h2/frames.ts';
import { HeaderEncoder } from '../../../src/http/h2/hpack-encoder.ts';
import type { H2Limits } from '../../../src/http/h2/limits.ts';
import { encodeSettings } from '../../../src/http/h2/settings.ts';
import { connectRaw, goawayCode, record, uint32, type Overrides, type RawPeer } from './peers.ts';

const CONNECT: HeaderList = [
  [':method', 'CONNECT'],
  [':authority', 'a:1'],
];
const POST: HeaderList = [
  [':method', 'POST'],
  [':scheme', 'http'],
  [':path', '/'],
  [':authority', 'a'],
];

function block(headers: HeaderList): Buffer {
  return Buffer.from(new HeaderEncoder().encode(headers), 'latin1');
}

function open(peer: RawPeer, streamId: number, headers = CONNECT, endStream = false): void {
  const flags = FLAG.END_HEADERS | (endStream ? FLAG.END_STREAM : 0);
  peer.send(FRAME.HEADERS, flags, streamId, block(headers));
}

function closedError(session: H2Session): Promise<MeshError | undefined> {
  return new Promise((resolve) => session.onClosed(resolve));
}

function accept(stream: H2ServerStream): void {
  stream.setHandlers(record(() => stream));
  stream.sendHeaders([[':status', '200']], false);
}

/** Runs `attack` until the session has ended, and checks how. */
async function endsCalm(
  t: Test,
  limits: Partial<H2Limits>,
  attack: (peer: RawPeer) => void,
  overrides: Overrides = {},
): Promise<void> {
  const { session, peer, close } = await connectRaw('server', {
    onStream: accept,
    limits,
    ...overrides,
  });
  const ended = closedError(session);
  attack(peer);
  const error = await ended;
  t.equal(error?.code, 'MESH_HTTP2_ABUSE', error?.message ?? '');
  t.equal(session.openStreams, 0);
  const goaway = await peer.waitFor((frame) => frame.type === FRAME.GOAWAY);
  // A peer that goes on flooding is cut off, GOAWAY or not.
  if (goaway !== undefined) t.equal(goawayCode(goaway), H2_ERROR.ENHANCE_YOUR_CALM);
  close();
}

void t.test('T60: streams reset before an answer are bounded', async (t) => {
  const early = { earlyResets: { burst: 50, perSecond: 1 } };
  const attack = (peer: RawPeer): void => {
    for (let id = 1; id < 201; id += 2) {
      open(peer, id);
      peer.send(FRAME.RST_STREAM, 0, id, uint32(H2_ERROR.CANCEL));
    }
  };
  await endsCalm(t, early, attack, {
    onStream: (stream) => stream.setHandlers(record(() => stream)),
  });
});

void t.test('T60: resets of answered streams have a budget of their own', async (t) => {
  const limits = {
    earlyResets: { burst: 1, perSecond: 1 },
    lateResets: { burst: 1000, perSecond: 1 },
  };
  const { session, peer, close } = await connectRaw('server', { onStream: accept, limits });
  for (let id = 1; id < 401; id += 2) {
    open(peer, id);
    await peer.waitFor((frame) => frame.type === FRAME.HEADERS && frame.streamId === id);
    peer.send(FRAME.RST_STREAM, 0, id, uint32(H2_ERROR.CANCEL));
  }
  peer.send(FRAME.PING, 0, 0, Buffer.alloc(8));
  await peer.waitFor((frame) => frame.type === FRAME.PING && frame.flags === FLAG.ACK);
  t.equal(session.state, 'open', '200 tunnelled connections were aborted without harm');
  t.equal(session.openStreams, 0);
  close();
});

void t.test('T60: a budget fills again with time', async (t) => {
  const clock = createFakeClock();
  const limits = { emptyData: { burst: 2, perSecond: 1 } };
  const { session, peer, close } = await connectRaw('server', { onStream: accept, limits, clock });
  open(peer, 1);
  const empty = async (): Promise<void> => {
    peer.send(FRAME.DATA, 0, 1);
    const seen = peer.frames.length;
    peer.send(FRAME.PING, 0, 0, Buffer.alloc(8));
    await peer.waitFor((frame) => peer.frames.indexOf(frame) >= seen);
  };
  for (let i = 0; i < 6; i++) {
    await empty();
    await clock.advance(1000);
  }
  t.equal(session.state, 'open');
  for (let i = 0; i < 4; i++) await empty();
  t.equal(session.state, 'closed');
  close();
});

void t.test('T61: resets the peer provokes are bounded, by each primitive', async (t) => {
  const limits = { provokedResets: { burst: 20, perSecond: 1 } };
  const selfDependent = (id: number): Buffer => Buffer.concat([uint32(id), Buffer.from([0])]);
  const primitives: readonly (readonly [string, (peer: RawPeer, id: number) => void])[] = [
    ['WINDOW_UPDATE of 0', (peer, id) => peer.send(FRAME.WINDOW_UPDATE, 0, id, uint32(0))],
    [
      'WINDOW_UPDATE too large',
      (peer, id) => peer.send(FRAME.WINDOW_UPDATE, 0, id, uint32(0x7fffffff)),
    ],
    ['PRIORITY on itself', (peer, id) => peer.send(FRAME.PRIORITY, 0, id, selfDependent(id))],
    ['PRIORITY of a wrong length', (peer, id) => peer.send(FRAME.PRIORITY, 0, id, uint32(0))],
    [
      'DATA after END_STREAM',
      (peer, id) => {
        peer.send(FRAME.DATA, FLAG.END_STREAM, id);
        peer.send(FRAME.DATA, 0, id, Buffer.alloc(1));
      },
    ],
    [
      'HEADERS after END_STREAM',
      (peer, id) => {
        peer.send(FRAME.DATA, FLAG.END_STREAM, id);
        open(peer, id);
      },
    ],
    ['trailers that do not end', (peer, id) => open(peer, id, [['x', 'y']])],
  ];
  for (const [name, provoke] of primitives) {
    await t.test(name, (t) =>
      endsCalm(t, limits, (peer) => {
        for (let id = 1; id < 101; id += 2) {
          open(peer, id);
          provoke(peer, id);
        }
      }),
    );
  }
});

void t.test('T61: a malformed request is reset and counted', async (t) => {
  const limits = { provokedResets: { burst: 20, perSecond: 1 } };
  await endsCalm(t, limits, (peer) => {
    for (let id = 1; id < 101; id += 2) open(peer, id, [[':method', 'CONNECT']]);
  });
});

void t.test('T61: a retained stream counts until it is let go', async (t) => {
  const releases: (() => void)[] = [];
  const { peer, close } = await connectRaw('server', {
    limits: { streamsMax: 2 },
    onStream(stream) {
      stream.setHandlers(record(() => stream));
      releases.push(stream.retain());
    },
  });
  for (const id of [1, 3]) {
    open(peer, id);
    peer.send(FRAME.RST_STREAM, 0, id, uint32(H2_ERROR.CANCEL));
  }
  open(peer, 5);
  const refused = await peer.waitFor((frame) => frame.type === FRAME.RST_STREAM);
  t.equal(refused?.streamId, 5);
  t.equal(refused?.payload.readUInt32BE(), H2_ERROR.REFUSED_STREAM);
  releases[0]?.();
  releases[0]?.();
  open(peer, 7);
  open(peer, 9);
  const next = await peer.waitFor((frame) => frame.type === FRAME.RST_STREAM && frame !== refused);
  t.equal(next?.streamId, 9, 'one was let go, one more is served');
  close();
});

void t.test('T62: a header block is bounded in frames, bytes and time', async (t) => {
  await t.test('frames', (t) =>
    endsCalm(t, {}, (peer) => {
      peer.send(FRAME.HEADERS, 0, 1, block(CONNECT));
      for (let i = 0; i < 9; i++) peer.send(FRAME.CONTINUATION, 0, 1);
    }),
  );
  await t.test('bytes', (t) =>
    endsCalm(t, {}, (peer) => {
      peer.send(FRAME.HEADERS, 0, 1, Buffer.alloc(16_384));
      for (let i = 0; i < 5; i++) peer.send(FRAME.CONTINUATION, 0, 1, Buffer.alloc(16_384));
    }),
  );
  await t.test('one frame of too many bytes is refused before it has come', (t) =>
    endsCalm(t, {}, (peer) => {
      const head = Buffer.from([0x03, 0, 0, FRAME.HEADERS, 0, 0, 0, 0, 1]);
      peer.socket.write(head);
    }),
  );
  for (const partial of ['no END_HEADERS', 'a frame that trickles']) {
    await t.test(`time: ${partial}`, async (t) => {
      const clock = createFakeClock();
      const { session, peer, close } = await connectRaw('server', { clock });
      peer.send(FRAME.PING, 0, 0, Buffer.alloc(8));
      if (partial.startsWith('no')) peer.send(FRAME.HEADERS, 0, 1, block(CONNECT));
      else peer.socket.write(Buffer.from([0, 0, 50, FRAME.HEADERS, 4, 0, 0, 0, 1, 0x82]));
      await peer.waitFor((frame) => frame.type === FRAME.PING && frame.flags === FLAG.ACK);
      await clock.advance(4900);
      t.equal(session.state, 'open');
      await clock.advance(200);
      t.equal(session.state, 'closed');
      const goaway = await peer.waitFor((frame) => frame.type === FRAME.GOAWAY);
      t.equal(goawayCode(goaway), H2_ERROR.ENHANCE_YOUR_CALM);
      close();
    });
  }
});

void t.test(
  'T63: a header list over the limit is answered with 431, the session goes on',
  async (t) => {
    const seen: HeaderList[] = [];
    const { session, peer, close } = await connectRaw('server', {
      limits: { headerListMaxBytes: 2000 },
      onStream: (_, headers) => void seen.push(headers),
    });
    // One entry of 500 bytes in the table, then references to it.
    const entry = Buffer.concat([
      Buffer.from([0x40, 1, 0x78, 0x7f, 0xf5, 0x02]),
      Buffer.alloc(500, 0x61),
    ]);
    t.equal(entry.length, 506);
    peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 1, Buffer.concat([block(CONNECT), entry]));
    const references = Buffer.alloc(100, 0xbe);
    peer.send(FRAME.HEADERS, FLAG.END_HEADERS, 3, Buffer.concat([block(CONNECT), references]));
    const answer = await peer.waitFor(
      (frame) => frame.type === FRAME.HEADERS && frame.streamId === 3,
    );
    t.equal((answer?.flags ?? 0) & FLAG.END_STREAM, FLAG.END_STREAM);
    t.match(answer?.payload.toString('latin1'), /431/);
    open(peer, 5);
    peer.send(FRAME.PING, 0, 0, Buffer.alloc(8));
    await peer.waitFor((frame) => frame.type === FRAME.PING && frame.flags === FLAG.ACK);
    t.equal(session.state, 'open');
    t.equal(seen.length, 2, 'streams 1 and 5 were served');
    close();
  },
);

void t.test('T64: floods of each kind of frame end the session', async (t) => {
  const limits = {
    controlFrames: { burst: 500, perSecond: 1 },
    emptyData: { burst: 20, perSecond: 1 },
    unknownFrames: { burst: 20, perSecond: 1 },
  };
  const priority = Buffer.concat([uint32(0), Buffer.from([16])]);
  const floods: readonly (readonly [string, (peer: RawPeer) => void])[] = [
    ['SETTINGS', (peer) => peer.send(FRAME.SETTINGS, 0, 0)],
    ['SETTINGS ack', (peer) => peer.send(FRAME.SETTINGS, FLAG.ACK, 0)],
    ['PING', (peer) => peer.send(FRAME.PING, 0, 0, Buffer.alloc(8))],
    ['PING ack', (peer) => peer.send(FRAME.PING, FLAG.ACK, 0, Buffer.alloc(8))],
    ['PRIORITY', (peer) => peer.send(FRAME.PRIORITY, 0, 1, priority)],
    ['WINDOW_UPDATE', (peer) => peer.send(FRAME.WINDOW_UPDATE, 0, 0, uint32(1))],
    ['WINDOW_UPDATE of a stream', (peer) => peer.send(FRAME.WINDOW_UPDATE, 0, 1, uint32(1))],
    ['GOAWAY', (peer) => peer.send(FRAME.GOAWAY, 0, 0, Buffer.alloc(8))],
    ['RST_STREAM of a closed stream', (peer) => peer.send(FRAME.RST_STREAM, 0, 1, uint32(8))],
    ['empty DATA', (peer) => peer.send(FRAME.DATA, 0, 3)],
    ['unknown type', (peer) => peer.send(0xfe, 0, 0)],
    ['ALTSVC', (peer) => peer.send(0xa, 0, 0, Buffer.alloc(2))],
  ];
  for (const [name, flood] of floods) {
    await t.test(name, (t) =>
      endsCalm(t, limits, (peer) => {
        open(peer, 1, POST);
        open(peer, 3, POST);
        if (name.startsWith('RST')) flood(peer);
        for (let i = 0; i < 600; i++) flood(peer);
      }),
    );
  }
});

void t.test('T64: answers that the peer does not read are bounded', async (t) => {
  const limits = {
    controlFrames: { burst: 10_000_000, perSecond: 1 },
    controlQueuedMax: 1000,
  };
  await endsCalm(t, limits, (peer) => {
    peer.socket.pause();
    const ping = Buffer.from([0, 0, 8, FRAME.PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    const many = Buffer.concat(Array.from({ length: 1000 }, () => ping));
    const flood = setInterval(() => {
      if (peer.socket.writableLength < 1_000_000) {
        for (let i = 0; i < 200; i++) peer.socket.write(many);
      }
    }, 1);
    peer.socket.once('close', () => clearInterval(flood));
    setTimeout(() => {
      clearInterval(flood);
      peer.socket.resume();
    }, 300);
  });
});

void t.test('T64: window updates that answer our data cost nothing', async (t) => {
  const bytes = 8 * 1024 * 1024;
  const { session, peer, close } = await connectRaw('server', {
    limits: { controlFrames: { burst: 30, perSecond: 1 } },
    onStream(stream) {
      stream.setHandlers(record(() => stream));
      stream.sendHeaders([[':status', '200']], false);
      stream.write(Buffer.alloc(bytes));
      stream.end();
    },
  });
  open(peer, 1);
  let seen = 0;
  let received = 0;
  while (received < bytes && !peer.closed) {
    await peer.waitFor((frame) => peer.frames.indexOf(frame) >= seen && frame.type === FRAME.DATA);
    for (; seen < peer.frames.length; seen++) {
      const frame = peer.frames[seen];
      if (frame?.type !== FRAME.DATA || frame.payload.length === 0) continue;
      received += frame.payload.length;
      peer.send(FRAME.WINDOW_UPDATE, 0, 0, uint32(frame.payload.length));
      peer.send(FRAME.WINDOW_UPDATE, 0, 1, uint32(frame.payload.length));
    }
  }
  t.equal(received, bytes);
  t.equal(session.state, 'open');
  close();
});

void t.test('T65: data queued behind closed windows is bounded by resetting', async (t) => {
  const errors: (MeshError | undefined)[] = [];
  const { session, peer, close } = await connectRaw('server', {
    limits: { queuedMaxBytes: 1_000_000 },
    onStream(stream) {
      const seen = record(() => stream);
      stream.setHandlers(seen);
      stream.sendHeaders([[':status', '200']], false);
      stream.write(Buffer.alloc(300_000));
      void seen.settled.then(() => errors.push(seen.error as MeshError));
    },
  });
  peer.send(FRAME.SETTINGS, 0, 0, encodeSettings([[SETTING.INITIAL_WINDOW_SIZE, 0]]));
  for (let id = 1; id < 21; id += 2) open(peer, id);
  const reset = await peer.waitFor((frame) => frame.type === FRAME.RST_STREAM);
  t.equal(reset?.payload.readUInt32BE(), H2_ERROR.ENHANCE_YOUR_CALM);
  t.equal(session.openStreams, 3, 'three streams fit');
  t.equal(errors[0]?.code, 'MESH_LIMIT_EXCEEDED');
  close();
});

void t.test('T65: a peer that opens no window is cut off, one stalled user is not', async (t) => {
  for (const [streams, state] of [
    [100, 'closed'],
    [1, 'open'],
  ] as const) {
    const clock = createFakeClock();
    const { session, peer, close } = await connectRaw('server', {
      clock,
      onStream(stream) {
        stream.setHandlers(record(() => stream));
        stream.sendHeaders([[':status', '200']], false);
        stream.write(Buffer.alloc(64 * 1024));
      },
    });
    peer.send(FRAME.SETTINGS, 0, 0, encodeSettings([[SETTING.INITIAL_WINDOW_SIZE, 0]]));
    for (let i = 0; i < streams; i++) open(peer, 1 + 2 * i);
    for (let i = 0; i < 70; i += 5) {
      const seen = peer.frames.length;
      peer.send(FRAME.PING, 0, 0, Buffer.alloc(8));
      await peer.waitFor((frame) => peer.frames.indexOf(frame) >= seen);
      await clock.advance(5000);
    }
    t.equal(session.state, state, `${streams} streams`);
    close();
  }
});
