/** A hundred thousand endpoints declared (G27). The goal is 350 MiB a node and no loop block over 20 ms. */

import t from 'tap';

import { testEndpoints } from '../e2e/endpoint-load.ts';
import { reasonToSkipMesh } from '../e2e/harness.ts';

t.setTimeout(600_000);

t.test('G27 100,000 endpoints declared', { skip: reasonToSkipMesh() }, (t) =>
  testEndpoints(t, 100_000, { nodeMibMax: 900, settleMs: 240_000 }),
);
