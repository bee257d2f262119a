/** The long forms of `test/cluster/no-plaintext.test.ts`. */

import t from 'tap';

import { reasonToSkipCluster } from '../cluster/harness.ts';
import { testPodStarts, testProxyRestarts } from '../cluster/no-plaintext.ts';

t.setTimeout(1_800_000);
const skip = reasonToSkipCluster(true);

t.test(
  'G08 T31 0 plaintext frames in 200 pod starts whose first act is to connect',
  { skip },
  (t) => testPodStarts(t, 200),
);
t.test('F21 0 plaintext frames in 50 restarts of node proxies', { skip }, (t) =>
  testProxyRestarts(t, 50),
);
