/** Readiness over real HTTP: ready exactly if nothing blocks, and what blocks by name. */

import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';

import t from 'tap';

import { createReadinessServer, type Readiness } from '../../src/admin/readiness-server.ts';
import { createFakeClock } from '../../src/base/clock.ts';
import { createNullLogger, type Logger } from '../../src/base/logger.ts';

type Tap = Pick<typeof t, 'teardown'>;

async function serve(t: Tap, status: () => Readiness): Promise<string> {
  const clock = createFakeClock();
  const logger = createNullLogger();
  const server = createReadinessServer({ clock, logger, port: 0, host: '127.0.0.1', status });
  t.teardown(() => server.close());
  return `http://127.0.0.1:${await server.listening}/healthz/ready`;
}

t.test('readiness is 200 when nothing blocks and 503 when something does, read anew', async (t) => {
  const blockers: string[] = [];
  const url = await serve(t, () => ({ blockers, pods: { 'shop/web': 'captured' } }) as Readiness);
  const ready = await fetch(url);
  t.equal(ready.status, 200);
  t.strictSame(await ready.json(), { blockers: [], pods: { 'shop/web': 'captured' } });
  blockers.push('no policies yet');
  const blocked = await fetch(url);
  t.equal(blocked.status, 503);
  t.match(await blocked.json(), { blockers: ['no policies yet'] });
});

t.test('liveness answers whatever blocks readiness: a restart would not bring it', async (t) => {
  const url = await serve(t, () => ({ blockers: ['no policies yet'] }));
  t.equal((await fetch(url)).status, 503);
  t.equal((await fetch(new URL('/healthz/live', url))).status, 200);
});

t.test('T110: readiness has two paths, and nothing that changes anything', async (t) => {
  const url = await serve(t, () => ({ blockers: [] }));
  for (const method of ['POST', 'PUT', 'DELETE']) {
    t.equal((await fetch(url, { method })).status, 405);
  }
  t.equal((await fetch(new URL('/quitquitquit', url))).status, 404);
  t.equal((await fetch(url, { method: 'HEAD' })).status, 200);
});

t.test('readiness that cannot be read is not ready, and tells strangers nothing', async (t) => {
  const url = await serve(t, () => {
    throw new Error('broken');
  });
  const response = await fetch(url);
  t.equal(response.status, 500);
  t.equal(await response.text(), 'Internal error\n');
});

t.test(
  'readiness waits for a port that its predecessor still holds, and says so once',
  async (t) => {
    const predecessor = createServer().listen(0, '127.0.0.1');
    await once(predecessor, 'listening');
    const { port } = predecessor.address() as AddressInfo;
    const clock = createFakeClock();
    const warnings: string[] = [];
    const logger: Logger = { ...createNullLogger(), warn: (message) => warnings.push(message) };
    const status = (): Readiness => ({ blockers: [] });
    const server = createReadinessServer({ clock, logger, port, host: '127.0.0.1', status });
    t.teardown(() => server.close());
    for (let n = 0; n < 4; n++) await clock.advance(250);
    t.strictSame(warnings, ['Cannot serve readiness yet']);
    predecessor.close();
    await once(predecessor, 'close');
    while (clock.pendingCount() > 0) await clock.advance(250);
    t.equal(await server.listening, port);
    t.equal((await fetch(`http://127.0.0.1:${port}/healthz/ready`)).status, 200);
  },
);

t.test('readiness that is closed while it waits stops trying', async (t) => {
  const predecessor = createServer().listen(0, '127.0.0.1');
  await once(predecessor, 'listening');
  t.teardown(() => predecessor.close());
  const { port } = predecessor.address() as AddressInfo;
  const clock = createFakeClock();
  const logger = createNullLogger();
  const status = (): Readiness => ({ blockers: [] });
  const server = createReadinessServer({ clock, logger, port, host: '127.0.0.1', status });
  while (clock.pendingCount() === 0) await new Promise((resolve) => setImmediate(resolve));
  server.close();
  t.equal(clock.pendingCount(), 0);
});
