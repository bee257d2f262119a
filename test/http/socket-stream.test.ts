/** A socket as a stream of bytes: what was written before the end arrives before the end. */

import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

import t from 'tap';

import { createReadBuffers } from '../../src/base/buffer-pool.ts';
import { socketByteStream } from '../../src/http/socket-stream.ts';

/** More than the kernel takes from a sender whose peer does not read. */
const CHUNK_BYTES = 16 * 1024 * 1024;
const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

t.test('bytes that wait are sent before the end, and one drain follows (F30)', async (t) => {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const socket = connect({
    port: (server.address() as AddressInfo).port,
    host: '127.0.0.1',
    allowHalfOpen: true,
  });
  await once(socket, 'connect');
  const stream = socketByteStream(socket, createReadBuffers());
  const resets: string[] = [];
  let drains = 0;
  stream.setHandlers({
    onData: () => {},
    onEnd: () => {},
    onReset: (error) => void resets.push(error.message),
    onDrain: () => void drains++,
  });
  const [far] = await accepted;
  let received = 0;
  far.on('data', (chunk: Buffer) => (received += chunk.length));
  const ended = once(far, 'end');

  t.equal(stream.write(Buffer.alloc(CHUNK_BYTES)), false);
  t.equal(stream.write(Buffer.alloc(CHUNK_BYTES)), false);
  far.resume();
  // The first has gone and the second is on its way.
  while (socket.writableLength > CHUNK_BYTES) await nextTurn();
  t.ok(socket.writableLength > 0, 'some of it waits');
  t.equal(stream.write(Buffer.alloc(CHUNK_BYTES)), false);
  stream.end();
  await ended;
  t.equal(received, 3 * CHUNK_BYTES);
  t.same(resets, []);
  t.equal(drains, 1);
  stream.reset();
  far.destroy();
});
