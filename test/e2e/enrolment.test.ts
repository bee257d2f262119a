/** Pods enter and leave the mesh while they run: nothing is cut, nothing is refused, nothing is restarted. */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

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
import { slowness } from '../support/slowness.ts';
import { createTestMesh, reasonToSkipMesh, shopNamespace, untilCaptured } from './harness.ts';

/** Where a kernel begins to choose ports of connections, by default. */
const OWN_PORTS_FIRST = 32_768;
/** TCP_ESTABLISHED, as /proc/net/tcp writes it. */
const ESTABLISHED = '01';
/** On a quiet machine. */
const CHANGED_MAX_MS = 5000;

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
      const encryptedMaxMs = CHANGED_MAX_MS * slowness();
      t.ok(encryptedMs < encryptedMaxMs, `encrypted after ${Math.round(encryptedMs)} ms`);

      const direct = clientPorts(podNamed(running, 'db'), DB.port);
      await holdOpen(running, `inside-${round}`);
      const all = clientPorts(podNamed(running, 'db'), DB.port);
      // Else a later connection of web's own may be the same to db's kernel, and hang.
      t.same(
        [...all].filter((port) => !direct.has(port) && port >= OWN_PORTS_FIRST),
        [],
        'what appears as web has ports that web itself does not choose',
      );
      await startTraffic(running, `leave-${round}`);
      mesh.writeManifest('namespace.yaml', shopNamespace(false));
      const plainMs = await untilWire(running, 'plain');
      await untilCaptured(running, 0);
      const left = await stopTraffic(running, `leave-${round}`);
      t.equal(left.failed, 0, `round ${round}, un-enrol: ${describeLoad(left)}`);
      t.same(left.errors, [], `failed ones began at ${left.failedStartsMs.join(', ')}`);
      const plainMaxMs = CHANGED_MAX_MS * slowness();
      t.ok(plainMs < plainMaxMs, `in plain text after ${Math.round(plainMs)} ms`);
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

/** Ports that the clients of a port of the pod have, as its application sees them. */
function clientPorts({ program }: MeshPod, port: number): Set<number> {
  const local = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const ports = ['tcp', 'tcp6'].flatMap((table) =>
    readFileSync(`/proc/${program.process.pid}/net/${table}`, 'utf8')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter(([, own = '', , state]) => own.endsWith(local) && state === ESTABLISHED)
      .map(([, , remote = '']) => Number.parseInt(remote.split(':')[1] ?? '', 16)),
  );
  return new Set(ports);
}

/** Whether any rule, route or table of ours is in a pod. */
function hasRules({ place }: MeshPod): boolean {
  const list = (...command: string[]): string =>
    spawnSync('nsenter', [`--net=${place.netns}`, ...command], { encoding: 'utf8' }).stdout;
  return /nodemesh|lookup 100/.test(list('nft', 'list', 'tables') + list('ip', 'rule', 'list'));
}
