import { join } from 'node:path';

import t from 'tap';

import { ownApiServer } from './api-server.ts';
import { reasonToSkipCluster } from './harness.ts';
import type { TrustAnswers } from './trust-driver.ts';

t.test(
  'T05 T06 T132 F12: tokens, the CA and the lease, as a real API server answers',
  { skip: reasonToSkipCluster(true) },
  async (t) => {
    const server = ownApiServer(t);
    await server.up();
    const out = await server.program(join(import.meta.dirname, 'trust-driver.ts'), '');
    const answers = JSON.parse(out) as TrustAnswers;
    t.same(answers['node'], { kind: 'node', node: 'node-x' }, 'the node of the proxy’s pod');
    const web = { kind: 'workload', namespace: 'shop', serviceAccount: 'web', pod: 'web' };
    t.same(answers['workload'], web);
    t.match(answers['ordinary'], 'does not know the token', 'T06 an ordinary token of a pod');
    t.match(answers['unbound'], 'is not bound to a pod');
    t.match(answers['forged'], 'does not know the token');
    t.match(answers['replayed'], 'does not know the token', 'T05 its pod is gone');
    t.equal(answers['issuers'], 1, 'three replicas at once make one root');
    t.equal(answers['lostKey'], 'MESH_CA_KEY_MISSING', 'T132 no new root');
    t.equal(answers['leaders'], 1);
    t.equal(answers['nextLeaders'], 1, 'one other leads within 10 s after the first has left');
  },
);
