/**
 * A reader that stops: the connection it stalls holds a bounded amount of memory, and no byte of it reaches
 * another connection (design 3.5, F36). The busy ones beside it move 100 MB, byte-exact.
 */

import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';

import t from 'tap';

import { childrenOf, podNamed, proxyOn } from '../../src/demo/actions.ts';
import { wait } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh, type TestMesh } from './harness.ts';
import { connectFrom, listenIn } from './pod-sockets.ts';
import { MIB, residentBytes } from './process-usage.ts';

const TOTAL_BYTES = 100 * MIB;
const STALLED_BYTES = 64 * MIB;
const CHUNK_BYTES = 256 * 1024;
/** Both ends of a stalled connection, its tunnel included, beyond what the kernel holds. */
const GROWTH_MAX_BYTES = 48 * MIB;
/** The kernel's socket buffers of every hop, and the mesh's windows. */
const SWALLOWED_MAX_BYTES = 40 * MIB;

/** Writes `total` bytes made by `next`, in step with the reader; answers their hash. */
async function send(socket: Socket, total: number, next: () => Buffer): Promise<string> {
  const hash = createHash('sha256');
  for (let sent = 0; sent < total; sent += CHUNK_BYTES) {
    const chunk = next();
    hash.update(chunk);
    if (!socket.write(chunk)) await once(socket, 'drain');
  }
  socket.end();
  return hash.digest('hex');
}

async function receive(socket: Socket): Promise<{ hash: string; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { hash: hash.digest('hex'), bytes };
}

/** Both ends of a new connection from `web`. */
async function open(running: TestMesh, host: string, port: number): Promise<[Socket, Socket]> {
  const pending = Promise.withResolvers<Socket>();
  const accepting = accepters.get(`${host}:${port}`);
  if (accepting === undefined) throw new Error('no server');
  accepting.push(pending.resolve);
  const client = connectFrom(running.native, podNamed(running, 'web').place, { host, port });
  return [client, await pending.promise];
}

const accepters = new Map<string, ((socket: Socket) => void)[]>();

function workersMemory(running: TestMesh): number {
  const pids = ['node-a', 'node-b'].flatMap((node) => childrenOf(proxyOn(running, node), 'worker'));
  return pids.reduce((bytes, pid) => bytes + residentBytes(pid), 0);
}

t.setTimeout(180_000);

t.test('F36 a stalled reader beside busy ones', { skip: reasonToSkipMesh() }, async (t) => {
  const running = await createTestMesh(t, { workers: 1 });
  const ports = { tunnel: 7001, direct: 7002 };
  const hosts = {
    tunnel: podNamed(running, 'db').place,
    direct: podNamed(running, 'cart-v2').place,
  };
  for (const path of ['tunnel', 'direct'] as const) {
    const key = `${hosts[path].ip}:${ports[path]}`;
    accepters.set(key, []);
    const server = await listenIn(running.native, hosts[path], ports[path], (socket) => {
      accepters.get(key)?.shift()?.(socket);
    });
    t.teardown(() => server.close());
  }
  const random = Array.from({ length: 7 }, () => randomBytes(CHUNK_BYTES));
  for (const path of ['tunnel', 'direct'] as const) {
    for (const direction of ['download', 'upload'] as const) {
      await t.test(`${path}, ${direction}`, async (t) => {
        const [stalledClient, stalledServer] = await open(running, hosts[path].ip, ports[path]);
        const [from, to] =
          direction === 'upload' ? [stalledClient, stalledServer] : [stalledServer, stalledClient];
        to.pause();
        const marker = Buffer.alloc(CHUNK_BYTES, direction === 'upload' ? 0xaa : 0xbb);
        const before = workersMemory(running);
        let written = 0;
        const stalled = send(from, STALLED_BYTES, () => {
          written += CHUNK_BYTES;
          return marker;
        });
        await wait(500);
        const swallowed = written;
        await wait(200);
        t.ok(written <= swallowed + CHUNK_BYTES, 'the sender stands still');
        t.ok(swallowed < SWALLOWED_MAX_BYTES, `${Math.round(swallowed / MIB)} MiB on their way`);

        const [client, server] = await open(running, hosts[path].ip, ports[path]);
        const [busyFrom, busyTo] = direction === 'upload' ? [client, server] : [server, client];
        let index = 0;
        const started = performance.now();
        const [sent, got] = await Promise.all([
          send(busyFrom, TOTAL_BYTES, () => random[index++ % random.length] ?? marker),
          receive(busyTo),
        ]);
        const seconds = (performance.now() - started) / 1000;
        t.equal(got.bytes, TOTAL_BYTES);
        t.equal(got.hash, sent, 'the busy connection is byte-exact');
        const growth = workersMemory(running) - before;
        t.comment(
          `${path} ${direction}: ${(TOTAL_BYTES / MIB / seconds).toFixed(0)} MiB/s beside a stalled one; workers grew by ${(growth / MIB).toFixed(1)} MiB`,
        );
        t.ok(growth < GROWTH_MAX_BYTES, `grew by ${(growth / MIB).toFixed(1)} MiB`);

        const [sentStalled, gotStalled] = await Promise.all([stalled, receive(to)]);
        t.equal(gotStalled.bytes, STALLED_BYTES);
        t.equal(gotStalled.hash, sentStalled, 'the stalled one got its own bytes alone');
        for (const socket of [client, server, stalledClient, stalledServer]) socket.destroy();
      });
    }
  }
});
