/** Protocols in which the server speaks first, and those in which nobody does for a while, on every path. */

import type { Socket } from 'node:net';

import t from 'tap';

import { podNamed } from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh } from './harness.ts';
import { connectFrom, exchange, listenIn } from './pod-sockets.ts';

const PORT = 7009;
const SILENT_MS = 1500;

t.setTimeout(120_000);

t.test('server-first protocols', { skip: reasonToSkipMesh() }, async (t) => {
  const running = await createTestMesh(t);
  const { native } = running;
  const web = podNamed(running, 'web').place;
  for (const [path, place] of [
    ['through a tunnel', podNamed(running, 'db').place],
    ['on the same node', podNamed(running, 'cart-v2').place],
    ['in plain text', podNamed(running, 'outsider').place],
  ] as const) {
    await t.test(path, async (t) => {
      const accepted: Socket[] = [];
      const server = await listenIn(native, place, PORT, (socket) => {
        accepted.push(socket);
        socket.write('220 ready\n');
      });
      t.teardown(() => server.close());
      const open = (): Socket => connectFrom(native, web, { host: place.ip, port: PORT });

      const started = performance.now();
      const socket = open();
      let got = '';
      socket.on('data', (chunk: Buffer) => (got += String(chunk)));
      await until('the greeting', 2000, () => got === '220 ready\n');
      t.ok(performance.now() - started < 1000, 'the greeting comes before the client says a word');
      await wait(SILENT_MS);
      accepted[0]?.write('later\n');
      await until('a second word', 2000, () => got.endsWith('later\n'));
      socket.end('bye');
      const said: Buffer[] = [];
      accepted[0]?.on('data', (chunk: Buffer) => said.push(chunk));
      await until('the client speaks last', 2000, () =>
        Buffer.concat(said).equals(Buffer.from('bye')),
      );
      accepted[0]?.end();
      await until('both have ended', 2000, () => socket.destroyed);

      const leaving = await listenIn(native, place, PORT + 1, (other) =>
        other.end('busy, go away\n'),
      );
      t.teardown(() => leaving.close());
      const { received, ended } = await exchange(
        connectFrom(native, web, { host: place.ip, port: PORT + 1 }),
        '',
        { end: false },
      );
      t.equal(String(received), 'busy, go away\n', 'a server that speaks and leaves is heard');
      t.equal(ended, 'end');

      const closed = await exchange(
        connectFrom(native, web, { host: place.ip, port: PORT + 2 }),
        '',
      );
      t.equal(closed.ended, 'ECONNRESET', 'a port nobody listens on is a reset, never an end');
    });
  }
});
