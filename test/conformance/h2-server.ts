/** The small HTTP/2 server that h2spec talks to: cleartext, prior knowledge, answers every request with a body. */

import { once } from 'node:events';
import net from 'node:net';

import { createReadBuffers } from '../../src/base/buffer-pool.ts';
import { createSystemClock } from '../../src/base/clock.ts';
import type { H2ServerStream } from '../../src/http/h2/contract.ts';
import { createH2Session } from '../../src/http/h2/session.ts';
import { createWindowBudget } from '../../src/http/h2/window-budget.ts';

const BODY = Buffer.from('nodemesh\n'.repeat(16));

function serve(stream: H2ServerStream): void {
  stream.setHandlers({
    onHeaders: () => {},
    onData: (chunk) => stream.consume(chunk.length),
    onEnd() {
      stream.sendHeaders([[':status', '200']], false);
      stream.write(BODY);
      stream.end();
    },
    onReset: () => {},
    onDrain: () => {},
  });
}

export async function listenH2(): Promise<{ port: number; openSessions(): number; close(): void }> {
  const clock = createSystemClock();
  const readBuffers = createReadBuffers();
  const windowBudget = createWindowBudget();
  let open = 0;
  const listener = net.createServer((socket) => {
    const options = {
      role: 'server',
      clock,
      readBuffers,
      windowBudget,
      onStream: serve,
      // One case sends a header block of 20 KB as a frame that is too large.
      maxFrameBytes: 16_384,
    } as const;
    const session = createH2Session(socket, options);
    open++;
    session.onClosed(() => open--);
  });
  listener.on('error', () => {});
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  return {
    port: (listener.address() as net.AddressInfo).port,
    openSessions: () => open,
    close: () => void listener.close(),
  };
}
