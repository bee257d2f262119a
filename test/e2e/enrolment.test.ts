/** Pods enter and leave the mesh while they run: nothing is cut, nothing is refused, nothing is restarted. */

import t from 'tap';

import {
  describeLoad,
  holdCounts,
  holdOpen,
  holdStop,
  LONG_CONNECTIONS,
  probeFrom,
  DB,
  startTraffic,
  stopTraffic,
  untilWire,
} from '../../src/demo/actions.ts';
import { wait } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh, shopNamespace, untilCaptured } from './harness.ts';

t.test(
  'enrolling and un-enrolling twice under load cuts no connection of 20 and refuses none',
  { skip: reasonToSkipMesh() },
  async (t) => {
    const running = await createTestMesh(t, { enrolled: false });
    const { mesh } = running;
    t.ok((await probeFrom(running, 'web', DB)).ok, 'web reaches db before');
    await holdOpen(running, 'across');
    for (const round of [1, 2]) {
      await startTraffic(running, `enrol-${round}`);
      mesh.writeManifest('namespace.yaml', shopNamespace(true));
      const encryptedMs = await untilWire(running, 'encrypted');
      await untilCaptured(running, 4);
      const enrolled = await stopTraffic(running, `enrol-${round}`);
      t.equal(enrolled.failed, 0, `round ${round}, enrol: ${describeLoad(enrolled)}`);
      t.ok(encryptedMs < 5000, `encrypted after ${Math.round(encryptedMs)} ms`);

      await holdOpen(running, `inside-${round}`);
      await startTraffic(running, `leave-${round}`);
      mesh.writeManifest('namespace.yaml', shopNamespace(false));
      const plainMs = await untilWire(running, 'plain');
      await untilCaptured(running, 0);
      const left = await stopTraffic(running, `leave-${round}`);
      t.equal(left.failed, 0, `round ${round}, un-enrol: ${describeLoad(left)}`);
      t.same(left.errors, []);
      t.ok(plainMs < 5000, `in plain text after ${Math.round(plainMs)} ms`);
      await wait(300);
      for (const name of ['across', `inside-${round}`]) {
        const held = await holdCounts(running, name);
        t.match(held, { open: LONG_CONNECTIONS, lost: 0, wrong: 0, errors: [] }, name);
      }
      await holdStop(running, `inside-${round}`);
    }
  },
);
