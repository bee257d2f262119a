/** Ten thousand idle connections through both proxies (F70, G24). */

import t from 'tap';

import { reasonToSkipMesh } from '../e2e/harness.ts';
import { testIdleConnections } from '../e2e/idle-load.ts';

t.setTimeout(600_000);

t.test('F70 G24 10,000 idle connections through the pair', { skip: reasonToSkipMesh() }, (t) =>
  testIdleConnections(t, 10_000, 30),
);
