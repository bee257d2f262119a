/** The short form of test/soak/idle-connections.soak.ts. */

import t from 'tap';

import { reasonToSkipMesh } from './harness.ts';
import { testIdleConnections } from './idle-load.ts';

const COUNT = 2000;
/** The goal is 30 KiB at ten thousand; with fewer, what the heap holds in reserve weighs more. */
const KIB_MAX = 45;

t.setTimeout(120_000);

t.test('F70 2,000 idle connections through the pair', { skip: reasonToSkipMesh() }, (t) =>
  testIdleConnections(t, COUNT, KIB_MAX),
);
