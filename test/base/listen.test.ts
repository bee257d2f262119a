/** Listening: where it failed is said, and the mode of a socket file is what the umask was at the call. */

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { startListening } from '../../src/base/listen.ts';

t.test(
  'a port that is taken is named, and nothing is left at the server that listens',
  async (t) => {
    const first = createServer();
    t.teardown(() => first.close());
    await startListening(first, { host: '127.0.0.1', port: 0 }, 'any');
    t.equal(first.listenerCount('error'), 0);
    const { port } = first.address() as AddressInfo;
    const where = `127.0.0.1:${port}`;
    await t.rejects(startListening(createServer(), { host: '127.0.0.1', port }, where), {
      name: 'MeshError',
      message: new RegExp(`^Cannot listen on "${where}": .*EADDRINUSE`),
    });
  },
);

t.test('a socket file exists when the call returns', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-listen-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 's');
  const server = createServer();
  t.teardown(() => server.close());
  const ready = startListening(server, { path }, path);
  t.ok(existsSync(path));
  await ready;
});
