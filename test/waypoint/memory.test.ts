import { createServer as createHttpServer } from 'node:http';
import { createServer } from 'node:net';

import t from 'tap';

import { ask, rigFor } from './ask.ts';
import { rssMib, testLargeBodies } from './large-bodies.ts';

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

t.test('G21 500 clients that do not read cost no more than their windows', async (t) => {
  const app = createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n');
      const more = Buffer.alloc(64 * 1024, 1);
      const send = (): void => {
        while (!socket.destroyed && socket.write(more));
      };
      socket.on('drain', send);
      send();
    });
  });
  const fine = createHttpServer((_, response) => response.end('ok'));
  const rig = await rigFor(t, [app, fine], ([port = 0, other = 0]) => ({
    apps: [
      { name: 'app', ports: [port], appProtocol: 'HTTP11' },
      { name: 'fine', ports: [other] },
    ],
  }));
  await ask(await rig.open('fine'));
  await pause(500);
  const before = rssMib();
  for (let group = 0; group < 5; group++) {
    const session = await rig.session();
    t.teardown(() => session.destroy());
    for (let index = 0; index < 100; index++) {
      // Opened and never consumed: the window of each fills and stays full.
      const stream = session.request(
        [
          [':method', 'CONNECT'],
          [':authority', `${rig.vip('app')}:80`],
        ],
        {
          onHeaders: () => stream.write(Buffer.from('GET / HTTP/1.1\r\nHost: app\r\n\r\n')),
          onData: () => {},
          onEnd: () => {},
          onReset: () => {},
          onDrain: () => {},
        },
        false,
      );
    }
  }
  await pause(2000);
  const grownMib = rssMib() - before;
  t.comment(`grew by ${grownMib.toFixed(0)} MiB, clients and application included`);
  t.ok(grownMib < 128, `${grownMib.toFixed(0)} MiB`);
  t.match(await ask(await rig.open('fine')), { status: 200 }, 'others go on');
});

t.test('G23 large bodies come back as they were sent', (t) => testLargeBodies(t, 10, 12));
