/** Clients that connect to port 15008 and say nothing, beside one that means well (T67, G17). */

import { join } from 'node:path';

import type { Test } from 'tap';

import { podNamed } from '../../src/demo/actions.ts';
import { wait } from '../../src/demo/mesh.ts';
import {
  exchangeThrough,
  openSession,
  openTunnel,
  requestCertificate,
  tokenOf,
} from './foreign-mesh.ts';
import { createTestMesh } from './harness.ts';
import { listenIn } from './pod-sockets.ts';
import { startSwarm } from './swarm.ts';

const PORT = 7004;
const GONE_MS = 6000;
const PERIOD_MS = 50;
const WEB = 'spiffe://cluster.local/ns/shop/sa/web';

export async function testSilentHandshakes(t: Test, count: number): Promise<void> {
  const running = await createTestMesh(t);
  const db = podNamed(running, 'db').place;
  const echo = await listenIn(running.native, db, PORT, (socket) => socket.pipe(socket));
  t.teardown(() => echo.close());
  const certificate = await requestCertificate(running, tokenOf(running, 'node-a'), WEB);
  const hub = running.mesh.topology.hub;

  const stop = new AbortController();
  let tried = 0;
  const failures: string[] = [];
  const durations: number[] = [];
  const good = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      const started = performance.now();
      const word = `hello ${tried++}`;
      try {
        const to = { host: db.ip, port: 15_008 };
        const session = await openSession(running, hub, to, certificate);
        const tunnel = await openTunnel(session, `${db.ip}:${PORT}`);
        const answer = await exchangeThrough(tunnel, word);
        if (tunnel.status !== 200 || String(answer) !== word)
          failures.push(`got ${String(answer)}`);
        session.close();
      } catch (error) {
        failures.push(String(error));
      }
      durations.push(performance.now() - started);
      await wait(PERIOD_MS);
    }
  };
  const meaningWell = good();
  await wait(500);
  const swarm = await startSwarm(
    podNamed(running, 'outsider').place,
    join(running.dir, 'log', 'swarm.log'),
    'client',
    db.ip,
    '15008',
  );
  t.teardown(() => swarm.stop());
  const started = performance.now();
  const opened = await swarm.ask({ kind: 'open', count, parallel: 200, say: false });
  const openedMs = performance.now() - started;
  t.equal(opened.good, count, `${count} connected in ${Math.round(openedMs)} ms`);
  let left = opened.open;
  const gone = performance.now();
  while (left > 0 && performance.now() - gone < 3 * GONE_MS) {
    await wait(100);
    left = (await swarm.ask({ kind: 'counts' })).open;
  }
  const goneMs = performance.now() - gone;
  t.equal(left, 0, 'every silent connection was closed');
  t.ok(goneMs <= GONE_MS, `the last one ${Math.round(goneMs)} ms after it had connected`);
  await wait(300);
  stop.abort();
  await meaningWell;
  const sorted = durations.toSorted((a, b) => a - b);
  const slowest = Math.round(sorted.at(-1) ?? 0);
  const median = Math.round(sorted[Math.floor(sorted.length / 2)] ?? 0);
  t.comment(
    `${count} silent handshakes gone after ${Math.round(goneMs)} ms; ${tried} good ones meanwhile, ${failures.length} failed, median ${median} ms, slowest ${slowest} ms`,
  );
  t.same(failures.slice(0, 5), [], 'no good client failed');
  t.ok(tried > 20, `${tried} good clients`);
}
