/** Dials that wait for a descriptor: in order, and one try at a time (T69). */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createDialQueue } from '../../src/node/dial-queue.ts';

t.test('T69 a thousand waiting dials cost one try at a time and are served in order', async (t) => {
  const clock = createFakeClock();
  const queue = createDialQueue(clock, 256);
  let free = 1;
  let tries = 0;
  const served: number[] = [];
  for (let index = 0; index < 1000; index++) {
    queue.enter(() => {
      tries++;
      if (free === 0) return false;
      free--;
      served.push(index);
      return true;
    });
  }
  t.same(served, [0], 'the first one did not wait');
  t.equal(tries, 2);
  await clock.advance(1000);
  t.equal(tries, 22, 'one try every 50 ms');
  free = 3;
  await clock.advance(50);
  t.same(served, [0, 1, 2, 3]);
  free = 1000;
  await clock.advance(50);
  t.equal(served.length, 1000);
  t.same(
    served,
    served.toSorted((a, b) => a - b),
  );
  t.equal(clock.pendingCount(), 0);
});
