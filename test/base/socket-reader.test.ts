import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer, Socket, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as tlsConnect, TLSSocket } from 'node:tls';

import t from 'tap';

import { createReadBuffers, type ReadBuffers } from '../../src/base/buffer-pool.ts';
import { readSocket, type SocketReader } from '../../src/base/socket-reader.ts';

const listen = (server: Server): Promise<number> =>
  new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
  });

const accepted = (server: Server): Promise<Socket> =>
  new Promise((resolve) => {
    server.once('connection', (socket: Socket) => {
      socket.on('error', () => {});
      resolve(socket);
    });
  });

/** A connected pair over loopback; the accepted side is [1]. */
async function pair(options: { pauseOnConnect?: boolean } = {}): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, ...options });
  const port = await listen(server);
  const peer = accepted(server);
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  socket.on('error', () => {});
  const other = await peer;
  server.close();
  return [socket, other];
}

interface Reading {
  readonly reader: SocketReader;
  readonly chunks: Buffer[];
  readonly lengths: number[];
  readonly buffers: Set<Buffer>;
  ended: boolean;
  readonly done: Promise<Buffer>;
  readonly closed: Promise<void>;
  errors: Error[];
}

/** Copies what arrives; `done` at the end of the stream. */
function read(socket: Socket, buffers: ReadBuffers, onChunk?: (reading: Reading) => void): Reading {
  const chunks: Buffer[] = [];
  let finish: (bytes: Buffer) => void = () => {};
  let close = (): void => {};
  const done = new Promise<Buffer>((resolve) => (finish = resolve));
  const closed = new Promise<void>((resolve) => (close = resolve));
  const used = new Set<Buffer>();
  const lengths: number[] = [];
  const reader = readSocket(socket, buffers, {
    onChunk(buffer, offset, length) {
      used.add(buffer);
      lengths.push(length);
      chunks.push(Buffer.from(buffer.subarray(offset, offset + length)));
      buffer.fill(0xee, 0, offset + length);
      onChunk?.(reading);
    },
    onEnd() {
      reading.ended = true;
      finish(Buffer.concat(chunks));
    },
    onError: (error) => void reading.errors.push(error),
    onClose: () => close(),
  });
  const reading: Reading = {
    reader,
    chunks,
    lengths,
    buffers: used,
    ended: false,
    done,
    closed,
    errors: [],
  };
  return reading;
}

const pattern = (byteCount: number, seed: number): Buffer => {
  const bytes = Buffer.allocUnsafe(byteCount);
  for (let index = 0; index < byteCount; index++)
    bytes[index] = (index * 31 + (index >> 8) + seed) & 255;
  return bytes;
};
const sha = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

function certificate(): { key: Buffer; cert: Buffer } {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-reader-'));
  try {
    const args =
      'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test';
    const files = ['-keyout', join(folder, 'key'), '-out', join(folder, 'cert')];
    execFileSync('openssl', [...args.split(' '), ...files], { stdio: 'ignore' });
    return { key: readFileSync(join(folder, 'key')), cert: readFileSync(join(folder, 'cert')) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const BYTES = 3_000_000;

for (const fallback of [false, true]) {
  const mode = fallback ? 'fallback' : 'own buffers';

  void t.test(
    `readSocket, ${mode}: an accepted socket is read byte-exact to its end`,
    async (t) => {
      const buffers = createReadBuffers({ fallback });
      const [client, server] = await pair();
      const reading = read(server, buffers);
      const data = pattern(BYTES, 1);
      client.end(data);
      t.equal(sha(await reading.done), sha(data));
      if (!fallback) t.ok(reading.buffers.size <= 3, `${reading.buffers.size} buffers used`);
      server.end();
      await reading.closed;
      t.same(reading.errors, []);
    },
  );

  void t.test(
    `readSocket, ${mode}: a paused accepted socket is read after the takeover`,
    async (t) => {
      const buffers = createReadBuffers({ fallback });
      const [client, server] = await pair({ pauseOnConnect: true });
      client.end('hello');
      await new Promise((resolve) => setTimeout(resolve, 20));
      t.equal(String(await read(server, buffers).done), 'hello');
      server.end();
    },
  );

  void t.test(`readSocket, ${mode}: a socket still connecting is read`, async (t) => {
    const buffers = createReadBuffers({ fallback });
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.end('from the server');
    });
    const port = await listen(server);
    const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    const reading = read(socket, buffers);
    t.equal(String(await reading.done), 'from the server');
    socket.end();
    server.close();
  });

  void t.test(
    `readSocket, ${mode}: paused before it connects it delivers nothing until resumed`,
    async (t) => {
      const buffers = createReadBuffers({ fallback });
      const server = createServer((socket) => {
        socket.on('error', () => {});
        socket.end('patience');
      });
      const port = await listen(server);
      const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
      const reading = read(socket, buffers);
      reading.reader.pause();
      await new Promise((resolve) => socket.once('connect', resolve));
      await new Promise((resolve) => setTimeout(resolve, 20));
      t.equal(reading.chunks.length, 0);
      reading.reader.resume();
      t.equal(String(await reading.done), 'patience');
      socket.end();
      server.close();
    },
  );

  void t.test(`readSocket, ${mode}: what Node read before the takeover comes first`, async (t) => {
    const buffers = createReadBuffers({ fallback });
    const [client, server] = await pair();
    client.write('early ');
    await new Promise((resolve) => server.once('readable', resolve));
    const reading = read(server, buffers);
    client.end('late');
    t.equal(String(await reading.done), 'early late');
    server.end();
  });

  void t.test(`readSocket, ${mode}: an end before the takeover is told`, async (t) => {
    const buffers = createReadBuffers({ fallback });
    const [client, server] = await pair();
    client.end('all');
    await new Promise((resolve) => server.once('readable', resolve));
    await new Promise((resolve) => setTimeout(resolve, 20));
    const reading = read(server, buffers);
    t.equal(reading.ended, false, 'not inside the call');
    t.equal(String(await reading.done), 'all');
    server.end();
  });

  void t.test(`readSocket, ${mode}: a socket closed before the takeover is told`, async (t) => {
    const buffers = createReadBuffers({ fallback });
    const [client, server] = await pair();
    server.destroy();
    await new Promise((resolve) => server.once('close', resolve));
    await read(server, buffers).closed;
    client.destroy();
    t.pass('closed');
  });

  void t.test(`readSocket, ${mode}: pause inside onChunk stops and resume goes on`, async (t) => {
    const buffers = createReadBuffers({ fallback });
    const [client, server] = await pair();
    let whilePaused = 0;
    const reading = read(server, buffers, ({ reader }) => {
      if (reader.paused) whilePaused++;
      reader.pause();
      setImmediate(() => reader.resume());
    });
    const data = pattern(BYTES, 2);
    client.end(data);
    t.equal(sha(await reading.done), sha(data));
    if (!fallback) t.equal(whilePaused, 0);
    server.end();
  });

  void t.test(`readSocket, ${mode}: RST is an error and a close, never an end (F31)`, async (t) => {
    const buffers = createReadBuffers({ fallback });
    const [client, server] = await pair();
    const reading = read(server, buffers);
    client.write('x', () => client.resetAndDestroy());
    await reading.closed;
    t.equal(reading.ended, false);
    t.equal(reading.errors.length, 1);
  });

  void t.test(
    `readSocket, ${mode}: TLS both ways, over sockets Node did not make for TLS`,
    async (t) => {
      const buffers = createReadBuffers({ fallback });
      const [client, server] = await pair();
      const serverTls = new TLSSocket(server, { isServer: true, ...certificate() });
      serverTls.on('error', () => {});
      // The server speaks first, before the client has taken over: early bytes.
      serverTls.once('secure', () => serverTls.write('banner '));
      const clientTls = tlsConnect({ socket: client, rejectUnauthorized: false });
      clientTls.on('error', () => {});
      await new Promise((resolve) => clientTls.once('secureConnect', resolve));
      const onServer = read(serverTls, buffers);
      const onClient = read(clientTls, buffers);
      const data = pattern(BYTES, 3);
      clientTls.end(data);
      t.equal(sha(await onServer.done), sha(data));
      serverTls.end(data);
      t.equal(sha(await onClient.done), sha(Buffer.concat([Buffer.from('banner '), data])));
      await Promise.all([onServer.closed, onClient.closed]);
      t.same([...onServer.errors, ...onClient.errors], []);
    },
  );

  void t.test(`readSocket, ${mode}: a detached buffer keeps its bytes`, async (t) => {
    const buffers = createReadBuffers({ fallback });
    const [client, server] = await pair();
    const kept: Buffer[] = [];
    let detached = 0;
    let end = (): void => {};
    const done = new Promise<void>((resolve) => (end = resolve));
    const reader = readSocket(server, buffers, {
      onChunk(buffer, offset, length) {
        const view = buffer.subarray(offset, offset + length);
        const expected = reader.detachable;
        const got = reader.detach();
        t.equal(got, expected);
        t.equal(reader.detach(), expected, 'idempotent');
        if (got) detached++;
        kept.push(got ? view : Buffer.from(view));
      },
      onEnd: () => end(),
      onError() {},
      onClose() {},
    });
    const data = pattern(BYTES, 4);
    client.end(data);
    await done;
    t.ok(detached > 1, `${detached} detached`);
    t.equal(sha(Buffer.concat(kept)), sha(data));
    server.end();
  });
}

void t.test(
  'readSocket: idle sockets share one buffer, busy ones take and return their own',
  async (t) => {
    const buffers = createReadBuffers({ ownMax: 4 });
    const pairs = await Promise.all(Array.from({ length: 8 }, () => pair()));
    const readings = pairs.map(([, server]) => read(server, buffers));
    const small = async (): Promise<void> => {
      for (const [client] of pairs) await new Promise((resolve) => client.write('ping', resolve));
      await new Promise((resolve) => setTimeout(resolve, 10));
    };
    await small();
    t.equal(buffers.ownCount, 0);
    t.equal(new Set(readings.flatMap((reading) => [...reading.buffers])).size, 1);
    const data = pattern(200_000, 5);
    for (const [client] of pairs) client.write(data);
    await Promise.all(
      readings.map(async (reading) => {
        while (Buffer.concat(reading.chunks).byteLength < data.byteLength + 4) {
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
      }),
    );
    t.ok(buffers.ownCount > 0 && buffers.ownCount <= 4, `${buffers.ownCount} own buffers`);
    for (const reading of readings) {
      t.equal(sha(Buffer.concat(reading.chunks).subarray(4)), sha(data));
    }
    await small();
    for (const [client, server] of pairs) {
      client.destroy();
      server.destroy();
    }
    await Promise.all(readings.map((reading) => reading.closed));
    // Every own buffer is free again: as many as exist can be taken with one user each.
    const taken = Array.from({ length: buffers.ownCount }, () => buffers.acquire());
    t.ok(taken.every((slot) => slot.users === 1));
  },
);

void t.test('createReadBuffers: at its bound buffers are shared and cannot be detached', (t) => {
  const buffers = createReadBuffers({ ownMax: 2, sizeBytes: 4096 });
  const [a, b, c] = [buffers.acquire(), buffers.acquire(), buffers.acquire()];
  t.equal(buffers.ownCount, 2);
  t.equal(c, a);
  t.equal(buffers.detach(a), false);
  t.equal(buffers.detach(buffers.shared), false);
  t.equal(buffers.detach(b), true);
  t.equal(buffers.ownCount, 1);
  buffers.release(c);
  t.equal(buffers.detach(a), true);
  buffers.recycle(a.whole);
  buffers.recycle(Buffer.alloc(10));
  t.equal(buffers.ownCount, 1, 'a buffer of another size is not taken');
  t.equal(buffers.acquire().whole, a.whole);
  t.throws(() => createReadBuffers({ sizeBytes: 1 }), RangeError);
  t.end();
});

void t.test('createReadBuffers: a lent buffer is nobody else’s until recycled', (t) => {
  const buffers = createReadBuffers({ ownMax: 1, sizeBytes: 4096 });
  const slot = buffers.acquire();
  const fresh = buffers.lend();
  t.not(fresh, slot.whole, 'one in use is not lent');
  buffers.release(slot);
  const lent = buffers.lend();
  t.equal(lent, slot.whole, 'a free one is');
  t.equal(buffers.ownCount, 0);
  t.not(buffers.acquire().whole, lent);
  buffers.recycle(lent);
  t.equal(buffers.ownCount, 1, 'beyond the bound nothing is kept');
  t.end();
});

void t.test('createReadBuffers: this Node reads into our buffers', (t) => {
  t.not(createReadBuffers().hooks, undefined, 'if this fails, everything works but with copies');
  t.end();
});
