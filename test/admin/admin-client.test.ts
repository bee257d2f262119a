/** Asking processes on their admin sockets: who is found, what is answered, and that nothing hangs. */

import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { askAdmin, findAdminSockets, type AdminTarget } from '../../src/admin/admin-client.ts';
import { serveAdmin } from '../../src/admin/admin-server.ts';
import { createNullLogger } from '../../src/base/logger.ts';

const folder = mkdtempSync(join(tmpdir(), 'nodemesh-admin-'));
t.teardown(() => rmSync(folder, { recursive: true }));

async function listen(
  t: { teardown(act: () => void): void },
  server: Server,
): Promise<AdminTarget> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  return { from: 'port', pid: undefined, options: { host: '127.0.0.1', port } };
}

t.test('admin sockets are found by name, the discovery socket is none of them', async (t) => {
  for (const name of [
    'agent-admin-12.sock',
    'agent-13.sock',
    'worker-14.sock',
    'admin.sock',
    'x',
  ]) {
    writeFileSync(join(folder, name), '');
  }
  const found = findAdminSockets([folder, join(folder, 'missing')]);
  t.strictSame(
    found.map(({ from, pid }) => [from, pid]),
    [
      ['controller', undefined],
      ['agent', 12],
      ['worker', 14],
    ],
  );
});

t.test(
  'a real admin server is read, JSON decoded; an unknown path is an answer, too',
  async (t) => {
    const path = join(folder, 'worker-77.sock');
    const server = await serveAdmin({
      path,
      logger: createNullLogger(),
      sections: new Map([['pods', () => ['a']]]),
      logging: { levels: ['info'], level: () => 'info', setLevel: () => {} },
    });
    t.teardown(() => server.close());
    const target: AdminTarget = { from: 'worker', pid: 77, options: { socketPath: path } };
    const answer = await askAdmin(target, 'GET', '/config_dump/pods');
    t.strictSame(answer, {
      from: 'worker',
      pid: 77,
      path: '/config_dump/pods',
      status: 200,
      body: { pods: ['a'] },
    });
    t.equal((await askAdmin(target, 'GET', '/nonsense')).status, 404);
    t.equal((await askAdmin(target, 'POST', '/config_dump')).status, 405);
  },
);

t.test('nobody there, silence and a torn answer are answers with the reason', async (t) => {
  const nobody = { from: 'agent', pid: 1, options: { socketPath: join(folder, 'none.sock') } };
  t.match(await askAdmin(nobody, 'GET', '/x'), { status: 0, error: /Cannot ask agent: .*ENOENT/ });
  const silent = await listen(
    t,
    createServer((socket) => void socket.on('error', () => {}).unref()),
  );
  t.match(await askAdmin(silent, 'GET', '/x', 50), { status: 0, error: /no answer within 50 ms/ });
  const torn = createServer((socket) => {
    socket.on('error', () => {});
    socket.end('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf');
  });
  t.match(await askAdmin(await listen(t, torn), 'GET', '/x'), { status: 0, error: /Cannot ask/ });
});
