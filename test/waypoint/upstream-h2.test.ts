/** HTTP/2 upstreams that refuse, reset and leave: what is tried again, and that nothing is without being allowed. */

import {
  connect as connectH2,
  constants,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import { once } from 'node:events';
import { createServer as createNetServer, type Server as NetServer } from 'node:net';

import t, { type Test } from 'tap';

import { createReadBuffers } from '../../src/base/buffer-pool.ts';
import { createSystemClock } from '../../src/base/clock.ts';
import { DEFAULT_RETRIES } from '../../src/core/traffic-policy.ts';
import { createH2Session } from '../../src/http/h2/session.ts';
import { createWindowBudget } from '../../src/http/h2/window-budget.ts';
import { rigFor } from './ask.ts';
import type { Rig } from './rig.ts';
import { layer, traffic } from './traffic-builder.ts';

interface App {
  readonly server: Http2Server;
  handle: (stream: ServerHttp2Stream) => void;
  hits: number;
}

function app(name: string): App {
  const made: App = {
    server: createServer(),
    handle: (stream) => {
      stream.respond({ ':status': 200 });
      stream.end(name);
    },
    hits: 0,
  };
  const sessions = new Set<ServerHttp2Session>();
  made.server.on('session', (session) => {
    sessions.add(session);
    session.on('error', () => {});
  });
  made.server.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => {});
    made.hits += 1;
    made.handle(stream);
  });
  const close = made.server.close.bind(made.server);
  made.server.close = (done) => {
    for (const session of sessions) session.destroy();
    return close(done);
  };
  return made;
}

async function mesh(t: Test, ...apps: readonly App[]): Promise<Rig> {
  return rigFor(
    t,
    apps.map(({ server }) => server),
    (ports) => ({ apps: [{ name: 'app', ports, appProtocol: 'HTTP2' }] }),
  );
}

async function get(rig: Rig, method = 'GET'): Promise<number> {
  const connection = await rig.open('app');
  const session = connectH2('http://app', { createConnection: () => connection });
  session.on('error', () => {});
  const stream = session.request({ ':method': method, ':path': '/' });
  stream.on('error', () => {});
  stream.end();
  stream.resume();
  const [answer] = (await once(stream, 'response')) as [IncomingHttpHeaders];
  session.destroy();
  return Number(answer[':status']);
}

t.test('REFUSED_STREAM is tried elsewhere without a policy, whatever the method', async (t) => {
  const [full, good] = [app('full'), app('good')];
  full.handle = (stream) => stream.close(constants.NGHTTP2_REFUSED_STREAM);
  const rig = await mesh(t, full, good);
  for (let i = 0; i < 10; i++) t.equal(await get(rig, 'POST'), 200);
  t.ok(full.hits > 0);
  t.equal(good.hits, 10);
});

t.test('a stream that the application resets is asked for once', async (t) => {
  const bad = app('bad');
  bad.handle = (stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR);
  const rig = await mesh(t, bad);
  t.equal(await get(rig), 502);
  t.equal(await get(rig), 502);
  t.equal(bad.hits, 2);
  t.match(rig.records, [{ attempts: 1, flag: 'RESET' }, { attempts: 1 }]);
});

t.test('the policy can ask for more, within the budget', async (t) => {
  const [bad, good] = [app('bad'), app('good')];
  bad.handle = (stream) => stream.close(constants.NGHTTP2_INTERNAL_ERROR);
  const rig = await mesh(t, bad, good);
  const retries = { ...DEFAULT_RETRIES, conditions: ['reset'] as const };
  rig.traffic.apply([traffic('app', layer({ kind: 'service' }, { retries }))], []);
  for (let i = 0; i < 6; i++) t.equal(await get(rig), 200);
});

t.test('requests on a session that dies are not sent again beyond the budget', async (t) => {
  const bad = app('bad');
  bad.handle = (stream) => stream.session?.destroy();
  const rig = await mesh(t, bad);
  const budget = { percent: 0, intervalMs: 10_000, minPerSecond: 0 };
  rig.traffic.apply([traffic('app', layer({ kind: 'service' }, { budget }))], []);
  for (let i = 0; i < 5; i++) t.equal(Math.floor((await get(rig)) / 100), 5);
  t.equal(bad.hits, 5);
});

/** An HTTP/2 server that answers at once, and by itself never ends what the client has not. */
function earlyServer(onReset: (code: number | undefined) => void): NetServer {
  const parts = {
    clock: createSystemClock(),
    readBuffers: createReadBuffers(),
    windowBudget: createWindowBudget(),
  };
  return createNetServer((socket) => {
    createH2Session(socket, {
      ...parts,
      role: 'server',
      onStream(stream) {
        stream.setHandlers({
          onHeaders: () => {},
          onData: (chunk) => stream.consume(chunk.length),
          onEnd: () => {},
          onReset: () => onReset(stream.resetCode),
          onDrain: () => {},
        });
        stream.sendHeaders([[':status', '200']], true);
      },
    });
  });
}

t.test('a request that was answered before it had ended does not stay open upstream', async (t) => {
  let onReset: (code: number | undefined) => void = () => {};
  const reset = new Promise<number | undefined>((resolve) => (onReset = resolve));
  const rig = await rigFor(t, [earlyServer(onReset)], (ports) => ({
    apps: [{ name: 'app', ports, appProtocol: 'HTTP2' }],
  }));
  const connection = await rig.open('app');
  const session = connectH2('http://app', { createConnection: () => connection });
  t.teardown(() => session.destroy());
  const request = session.request({ ':method': 'POST', ':path': '/' });
  request.on('error', () => {});
  request.write('the beginning');
  const ended = once(request.resume(), 'end');
  t.equal(await reset, constants.NGHTTP2_CANCEL);
  await ended;
  await rig.recorded(1);
  t.match(rig.records, [{ status: 200, flag: '-' }]);
});
