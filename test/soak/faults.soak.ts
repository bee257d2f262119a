/**
 * Faults one after the other for ten minutes under load: workers and agents killed or stopped, the controller
 * away, upgrades, root rotations, a namespace in and out of the mesh. Nothing that begins after a fault is refused,
 * and long connections live on but for those of a dead worker. Seconds and seed: NODEMESH_SOAK_S, NODEMESH_SOAK_SEED.
 */

import t from 'tap';

import { createSeededRandom, type Random } from '../../src/base/random.ts';
import {
  childrenOf,
  describeLoad,
  epochMs,
  holdCounts,
  holdOpen,
  holdStop,
  proxyOn,
  startTraffic,
  stopTraffic,
  untilWire,
} from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import {
  createTestMesh,
  reasonToSkipMesh,
  shopNamespace,
  untilCaptured,
  type TestMesh,
} from '../e2e/harness.ts';

const SECONDS = Number(process.env['NODEMESH_SOAK_S'] ?? 600);
const SEED = Number(process.env['NODEMESH_SOAK_SEED'] ?? 1);
const NODES = ['node-a', 'node-b'] as const;

interface Fault {
  readonly name: string;
  /** Whether long connections may end of it. */
  readonly cuts: boolean;
  run(running: TestMesh, random: Random, round: number): Promise<void>;
}

function pick<T>(random: Random, values: readonly T[]): T {
  const value = values[Math.floor(random.next() * values.length)];
  if (value === undefined) throw new Error('nothing to pick from');
  return value;
}

const FAULTS: readonly Fault[] = [
  {
    name: 'a worker killed',
    cuts: true,
    run: async (running, random) => {
      const proxy = proxyOn(running, pick(random, NODES));
      process.kill(pick(random, childrenOf(proxy, 'worker')), 'SIGKILL');
    },
  },
  {
    name: 'an agent killed',
    cuts: false,
    run: async (running, random) => {
      const proxy = proxyOn(running, pick(random, NODES));
      process.kill(pick(random, childrenOf(proxy, 'agent')), 'SIGKILL');
    },
  },
  {
    name: 'a worker stopped for 5 s',
    cuts: false,
    run: async (running, random) => {
      const pid = pick(random, childrenOf(proxyOn(running, pick(random, NODES)), 'worker'));
      process.kill(pid, 'SIGSTOP');
      await wait(5000);
      process.kill(pid, 'SIGCONT');
    },
  },
  {
    name: 'the controller away for 3 s',
    cuts: false,
    run: async ({ mesh }) => {
      mesh.controller?.kill('SIGKILL');
      await mesh.controller?.exited;
      await wait(3000);
      await mesh.startController();
    },
  },
  {
    name: 'an upgrade',
    cuts: false,
    run: async (running, random) => {
      const node = pick(random, NODES);
      const successor = running.mesh.startNode(node);
      await running.mesh.waitHandedOver(running.proxies.get(node), successor);
      running.proxies.set(node, successor);
    },
  },
  {
    name: 'a root rotated',
    cuts: false,
    run: async ({ mesh }, _random, round) => {
      const [before] = mesh.trustedRoots();
      mesh.writeManifest(
        'mesh-config.yaml',
        `apiVersion: nodemesh.dev/v1alpha1
kind: MeshConfig
metadata: { name: default, namespace: nodemesh-system }
spec: { rootRotation: ${round + 1} }
`,
      );
      await until('the new root is the only one', 60_000, () => {
        const roots = mesh.trustedRoots();
        return roots.length === 1 && roots[0] !== before;
      });
    },
  },
  {
    name: 'out of the mesh and in again',
    cuts: false,
    run: async (running) => {
      running.mesh.writeManifest('namespace.yaml', shopNamespace(false));
      await untilWire(running, 'plain');
      running.mesh.writeManifest('namespace.yaml', shopNamespace(true));
      await untilWire(running, 'encrypted');
    },
  },
];

t.setTimeout((SECONDS + 120) * 1000);

t.test('faults under load', { skip: reasonToSkipMesh() }, async (t) => {
  const random = createSeededRandom(SEED);
  const running = await createTestMesh(t);
  const endMs = epochMs() + SECONDS * 1000;
  let rotations = 0;
  for (let round = 0; epochMs() < endMs && t.passing(); round++) {
    const fault = pick(random, FAULTS);
    await holdOpen(running, `long-${round}`);
    await startTraffic(running, `load-${round}`, { timeoutMs: 10_000 });
    await wait(500);
    const startMs = epochMs();
    await fault.run(running, random, rotations);
    if (fault.name === 'a root rotated') rotations++;
    await wait(1500);
    await untilCaptured(running, 4);
    const load = await stopTraffic(running, `load-${round}`);
    const refused = load.failedStartsMs.filter((ms) => !fault.cuts || ms > startMs + 50);
    t.same(refused, [], `${round}, ${fault.name}: ${describeLoad(load)} ${load.errors.join('; ')}`);
    const held = await holdCounts(running, `long-${round}`);
    t.equal(held.wrong, 0, 'no foreign byte');
    if (!fault.cuts) t.equal(held.lost, 0, `none lost ${held.errors.join('; ')}`);
    await holdStop(running, `long-${round}`);
  }
});
