/** Silent clients on the tunnel port are closed, and keep nobody out. */

import t from 'tap';

import { reasonToSkipMesh } from './harness.ts';
import { testSilentHandshakes } from './silent-load.ts';

t.setTimeout(120_000);

t.test(
  'T67 G17 10,000 silent handshakes are gone within 6 s and no good client fails',
  { skip: reasonToSkipMesh() },
  (t) => testSilentHandshakes(t, 10_000),
);
