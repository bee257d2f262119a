/**
 * The demo's story: what the mesh promises, one step after the other on a running two-node mesh, each with its
 * proof. A step that cannot show its proof fails, and says what it saw. The end-to-end tests run the same steps.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import {
  CART,
  childrenOf,
  countConnections,
  DB,
  epochMs,
  describeLoad,
  expect,
  holdCounts,
  holdOpen,
  holdStop,
  logLines,
  LONG_CONNECTIONS,
  podNamed,
  probeFrom,
  proxyOn,
  startTraffic,
  stopTraffic,
  underLoad,
  untilWire,
  type RunningMesh,
} from './actions.ts';
import { until, wait } from './mesh.ts';
import type { ProbeResult } from './traffic.ts';

export interface Proof {
  /** One line: what was seen. */
  readonly summary: string;
  /** Samples, log lines, manifests: for those who want to look closer. */
  readonly details: readonly string[];
}

export interface Step {
  readonly title: string;
  readonly run: (context: RunningMesh) => Promise<Proof>;
}

function manifest(name: string): string {
  return readFileSync(join(import.meta.dirname, 'manifests', name), 'utf8');
}

const plaintextBefore: Step = {
  title: 'Before: pods talk in plain text',
  async run(context) {
    context.wire.reset();
    const answer = await probeFrom(context, 'web', DB);
    expect(answer.ok, `web cannot reach db: ${answer.text}`);
    await holdOpen(context, 'before');
    await wait(100);
    const counts = context.wire.counts();
    expect(counts.readable > 0 && counts.tunnel === 0, `${counts.readable} readable frames`);
    return {
      summary: `${counts.readable} frames between the nodes can be read, e.g. "${counts.plainSample}"`,
      details: [],
    };
  },
};

const enrol: Step = {
  title: 'One label on the namespace: nodemesh.dev/mesh: enabled',
  async run(context) {
    const pids = [...context.pods.values()].map(({ program }) => program.process.pid);
    await startTraffic(context, 'enrol');
    const labelled = manifest('namespace.yaml').replace(
      'labels: {}',
      'labels: { nodemesh.dev/mesh: enabled }',
    );
    context.mesh.writeManifest('namespace.yaml', labelled);
    const ms = await untilWire(context, 'encrypted');
    const load = await stopTraffic(context, 'enrol');
    const held = await holdCounts(context, 'before');
    const alive = [...context.pods.values()].every(
      ({ program }, index) =>
        program.process.pid === pids[index] && program.process.child.exitCode === null,
    );
    const { tunnelSample } = context.wire.counts();
    expect(load.failed === 0, `${describeLoad(load)}: ${load.errors.join('; ')}`);
    expect(held.lost === 0 && held.wrong === 0, `${held.lost} open connections were cut`);
    expect(alive, 'a pod was restarted');
    return {
      summary: `encrypted after ${Math.round(ms)} ms; ${describeLoad(load)}; ${held.open} open connections kept, 0 cut; no pod restarted`,
      details: [`a frame between the nodes now: "${tunnelSample}"`],
    };
  },
};

const strict: Step = {
  title: 'STRICT: who is not in the mesh is refused',
  async run(context) {
    const before = await probeFrom(context, 'outsider', CART);
    expect(before.ok, `outsider should pass under PERMISSIVE: ${before.text}`);
    context.mesh.writeManifest('strict.yaml', STRICT_MANIFEST);
    let refused: ProbeResult = before;
    const ms = await until('outsider is refused', 10_000, async () => {
      const probes = await Promise.all([
        probeFrom(context, 'outsider', CART),
        probeFrom(context, 'outsider', CART),
        probeFrom(context, 'outsider', DB),
      ]);
      refused = probes[2];
      return probes.every(({ ok }) => !ok);
    });
    const inside = await probeFrom(context, 'web', DB);
    expect(inside.ok, `web must still reach db: ${inside.text}`);
    return {
      summary: `outsider → db refused after ${Math.round(ms)} ms (${refused.text}); web → db goes on`,
      details: STRICT_MANIFEST.trim().split('\n'),
    };
  },
};

const policy: Step = {
  title: 'An AuthorizationPolicy cuts web → db, live connections included',
  async run(context) {
    await holdStop(context, 'before');
    await holdOpen(context, 'live');
    context.mesh.writeManifest('policy.yaml', POLICY_MANIFEST);
    const ms = await until('live connections to db are cut', 10_000, async () => {
      const { lost } = await holdCounts(context, 'live');
      return lost === LONG_CONNECTIONS;
    });
    const refused = await probeFrom(context, 'web', DB);
    const cart = await probeFrom(context, 'web', CART);
    expect(!refused.ok, 'web still reaches db');
    expect(cart.ok, `web must still reach cart: ${cart.text}`);
    expect(ms <= 1000, `it took ${Math.round(ms)} ms, one second was promised`);
    let lines: string[] = [];
    await until('the log names the policy', 3000, () => {
      lines = logLines(context, 'shop/no-web-to-db');
      return lines.length > 0;
    });
    await holdStop(context, 'live');
    context.mesh.removeManifest('policy.yaml');
    await until('web reaches db again', 5000, async () => (await probeFrom(context, 'web', DB)).ok);
    return {
      summary: `${LONG_CONNECTIONS} live connections cut after ${Math.round(ms)} ms; new ones refused; web → cart goes on`,
      details: [`the log says: ${lines.at(-1) ?? ''}`],
    };
  },
};

const controllerKilled: Step = {
  title: 'The controller is killed: traffic goes on',
  async run(context) {
    await holdOpen(context, 'kept');
    const { mesh } = context;
    mesh.controller?.kill('SIGKILL');
    await mesh.controller?.exited;
    const load = await underLoad(context, 'no-controller', () => wait(1500));
    const held = await holdCounts(context, 'kept');
    expect(held.lost === 0, `${held.lost} long connections were lost`);
    await mesh.startController();
    return { summary: `${describeLoad(load)}; ${held.open} long connections go on`, details: [] };
  },
};

const workerKilled: Step = {
  title: 'A worker is killed with SIGKILL under load',
  async run(context) {
    const [victim] = childrenOf(proxyOn(context, 'node-b'), 'worker');
    const before = await holdCounts(context, 'kept');
    let own = 0;
    const load = await underLoad(context, 'worker', async () => {
      if (victim === undefined) return;
      // Those of the load that are under way count too; they are few and short.
      own = countConnections(victim, podNamed(context, 'db'), DB.port);
      process.kill(victim, 'SIGKILL');
      const killedMs = epochMs();
      await wait(1000);
      return killedMs;
    });
    const after = await holdCounts(context, 'kept');
    const lost = after.lost - before.lost;
    expect(lost <= own, `${lost} long connections were lost, the dead worker had ${own}`);
    await holdStop(context, 'kept');
    return {
      summary: `${describeLoad(load)}; of ${before.open} long connections the dead worker's own ${lost} ended`,
      details: [],
    };
  },
};

const upgrade: Step = {
  title: 'The node proxies are upgraded under load',
  async run(context) {
    await holdOpen(context, 'upgrade');
    const load = await underLoad(context, 'upgrade', async () => {
      for (const name of ['node-a', 'node-b']) {
        const successor = context.mesh.startNode(name);
        await context.mesh.waitHandedOver(context.proxies.get(name), successor);
        context.proxies.set(name, successor);
      }
    });
    const held = await holdCounts(context, 'upgrade');
    expect(held.lost === 0 && held.wrong === 0, `${held.lost} long connections were cut`);
    return {
      summary: `${describeLoad(load)}; all ${held.open} long connections are still open`,
      details: [],
    };
  },
};

const rootRotated: Step = {
  title: "The CA's root is rotated under load",
  async run(context) {
    const before = context.mesh.trustedRoots();
    let ms = 0;
    const load = await underLoad(context, 'rotation', async () => {
      context.mesh.writeManifest('mesh-config.yaml', ROTATION_MANIFEST);
      ms = await until('the new root is the only one', 40_000, () => {
        const now = context.mesh.trustedRoots();
        return now.length === 1 && now[0] !== before[0];
      });
    });
    const held = await holdCounts(context, 'upgrade');
    expect(held.lost === 0, `${held.lost} long connections were cut`);
    const after = context.mesh.trustedRoots();
    return {
      summary: `${describeLoad(load)}; root ${before[0]?.slice(0, 12)} → ${after[0]?.slice(0, 12)} in ${Math.round(ms)} ms`,
      details: [],
    };
  },
};

const STRICT_MANIFEST = `apiVersion: nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;

const POLICY_MANIFEST = `apiVersion: nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: no-web-to-db, namespace: shop }
spec:
  selector: { matchLabels: { app: db } }
  action: DENY
  rules:
    - from: [{ source: { principals: ["cluster.local/ns/shop/sa/web"] } }]
`;

const ROTATION_MANIFEST = `apiVersion: nodemesh.dev/v1alpha1
kind: MeshConfig
metadata: { name: default, namespace: nodemesh-system }
spec: { rootRotation: 1 }
`;

export const STORY: readonly Step[] = [
  plaintextBefore,
  enrol,
  strict,
  policy,
  controllerKilled,
  workerKilled,
  upgrade,
  rootRotated,
];
