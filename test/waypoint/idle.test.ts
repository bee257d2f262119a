/** Silence: what waits for an answer ends some day, what has begun to answer does not, unless a policy says so. */

import { once } from 'node:events';
import { createServer as createHttpServer, type ServerResponse } from 'node:http';
import {
  connect as connectH2,
  createServer as createH2Server,
  type ServerHttp2Stream,
} from 'node:http2';
import { createServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { DEFAULT_TIMEOUTS } from '../../src/core/traffic-policy.ts';
import { app, meshWith } from './apps.ts';
import { rigFor } from './ask.ts';

const HOUR_MS = 3_600_000;
const SWITCH = 'GET / HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n';

/** Reads until `text` has come. */
async function until(stream: Duplex, text: string): Promise<void> {
  let seen = '';
  const read = (chunk: Buffer): void => void (seen += chunk.toString('latin1'));
  stream.on('data', read);
  while (!seen.includes(text)) await once(stream, 'data');
  stream.off('data', read);
}

t.test(
  'an event stream, a watch, a WebSocket and a connection outlive hours of silence',
  async (t) => {
    const clock = createFakeClock();
    const answers: ServerResponse[] = [];
    const sockets: Socket[] = [];
    const watches: ServerHttp2Stream[] = [];
    const events = createHttpServer((_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write('data: first\n\n');
      answers.push(response);
    });
    events.on('upgrade', (_, socket: Socket) => {
      socket.on('error', () => {});
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst',
      );
      sockets.push(socket);
    });
    const grpc = createH2Server();
    grpc.on('stream', (stream: ServerHttp2Stream) => {
      stream.on('error', () => {});
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
      stream.write('first');
      watches.push(stream);
    });
    const bytes = createServer((socket) => {
      socket.on('error', () => {});
      socket.write('first');
      sockets.push(socket);
    });
    const rig = await rigFor(t, [events, grpc, bytes], ([a = 0, b = 0, c = 0]) => ({
      clock,
      apps: [
        { name: 'events', ports: [a], appProtocol: 'HTTP11' },
        { name: 'grpc', ports: [b], appProtocol: 'GRPC' },
        { name: 'bytes', ports: [c], appProtocol: 'TCP' },
      ],
    }));
    const stream = await rig.open('events');
    stream.write('GET / HTTP/1.1\r\nHost: app\r\n\r\n');
    const socket = await rig.open('events');
    socket.write(SWITCH);
    const raw = await rig.open('bytes');
    const connection = await rig.open('grpc');
    const session = connectH2('http://app', { createConnection: () => connection });
    t.teardown(() => session.destroy());
    const watch = session.request({ ':method': 'POST', 'content-type': 'application/grpc' });
    const all = [stream, socket, raw, watch];
    await Promise.all(all.map((one) => until(one, 'first')));
    t.equal(sockets.length, 2, 'the switched connection and the raw one');
    await clock.advance(3 * HOUR_MS);
    t.strictSame(rig.records, [], 'nothing has ended');
    const later = Promise.all(all.map((one) => until(one, 'later')));
    for (const answer of answers) answer.write('data: later\n\n');
    for (const one of [...sockets, ...watches]) one.write('later');
    await later;
    for (const one of [...all, connection]) one.destroy();
  },
);

for (const side of ['client', 'application'] as const) {
  t.test(
    `a WebSocket of which the ${side} has ended its half is given up in an hour`,
    async (t) => {
      const clock = createFakeClock();
      const ws = createHttpServer();
      const accepted = once(ws, 'upgrade') as Promise<[unknown, Socket]>;
      const rig = await rigFor(t, [ws], ([port = 0]) => ({
        clock,
        apps: [{ name: 'ws', ports: [port], appProtocol: 'HTTP11' }],
      }));
      const client = await rig.open('ws');
      client.on('error', () => {});
      client.write(SWITCH);
      const [, socket] = await accepted;
      socket.on('error', () => {});
      socket.allowHalfOpen = true;
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst',
      );
      await until(client, 'first');
      const [ending, other] = side === 'client' ? [client, socket] : [socket, client];
      const seen = once(other, 'end');
      other.resume();
      ending.end();
      await seen;
      await clock.advance(HOUR_MS - 10_000);
      t.strictSame(rig.records, [], 'the other half may still be used');
      await clock.advance(20_000);
      await rig.recorded(1);
      t.match(rig.records, [{ status: 101, flag: 'TIMEOUT' }]);
    },
  );
}

t.test('a policy ends a silent stream, and silence before an answer ends in an hour', async (t) => {
  const clock = createFakeClock();
  const target = app('app');
  target.handle = (request, response) => {
    if (request.url === '/events') response.write('first');
  };
  const { get, policy, rig } = await meshWith(t, { clock }, target);
  const arrived = async (hits: number): Promise<void> => {
    while (target.hits < hits) await new Promise((resolve) => setImmediate(resolve));
  };
  const waiting = get();
  await arrived(1);
  await clock.advance(HOUR_MS - 10_000);
  t.strictSame(rig.records, []);
  await clock.advance(20_000);
  t.equal((await waiting).status, 504);
  t.match(rig.records, [{ flag: 'TIMEOUT', errorCode: 'MESH_DEADLINE_EXCEEDED' }]);
  policy({ timeouts: { ...DEFAULT_TIMEOUTS, idleMs: 60_000 } });
  const stream = await rig.open('app');
  stream.write('GET /events HTTP/1.1\r\nHost: app\r\n\r\n');
  await until(stream, 'first');
  await clock.advance(61_000);
  await rig.recorded(2);
  t.match(rig.records[1], { status: 200, flag: 'TIMEOUT', error: /no bytes either way/ });
  t.equal(rig.metric('nodemesh_request_timeouts_total', { kind: 'idle' }), 2);
});

t.test('G21 a client that does not read is not silent: it is given up', async (t) => {
  const clock = createFakeClock();
  const target = app('app');
  const answering = new Promise<void>((resolve) => {
    target.handle = (_, response) => {
      response.end(Buffer.alloc(32 * 1024 * 1024));
      resolve();
    };
  });
  const { rig } = await meshWith(t, { clock }, target);
  const session = await rig.session();
  t.teardown(() => session.destroy());
  const reset = new Promise<void>((resolve) => {
    const stream = session.request(
      [
        [':method', 'CONNECT'],
        [':authority', `${rig.vip('app')}:80`],
      ],
      {
        onHeaders: () => stream.write(Buffer.from('GET / HTTP/1.1\r\nHost: app\r\n\r\n')),
        // Never consumed: the window fills, and stays full.
        onData: () => {},
        onEnd: () => {},
        onReset: () => resolve(),
        onDrain: () => {},
      },
      false,
    );
  });
  await answering;
  // The window fills within the first of them.
  await clock.advance(3 * HOUR_MS);
  await reset;
  await rig.recorded(1);
  t.match(rig.records, [{ status: 200, flag: 'TIMEOUT' }]);
});
