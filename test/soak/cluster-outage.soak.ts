/** The long form of `test/cluster/outage.test.ts`. */

import t from 'tap';

import { reasonToSkipCluster } from '../cluster/harness.ts';
import { testOutage } from '../cluster/outage.ts';

t.setTimeout(1_200_000);

t.test(
  'G04 G05 F01 F04 controller and API server stopped for ten minutes, a node proxy restarted meanwhile',
  { skip: reasonToSkipCluster(true) },
  (t) => testOutage(t, 600),
);
