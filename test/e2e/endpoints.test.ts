/** The short form of test/soak/endpoints.soak.ts. */

import t from 'tap';

import { testEndpoints } from './endpoint-load.ts';
import { reasonToSkipMesh } from './harness.ts';

t.setTimeout(180_000);

t.test('G27 20,000 endpoints declared', { skip: reasonToSkipMesh() }, (t) =>
  testEndpoints(t, 20_000, { nodeMibMax: 700, settleMs: 60_000 }),
);
