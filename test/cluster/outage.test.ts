/** The short form of `outage.ts`; `test/soak/cluster-outage.soak.ts` has the long one. */

import t from 'tap';

import { reasonToSkipCluster } from './harness.ts';
import { testOutage } from './outage.ts';

t.test(
  'G04 G05 F01 F04 controller and API server stopped for a minute, a node proxy restarted meanwhile',
  { skip: reasonToSkipCluster(true) },
  (t) => testOutage(t, 60),
);
