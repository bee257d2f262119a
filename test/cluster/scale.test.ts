/** F10 in small; `make soak` has the full size. */

import t from 'tap';

import { reasonToSkipCluster } from './harness.ts';
import { measureScale } from './scale.ts';

t.test(
  'F10 no pod change is lost on its way to the nodes, at two sizes, nor later than a second on a quiet machine',
  { skip: reasonToSkipCluster(true) },
  (t) =>
    measureScale(
      t,
      [
        { pods: 1_000, services: 100, nodes: 10, changesPerSecond: 100, seconds: 5 },
        { pods: 500, services: 50, nodes: 10, changesPerSecond: 100, seconds: 5 },
      ],
      false,
    ),
);
