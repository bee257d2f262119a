/** F10 at full size and at half: 10,000 pods, 1,000 services, 100 node streams, 100 pod changes a second. */

import t from 'tap';

import { reasonAgainstCluster } from '../cluster/cluster-access.ts';
import { measureScale } from '../cluster/scale.ts';

t.test(
  'F10 change to node within a second and the controller within 400 MiB, for 10,000 pods',
  { skip: reasonAgainstCluster() ?? false },
  (t) =>
    measureScale(
      t,
      [
        { pods: 10_000, services: 1_000, nodes: 100, changesPerSecond: 100, seconds: 100 },
        { pods: 5_000, services: 500, nodes: 50, changesPerSecond: 100, seconds: 100 },
      ],
      true,
    ),
);
