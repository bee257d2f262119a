/** The admin socket: who may reach it, what it shows, what it does. */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { registerHooks } from 'node:module';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

import t from 'tap';

import { serveAdmin, type AdminServerOptions } from '../../src/admin/admin-server.ts';
import { createNullLogger } from '../../src/base/logger.ts';

type Tap = Pick<typeof t, 'teardown'>;

interface Answered {
  readonly status: number;
  readonly allow: string | undefined;
  readonly text: string;
  readonly json: unknown;
}

function folderFor(t: Tap): string {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-admin-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function serve(t: Tap, parts: Partial<AdminServerOptions> = {}) {
  const path = parts.path ?? join(folderFor(t), 'admin.sock');
  let level = 'info';
  let drains = 0;
  const server = await serveAdmin({
    path,
    logger: createNullLogger(),
    sections: new Map(),
    logging: {
      levels: ['debug', 'info'],
      level: () => level,
      setLevel: (next) => void (level = next),
    },
    drain: () => void drains++,
    ...parts,
  });
  t.teardown(() => server.close());
  const ask = async (method: string, url: string): Promise<Answered> => {
    const sent = request({ socketPath: path, method, path: url });
    sent.end();
    const [response] = (await once(sent, 'response')) as [import('node:http').IncomingMessage];
    const body = await text(response);
    let json: unknown;
    try {
      json = JSON.parse(body);
    } catch {
      json = undefined;
    }
    return { status: response.statusCode ?? 0, allow: response.headers.allow, text: body, json };
  };
  return { path, server, ask, level: () => level, drains: () => drains };
}

t.test('T110: admin socket has mode 0600, and is gone after close', async (t) => {
  const before = process.umask();
  const { path, server } = await serve(t);
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.equal(process.umask(), before);
  await server.close();
  t.notOk(existsSync(path));
});

const skip = process.getuid?.() === 0 ? false : 'needs root to become another user';
t.test('T110: another user cannot connect', { skip }, async (t) => {
  const { path } = await serve(t, { path: join(tmpdir(), `nodemesh-admin-${process.pid}.sock`) });
  const script = `require('net').connect(${JSON.stringify(path)}).on('connect', () => console.log('IN')).on('error', (e) => console.log(e.code))`;
  const child = spawn(process.execPath, ['-e', script], { uid: 65534, gid: 65534, cwd: '/' });
  t.equal((await text(child.stdout)).trim(), 'EACCES');
});

t.test('T110: admin opens no TCP port', async (t) => {
  const sockets = (): string => spawnSync('ss', ['-tlnpH'], { encoding: 'utf8' }).stdout;
  await serve(t);
  t.notMatch(sockets(), `pid=${process.pid},`);
});

t.test('what could not be loaded is loaded for the next connection', async (t) => {
  let refusals = 2;
  let closed: Promise<void> | undefined;
  const hooks = registerHooks({
    load(url, context, next) {
      if (!url.endsWith('/admin-http.ts') || refusals-- <= 0) return next(url, context);
      // In a job: the load is under way by then.
      closed ??= Promise.resolve().then(() => closing.server.close());
      throw new Error('no descriptor');
    },
  });
  t.teardown(() => hooks.deregister());
  const closing = await serve(t);
  await t.rejects(closing.ask('GET', '/logging'));
  await closed;
  const { ask } = await serve(t);
  await t.rejects(ask('GET', '/logging'));
  t.equal((await ask('GET', '/logging')).status, 200);
});

t.test('config dump shows its sections as one JSON object, or one of them', async (t) => {
  const sections = new Map<string, () => unknown>([
    ['workloads', () => [{ name: 'web' }, { name: 'cart', ports: new Map([['http', 80]]) }]],
    ['none', () => []],
    ['version', () => 7],
    ['bytes', () => ({ of: Buffer.from('abc'), big: 5n, set: new Set([1]), nothing: undefined })],
    ['lazy', () => new Set(['a', 'b'])],
    ['absent', () => undefined],
  ]);
  const { ask } = await serve(t, { sections });
  t.strictSame((await ask('GET', '/config_dump')).json, {
    workloads: [{ name: 'web' }, { name: 'cart', ports: { http: 80 } }],
    none: [],
    version: 7,
    bytes: { of: '(3 bytes)', big: '5', set: [1] },
    lazy: ['a', 'b'],
    absent: null,
  });
  t.strictSame((await ask('GET', '/config_dump/version')).json, { version: 7 });
  t.strictSame((await (await serve(t)).ask('GET', '/config_dump')).json, {});
});

t.test('config dump hides keys and tokens, whatever a section hands over', async (t) => {
  const pem = '-----BEGIN PRIVATE KEY-----\nAAAA';
  const item = {
    privateKeyPem: 'x1',
    nested: { token: 'x2', clientSecret: { a: 'x3' } },
    chain: pem,
  };
  const { ask } = await serve(t, { sections: new Map([['certificates', () => [item]]]) });
  const { text: body } = await ask('GET', '/config_dump');
  t.notMatch(body, /x[123]|AAAA/);
  t.equal(body.split('(hidden)').length, 5);
});

t.test('a large dump does not hold up the loop', async (t) => {
  const item = { uid: 'x'.repeat(100), list: Array.from({ length: 20 }, (_, n) => n) };
  function* items() {
    for (let n = 0; n < 100_000; n++) yield item;
  }
  const { ask } = await serve(t, { sections: new Map([['workloads', items]]) });
  let longestMs = 0;
  let lastMs = performance.now();
  const timer = setInterval(() => {
    longestMs = Math.max(longestMs, performance.now() - lastMs);
    lastMs = performance.now();
  }, 1);
  const { text: body } = await ask('GET', '/config_dump');
  clearInterval(timer);
  t.ok(body.length > 10_000_000);
  t.comment(`longest block ${Math.round(longestMs)} ms for ${body.length} bytes`);
  t.ok(longestMs < 200);
});

t.test('a dump that fails midway does not look complete', async (t) => {
  const broken = (): unknown => {
    throw new Error('broken');
  };
  const sections = new Map<string, () => unknown>([
    ['a', () => ['x'.repeat(100_000)]],
    ['b', broken],
  ]);
  const { ask } = await serve(t, { sections });
  await t.rejects(ask('GET', '/config_dump'));
  t.equal((await ask('GET', '/logging')).status, 200, 'and the server goes on');
});

t.test('log level is shown by GET and set by POST only', async (t) => {
  const { ask, level } = await serve(t);
  t.match((await ask('GET', '/logging')).json, { level: 'info', levels: ['debug', 'info'] });
  t.equal((await ask('GET', '/logging?level=debug')).status, 200);
  t.equal(level(), 'info', 'a GET changes nothing');
  t.match((await ask('POST', '/logging?level=debug')).json, { level: 'debug' });
  t.equal(level(), 'debug');
  for (const wrong of ['', '?level=', '?level=trace', '?level=__proto__']) {
    t.equal((await ask('POST', `/logging${wrong}`)).status, 400);
  }
  t.equal(level(), 'debug');
});

t.test('drain is ordered by POST only, where there is something to drain', async (t) => {
  const { ask, drains } = await serve(t);
  const read = await ask('GET', '/drain');
  t.match(read, { status: 405, allow: 'POST' });
  t.equal(drains(), 0);
  t.equal((await ask('POST', '/drain')).status, 202);
  t.equal(drains(), 1);
  t.match(await ask('DELETE', '/logging'), { status: 405, allow: 'GET, POST' });
  const without = await serveAdmin({
    path: join(folderFor(t), 's'),
    logger: createNullLogger(),
    sections: new Map(),
    logging: { levels: [], level: () => '', setLevel: () => {} },
  });
  await without.close();
});

t.test('an unknown path names those that exist', async (t) => {
  const { ask } = await serve(t);
  const { status, json } = await ask('GET', '/quitquitquit');
  t.equal(status, 404);
  t.strictSame(json, { error: 'Not found', paths: ['/config_dump', '/logging', '/drain'] });
});

t.test('a socket left by a killed process is replaced, one in use is not', async (t) => {
  const path = join(folderFor(t), 'admin.sock');
  const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  spawnSync(process.execPath, ['-e', script]);
  t.ok(existsSync(path), 'a stale socket is there');
  const { ask } = await serve(t, { path });
  t.equal((await ask('GET', '/logging')).status, 200);
  await t.rejects(serve(t, { path }), { code: 'MESH_CONFIG_INVALID', message: /another process/ });
  t.equal((await ask('GET', '/logging')).status, 200, 'the first one stays');
});

t.test('paths that cannot be a socket are refused with MESH_CONFIG_INVALID', async (t) => {
  const folder = folderFor(t);
  writeFileSync(join(folder, 'file'), 'precious');
  const refused = { code: 'MESH_CONFIG_INVALID' };
  await t.rejects(serve(t, { path: join(folder, 'file') }), refused);
  t.ok(existsSync(join(folder, 'file')));
  await t.rejects(serve(t, { path: 'relative.sock' }), refused);
  await t.rejects(serve(t, { path: `/tmp/${'x'.repeat(110)}` }), refused);
  await t.rejects(serve(t, { path: join(folder, 'no', 'such', 's') }), { name: 'MeshError' });
});

t.test('admin socket is bounded in connections and header size', async (t) => {
  const { path, ask } = await serve(t);
  const large = connect(path);
  large.on('error', () => {});
  large.write(`GET /logging HTTP/1.1\r\nx: ${'y'.repeat(10_000)}\r\n\r\n`);
  t.notMatch(await text(large).catch(() => ''), /200 OK/);
  const closed = new Set<number>();
  const sockets = Array.from({ length: 30 }, (_, n) => {
    const socket = connect(path);
    socket.on('error', () => {});
    socket.on('close', () => closed.add(n));
    socket.resume();
    return socket;
  });
  while (closed.size < 14) await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal(closed.size, 14);
  for (const socket of sockets) socket.destroy();
  while (closed.size < 30) await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal((await ask('GET', '/logging')).status, 200);
});
