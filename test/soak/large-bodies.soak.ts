/** G23 in full: 10 bodies of 1 GiB at once, ten times. */

import t from 'tap';

import { testLargeBodies } from '../waypoint/large-bodies.ts';

for (let round = 1; round <= 10; round++) {
  t.test(
    `G23 10 bodies of 1 GiB come back as they were sent, round ${round}`,
    { timeout: 0 },
    (t) => testLargeBodies(t, 10, 1024),
  );
}
