/** G23: large bodies through a waypoint and back, at the same time, and what memory they take. */

import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';

import type { Test } from 'tap';

import { rigFor } from './ask.ts';
import type { Rig } from './rig.ts';

const MIB = 1024 * 1024;
const GROWTH_MAX_MIB = 64;

export function rssMib(): number {
  return process.memoryUsage.rss() / MIB;
}

/** The answer's body against what was sent, both as they pass. */
async function sendBody(rig: Rig, mib: number): Promise<void> {
  const [sent, received] = [createHash('sha256'), createHash('sha256')];
  const connection = await rig.open('app');
  let left = mib * MIB;
  let head = '';
  const complete = new Promise<void>((resolve, reject) => {
    connection.on('close', () => reject(new Error(`${left} bytes are missing`)));
    connection.on('data', (chunk: Buffer) => {
      let body = chunk;
      if (!head.includes('\r\n\r\n')) {
        head += chunk.toString('latin1');
        body = Buffer.from(head.split('\r\n\r\n')[1] ?? '', 'latin1');
      }
      received.update(body);
      left -= body.length;
      if (left === 0) resolve();
    });
  });
  complete.catch(() => {});
  connection.write(`PUT / HTTP/1.1\r\nHost: app\r\nContent-Length: ${mib * MIB}\r\n\r\n`);
  for (let index = 0; index < mib; index++) {
    const piece = Buffer.alloc(MIB, index & 0xff);
    piece.writeUInt32BE(index, index % 1_000);
    sent.update(piece);
    if (!connection.write(piece)) await once(connection, 'drain');
  }
  await complete;
  connection.destroy();
  if (sent.digest('hex') !== received.digest('hex')) throw new Error('another body came back');
}

/** `count` bodies of `mib` MiB each at once. Clients and the application are in this process, too. */
export async function testLargeBodies(t: Test, count: number, mib: number): Promise<void> {
  const app = createServer((request, response) => {
    response.writeHead(200, { 'content-length': request.headers['content-length'] });
    request.pipe(response);
  });
  const rig = await rigFor(t, [app], ([port = 0]) => ({
    apps: [{ name: 'app', ports: [port], appProtocol: 'HTTP11' }],
  }));
  const all = (bodyMib: number): Promise<unknown> =>
    Promise.all(Array.from({ length: count }, () => sendBody(rig, bodyMib)));
  // What so many connections take at any size.
  await all(4);
  const before = rssMib();
  const startMs = performance.now();
  await all(mib);
  const grownMib = rssMib() - before;
  const seconds = (performance.now() - startMs) / 1000;
  t.comment(
    `${count} × ${mib} MiB there and back in ${seconds.toFixed(1)} s, ${grownMib.toFixed(0)} MiB more`,
  );
  t.ok(grownMib <= GROWTH_MAX_MIB, `${grownMib.toFixed(0)} MiB`);
  await rig.recorded(2 * count);
  t.ok(rig.records.every(({ flag, status }) => flag === '-' && status === 200));
}
