/** What has ended is garbage: requests, connections and what watches over them leave nothing behind. */

import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { connect as connectH2, createServer as createH2Server } from 'node:http2';
import { createServer } from 'node:net';
import type { Duplex } from 'node:stream';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import t from 'tap';

import { H2_ERROR } from '../../src/http/h2/contract.ts';
import { ask, rigFor } from './ask.ts';
import { connectStream, type Rig } from './rig.ts';

setFlagsFromString('--expose-gc');
// What the engine throws away of code would hide what is kept.
setFlagsFromString('--no-flush-bytecode');
const collect = runInNewContext('gc') as () => void;

const ROUNDS = 1_000;
/** The smallest thing that is watched, with what hangs on it, has more. */
const LEFT_MAX_BYTES = 400;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function heapBytes(rig: Rig): Promise<number> {
  // What the rig writes down is not what the waypoint keeps.
  for (const written of [rig.records, rig.lines as unknown[]]) written.length = 0;
  for (let i = 0; i < 3; i++) {
    await pause(20);
    collect();
  }
  return process.memoryUsage().heapUsed;
}

async function askH2(connection: Duplex, status: number): Promise<void> {
  const session = connectH2('http://web', { createConnection: () => connection });
  session.on('error', () => {});
  const stream = session.request({ ':path': '/' });
  let seen = 0;
  stream.on('response', (headers) => (seen = headers[':status'] ?? 0));
  stream.resume();
  await once(stream, 'close');
  session.close();
  await once(session, 'close');
  if (seen !== status) throw new Error(`status ${seen} instead of ${status}`);
}

type Round = (rig: Rig) => Promise<void>;
const web = createHttpServer((_, response) => response.end('ok'));
const h2 = createH2Server((_, response) => response.end('ok'));
const never = createHttpServer();
const raw = createServer((socket) => {
  socket.on('error', () => {});
  socket.pipe(socket);
});

const KINDS: readonly (readonly [string, Round])[] = [
  ['HTTP/1.1 requests', async (rig) => void (await ask(await rig.open('web')))],
  ['HTTP/2 requests', async (rig) => askH2(await rig.open('h2'), 200)],
  ['HTTP/2 requests to who speaks HTTP/1.1', async (rig) => askH2(await rig.open('unknown'), 502)],
  [
    'requests that the client gives up',
    async (rig) => {
      const connection = await rig.open('never');
      connection.write('GET / HTTP/1.1\r\nHost: never\r\n\r\n');
      await once(never, 'request');
      connection.destroy();
    },
  ],
  [
    'tunnels',
    async (rig) => {
      const session = await rig.session();
      const stream = await connectStream(session, `${rig.vip('raw')}:80`);
      stream.reset(H2_ERROR.CANCEL);
      session.destroy();
    },
  ],
  [
    'connections that are passed through',
    async (rig) => {
      const connection = await rig.open('raw');
      connection.end('hello');
      connection.resume();
      await once(connection, 'end');
    },
  ],
];

t.test('nothing is left of', async (t) => {
  const rig = await rigFor(
    t,
    [web, h2, never, raw],
    ([port = 0, http2 = 0, silent = 0, bytes = 0]) => ({
      apps: [
        { name: 'web', ports: [port], appProtocol: 'HTTP11' },
        { name: 'h2', ports: [http2], appProtocol: 'HTTP2' },
        { name: 'unknown', ports: [port] },
        { name: 'never', ports: [silent], appProtocol: 'HTTP11' },
        { name: 'raw', ports: [bytes], appProtocol: 'TCP' },
      ],
    }),
  );
  // What the engine makes of code that runs often is memory too.
  for (const [, round] of KINDS) for (let i = 0; i < ROUNDS; i++) await round(rig);
  for (const [name, round] of KINDS) {
    await t.test(name, async (t) => {
      const before = await heapBytes(rig);
      for (let i = 0; i < ROUNDS; i++) await round(rig);
      const left = ((await heapBytes(rig)) - before) / ROUNDS;
      t.ok(left < LEFT_MAX_BYTES, `${left.toFixed(0)} bytes of each`);
      t.comment(`${left.toFixed(0)} bytes of each`);
    });
  }
});
