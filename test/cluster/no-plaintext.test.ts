/** Short forms of `no-plaintext.ts`; `test/soak/cluster-no-plaintext.soak.ts` has the long ones. */

import t from 'tap';

import { reasonToSkipCluster } from './harness.ts';
import { testPodStarts, testProxyRestarts, testReboot } from './no-plaintext.ts';

const skip = reasonToSkipCluster(true);

t.test('G08 T31 0 plaintext frames in 20 pod starts whose first act is to connect', { skip }, (t) =>
  testPodStarts(t, 20),
);
t.test('F21 0 plaintext frames in 5 restarts of node proxies', { skip }, (t) =>
  testProxyRestarts(t, 5),
);
t.test('G07 T33 0 plaintext frames across a node reboot', { skip }, (t) => testReboot(t));
