/** Pods enter and leave the mesh while they run: nothing is cut, nothing is refused, nothing is restarted. */

import { spawnSync } from 'node:child_process';

import t from 'tap';

import {
  describeLoad,
  holdCounts,
  holdOpen,
  holdStop,
  LONG_CONNECTIONS,
  podNamed,
  probeFrom,
  DB,
  startTraffic,
  stopTraffic,
  untilWire,
} from '../../src/demo/actions.ts';
import { until, wait, type MeshPod } from '../../src/demo/mesh.ts';
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
      t.ok(hasRules(podNamed(running, 'web')), 'rules stand while captured connections live');
      await holdStop(running, `inside-${round}`);
    }
    await until('nothing of the mesh is left in the pods', 30_000, () => {
      return ['web', 'cart-v1', 'cart-v2', 'db'].every(
        (name) => !hasRules(podNamed(running, name)),
      );
    });
    t.match(await holdCounts(running, 'across'), { open: LONG_CONNECTIONS, lost: 0, wrong: 0 });
  },
);

/** Whether any rule, route or table of ours is in a pod. */
function hasRules({ place }: MeshPod): boolean {
  const list = (...command: string[]): string =>
    spawnSync('nsenter', [`--net=${place.netns}`, ...command], { encoding: 'utf8' }).stdout;
  return /nodemesh|lookup 100/.test(list('nft', 'list', 'tables') + list('ip', 'rule', 'list'));
}
