/** Who waits in a sender for a turn, and that a stream which is gone no longer does. */

import t from 'tap';

import { createSystemClock } from '../../../src/base/clock.ts';
import { createAbuseBudget } from '../../../src/http/h2/budget.ts';
import { WINDOW_DEFAULT } from '../../../src/http/h2/frames.ts';
import { H2_LIMITS_DEFAULT } from '../../../src/http/h2/limits.ts';
import { Output } from '../../../src/http/h2/output.ts';
import { Sender, type SendingStream } from '../../../src/http/h2/sender.ts';
import { createPeerSettings } from '../../../src/http/h2/settings.ts';
import type { Transport } from '../../../src/http/h2/transport.ts';

/** A sender whose writes end when the test says so. */
function createSender(): { sender: Sender; endWrite: () => void } {
  let written: (() => void) | undefined;
  let pendingBytes = 0;
  const transport: Transport = {
    copies: true,
    connecting: false,
    get writableLength() {
      return pendingBytes;
    },
    write(chunk, onWritten) {
      pendingBytes = chunk.length;
      written = onWritten;
    },
    end: () => {},
    destroy: () => {},
    read: () => {},
    pause: () => {},
    resume: () => {},
  };
  const output = new Output(transport, () => sender.onWritable());
  const budget = createAbuseBudget(createSystemClock(), H2_LIMITS_DEFAULT);
  const sender = new Sender(output, createPeerSettings(), budget);
  return {
    sender,
    endWrite: () => {
      pendingBytes = 0;
      written?.();
    },
  };
}

/** Notes in `seen` whenever it gets a turn. */
function createStream(id: number, seen: string[]): SendingStream {
  return {
    id,
    sendWindow: WINDOW_DEFAULT,
    hasQueued: false,
    sendQueued: () => void seen.push(`sends ${id}`),
    drained: () => void seen.push(`drained ${id}`),
    readyPlace: undefined,
    wakePlace: undefined,
  };
}

t.test('a stream that is gone neither waits to send nor keeps its place', (t) => {
  const { sender } = createSender();
  const seen: string[] = [];
  const [kept, gone] = [createStream(1, seen), createStream(3, seen)];
  // The connection's window is used up.
  sender.data(kept, Buffer.alloc(WINDOW_DEFAULT), 0, WINDOW_DEFAULT, false);
  kept.sendWindow = WINDOW_DEFAULT;
  sender.ready(gone);
  sender.ready(kept);
  const place = gone.readyPlace;
  t.equal(place?.item, gone, 'it waits');
  sender.forget(gone);
  t.equal(place?.item, undefined, 'nothing refers to it any more');
  sender.addWindow(1000);
  t.same(seen, ['sends 1']);
  t.end();
});

t.test('a stream that is gone neither waits to be woken nor keeps its place', async (t) => {
  const { sender, endWrite } = createSender();
  const seen: string[] = [];
  const [kept, gone] = [createStream(1, seen), createStream(3, seen)];
  while (!sender.blocked) sender.settings(Buffer.alloc(4096));
  sender.wait(gone);
  sender.wait(kept);
  const place = gone.wakePlace;
  t.equal(place?.item, gone, 'it waits');
  sender.forget(gone);
  t.equal(place?.item, undefined, 'nothing refers to it any more');
  while (sender.busy) {
    await new Promise((resolve) => void setImmediate(resolve));
    endWrite();
  }
  t.same(seen, ['drained 1']);
});
