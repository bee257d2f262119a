import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createTimeSlice } from '../../src/base/time-slice.ts';

void t.test('a time slice is spent after its budget and starts anew after a yield', async (t) => {
  const clock = createFakeClock();
  const slice = createTimeSlice(clock, 4);
  t.equal(slice.spent, false);
  await clock.advance(4);
  t.equal(slice.spent, true);
  let others = 0;
  setImmediate(() => others++);
  await slice.yield();
  t.equal(slice.spent, false);
  t.equal(others, 1, 'the loop ran');
});
