import { once } from 'node:events';
import { createServer as createHttpServer, type Server } from 'node:http';
import type { Duplex } from 'node:stream';

import t, { type Test } from 'tap';

import type { SpiffeId } from '../../src/core/identity.ts';
import type { RequestRecord } from '../../src/core/request-record.ts';
import type { HttpRule } from '../../src/core/route.ts';
import { REQUESTS_PER_TURN } from '../../src/http/h2/paced-input.ts';
import { key } from '../state/build.ts';
import { ask, rigFor } from './ask.ts';
import {
  ABUSES,
  BOMB_BLOCK,
  frame,
  HEAD_BLOCK,
  HEADERS,
  LARGE_ENTRY,
  NO_WINDOW,
  NOTHING,
  PLAIN_BLOCK,
  PREFACE,
} from './h2-abuses.ts';
import { connectStream, NO_ROUTES, WEB, type Rig, type RigOptions } from './rig.ts';

const OTHER: SpiffeId = 'spiffe://cluster.local/ns/shop/sa/other' as SpiffeId;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function route(header: string): HttpRule {
  return {
    route: { kind: 'HTTPRoute', namespace: 'shop', name: 'changing', createdMs: 0 },
    index: 0,
    name: '',
    hostnames: [],
    matches: [{ path: { kind: 'prefix', value: '/' }, method: '', headers: [], queryParams: [] }],
    filters: [
      { kind: 'response-headers', change: { set: [['x-version', header]], add: [], remove: [] } },
    ],
    backends: [{ backend: { service: key('app'), port: 80, invalid: '' }, weight: 1, filters: [] }],
    requestTimeoutMs: undefined,
    backendRequestTimeoutMs: undefined,
    retry: undefined,
    sessionPersistence: undefined,
    invalid: '',
  };
}

t.test('configuration that changes ten times a second loses no request', async (t) => {
  const app = createHttpServer((_, response) => response.end('ok'));
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  let version = 0;
  const changing = setInterval(() => {
    rig.setRoutes('app', { ...NO_ROUTES, http: [route(String(++version))] });
  }, 100);
  t.teardown(() => clearInterval(changing));
  const endMs = Date.now() + 3000;
  const seen = new Set<string>();
  let served = 0;
  const load = async (): Promise<void> => {
    while (Date.now() < endMs) {
      const { status, headers } = await ask(await rig.open('app'));
      served++;
      if (status !== 200) t.fail(`status ${status}`);
      seen.add(String(headers['x-version']));
    }
  };
  await Promise.all([load(), load(), load(), load()]);
  t.ok(served > 100, `${served} requests`);
  t.ok(seen.size > 10, `${seen.size} versions seen`);
  t.notOk(
    rig.records.some(({ flag }) => flag !== '-'),
    'no flag',
  );
});

/** For budgets of thousands of frames; an abuser that is let through sends them all. */
const BURSTS_MAX = 1_000;

interface Abuser {
  readonly connection: Duplex;
  closed: boolean;
}

interface Scene {
  readonly rig: Rig;
  /** An HTTP/2 connection to the waypoint, of the client whose others use the same tunnel. */
  readonly abuser: Abuser;
  /** Clients of the same tunnel and of another one, until `over`; every request of theirs is served. */
  readonly others: (over: () => boolean) => Promise<void>;
}

async function scene(t: Test, app: Server, options: Partial<RigOptions> = {}): Promise<Scene> {
  const rig = await rigFor(t, [app], ([port = 0]) => ({
    ...options,
    apps: [
      { name: 'app', ports: [port], appProtocol: 'HTTP11' },
      { name: 'h2', ports: [port], appProtocol: 'HTTP2' },
    ],
  }));
  rig.setRoutes('h2', { ...NO_ROUTES, http: [route('1')] });
  const connection = await rig.open('h2', WEB);
  const abuser = { connection, closed: false };
  connection.on('close', () => (abuser.closed = true));
  connection.on('end', () => connection.destroy());
  connection.write(PREFACE);
  const client = async (identity: SpiffeId, over: () => boolean): Promise<number> => {
    let served = 0;
    do {
      const { status } = await ask(await rig.open('app', identity), { path: '/others' });
      if (status !== 200) t.fail(`status ${status}`);
      served++;
    } while (!over());
    return served;
  };
  return {
    rig,
    abuser,
    async others(over) {
      const served = await Promise.all([client(WEB, over), client(OTHER, over)]);
      t.comment(`${served.join(' and ')} requests of others`);
    },
  };
}

for (const [name, make] of ABUSES) {
  t.test(`G16 an abusive client is closed and no other notices: ${name}`, async (t) => {
    const { abuser, others } = await scene(
      t,
      createHttpServer((_, response) => response.end('ok')),
    );
    const { connection } = abuser;
    connection.resume();
    connection.write(frame(4, 0, 0, NOTHING));
    let bursts = 0;
    const abuse = async (): Promise<void> => {
      for (let index = 0; !abuser.closed && bursts < BURSTS_MAX; bursts++) {
        const burst = Array.from({ length: 200 }, () => make(index++));
        if (!connection.write(Buffer.concat(burst))) {
          await Promise.race([once(connection, 'drain'), once(connection, 'close')]).catch(
            () => {},
          );
        }
        await pause(0);
      }
    };
    await Promise.all([abuse(), others(() => abuser.closed || bursts >= BURSTS_MAX)]);
    t.ok(abuser.closed, `closed within ${bursts * 200} frames`);
    await others(() => true);
  });
}

t.test('T60 what a client takes back at once is not sent on, and each is recorded', async (t) => {
  const app = createHttpServer((_, response) => response.end('ok'));
  const { abuser, others, rig } = await scene(t, app);
  const { connection } = abuser;
  connection.resume();
  const REQUESTS = 150;
  const frames = Array.from({ length: REQUESTS }, (_, i) => {
    const stream = i * 2 + 1;
    const head = frame(HEADERS, 5, stream, HEAD_BLOCK);
    return Buffer.concat([head, frame(3, 0, stream, Buffer.from([0, 0, 0, 8]))]);
  });
  connection.write(Buffer.concat([frame(4, 0, 0, NOTHING), ...frames]));
  const takenBack = (): RequestRecord[] => rig.records.filter(({ flag }) => flag === 'RESET');
  while (takenBack().length < REQUESTS) await pause(1);
  await others(() => true);
  const sent = takenBack().filter(({ attempts }) => attempts > 0).length;
  t.equal(sent, 0, 'none was sent on');
  t.match(takenBack()[REQUESTS - 1], { method: 'GET', path: '/', status: 0, attempts: 0 });
  t.notOk(abuser.closed, 'within its budget');
});

t.test('what fails in a later turn costs its own request alone, as in the first one', async (t) => {
  const app = createHttpServer((_, response) => response.end('ok'));
  const { abuser, others, rig } = await scene(t, app);
  const { connection } = abuser;
  connection.resume();
  const { authenticator } = rig.guard;
  const authenticate = authenticator.authenticate.bind(authenticator);
  const failing = (): never => {
    throw new Error('a fault of ours');
  };
  Object.assign(authenticator, { authenticate: failing });
  const REQUESTS = 3 * REQUESTS_PER_TURN;
  const heads = Array.from({ length: REQUESTS }, (_, i) =>
    frame(HEADERS, 5, i * 2 + 1, HEAD_BLOCK),
  );
  connection.write(Buffer.concat([frame(4, 0, 0, NOTHING), ...heads]));
  await rig.recorded(REQUESTS);
  Object.assign(authenticator, { authenticate });
  t.ok(
    rig.records.every(({ flag }) => flag === 'RESET'),
    'each was reset',
  );
  await others(() => true);
});

/** Counts the HEADERS frames that come: one for each answer. */
function countAnswers(connection: Duplex): () => number {
  let answers = 0;
  let rest = NOTHING;
  connection.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk]);
    while (rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
      if (rest[3] === HEADERS) answers++;
      rest = rest.subarray(9 + rest.readUIntBE(0, 3));
    }
  });
  return () => answers;
}

t.test('G16 T63 small blocks that unfold to megabytes cost an answer each', async (t) => {
  let reached = 0;
  const app = createHttpServer((request, response) => {
    if (request.url !== '/others') reached++;
    response.end('ok');
  });
  const { abuser, others } = await scene(t, app);
  const { connection } = abuser;
  const answers = countAnswers(connection);
  connection.write(frame(4, 0, 0, NOTHING));
  connection.write(frame(HEADERS, 5, 1, Buffer.concat([PLAIN_BLOCK, LARGE_ENTRY])));
  const BOMBS = 100;
  const abuse = async (): Promise<void> => {
    for (let i = 1; i <= BOMBS; i++) {
      connection.write(frame(HEADERS, 5, i * 2 + 1, BOMB_BLOCK));
      await pause(0);
    }
  };
  const over = (): boolean => abuser.closed || answers() > BOMBS;
  await Promise.all([abuse(), others(over)]);
  t.notOk(abuser.closed, 'each is refused, and bounded while it is read: no reason to close');
  t.equal(reached, 1, 'only the request that made the entry');
});

t.test('G16 T65 a client that opens no window is closed', async (t) => {
  const app = createHttpServer((request, response) => {
    response.end(request.url === '/others' ? 'ok' : Buffer.alloc(1024 * 1024));
  });
  // A minute by default.
  const { abuser, others, rig } = await scene(t, app, { limits: { stallTimeoutMs: 100 } });
  const { connection } = abuser;
  connection.resume();
  connection.write(NO_WINDOW);
  for (let i = 0; i < 150; i++) connection.write(frame(HEADERS, 5, i * 2 + 1, HEAD_BLOCK));
  await others(() => abuser.closed);
  t.ok(abuser.closed);
  const cut = rig.records.filter(({ path }) => path !== '/others');
  t.equal(cut.length, 150);
  t.ok(
    cut.every(({ flag }) => flag !== '-'),
    'none of them was served',
  );
});

t.test('G16 T66 users that do not read hold up nobody of their tunnel', async (t) => {
  const MIB = 1024 * 1024;
  const app = createHttpServer((request, response) => {
    response.end(request.url === '/others' ? 'ok' : Buffer.alloc(MIB));
  });
  const { others, rig } = await scene(t, app);
  const session = await rig.session(WEB);
  t.teardown(() => session.destroy());
  const stalled = Array.from({ length: 99 }, async () => {
    const stream = await connectStream(session, `${rig.vip('app')}:80`);
    const full = Promise.withResolvers<void>();
    let bytes = 0;
    stream.setHandlers({
      onHeaders: () => {},
      onData(chunk) {
        // Never given back: the window of this stream is used up, and stays so.
        bytes += chunk.length;
        if (bytes >= 256 * 1024) full.resolve();
      },
      onEnd: () => {},
      onReset: () => {},
      onDrain: () => {},
    });
    stream.write(Buffer.from('GET / HTTP/1.1\r\nHost: app\r\n\r\n'));
    await full.promise;
  });
  await Promise.all(stalled);
  const last = await connectStream(session, `${rig.vip('app')}:80`);
  const read = Promise.withResolvers<number>();
  let bytes = 0;
  last.setHandlers({
    onHeaders: () => {},
    onData(chunk) {
      bytes += chunk.length;
      last.consume(chunk.length);
      if (bytes > MIB) read.resolve(bytes);
    },
    onEnd: () => {},
    onReset: read.reject,
    onDrain: () => {},
  });
  last.write(Buffer.from('GET / HTTP/1.1\r\nHost: app\r\n\r\n'));
  t.ok((await read.promise) > MIB, 'the hundredth of the same tunnel has all of its answer');
  await others(() => true);
});
