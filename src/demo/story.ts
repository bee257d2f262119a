/**
 * The demo's story: what the mesh promises, one step after the other on a running two-node mesh, each with its
 * proof. A step that cannot show its proof fails, and says what it saw. The end-to-end tests run the same steps.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { MeshError } from '../base/errors.ts';
import { until, wait, type DemoMesh, type MeshPod, type NodeProxy } from './mesh.ts';
import type { HoldCounts, LoadCounts, ProbeResult, Target } from './traffic.ts';
import type { Wire } from './wire.ts';

export interface StoryContext {
  readonly mesh: DemoMesh;
  readonly wire: Wire;
  readonly pods: ReadonlyMap<string, MeshPod>;
  /** Node proxies by node name; an upgrade replaces them. */
  readonly proxies: Map<string, NodeProxy>;
}

export interface Proof {
  /** One line: what was seen. */
  readonly summary: string;
  /** Samples, log lines, manifests: for those who want to look closer. */
  readonly details: readonly string[];
}

export interface Step {
  readonly title: string;
  readonly run: (context: StoryContext) => Promise<Proof>;
}

export const CART: Target = { host: '10.96.0.10', port: 80, protocol: 'http' };
export const DB: Target = { host: '10.96.0.20', port: 5432, protocol: 'db' };
const LOAD_PER_SECOND = 20;
const LONG_CONNECTIONS = 20;
const PROBE_TIMEOUT_MS = 5000;

function expect(ok: boolean, saw: string): void {
  if (!ok) throw new MeshError('MESH_COMMAND_FAILED', saw);
}

function pod(context: StoryContext, name: string): MeshPod {
  const found = context.pods.get(name);
  if (found === undefined) throw new MeshError('MESH_CONFIG_INVALID', `No pod "${name}"`);
  return found;
}

export function probeFrom(
  context: StoryContext,
  from: string,
  target: Target,
): Promise<ProbeResult> {
  const command = { kind: 'probe', target, timeoutMs: PROBE_TIMEOUT_MS } as const;
  return pod(context, from).program.ask<ProbeResult>(command);
}

export async function startTraffic(context: StoryContext, name: string): Promise<void> {
  const web = pod(context, 'web').program;
  await web.ask({
    kind: 'load',
    name,
    targets: [CART, DB],
    perSecond: LOAD_PER_SECOND,
    timeoutMs: PROBE_TIMEOUT_MS,
  });
}

export function stopTraffic(context: StoryContext, name: string): Promise<LoadCounts> {
  return pod(context, 'web').program.ask<LoadCounts>({ kind: 'load-stop', name });
}

export async function holdOpen(context: StoryContext, name: string): Promise<void> {
  const web = pod(context, 'web').program;
  await web.ask({ kind: 'hold', name, target: DB, count: LONG_CONNECTIONS });
  await until(`${LONG_CONNECTIONS} long connections are open`, 5000, async () => {
    const { open, exchanged } = await holdCounts(context, name);
    return open === LONG_CONNECTIONS && exchanged >= LONG_CONNECTIONS;
  });
}

export function holdCounts(context: StoryContext, name: string): Promise<HoldCounts> {
  return pod(context, 'web').program.ask<HoldCounts>({ kind: 'hold-counts', name });
}

function holdStop(context: StoryContext, name: string): Promise<HoldCounts> {
  return pod(context, 'web').program.ask<HoldCounts>({ kind: 'hold-stop', name });
}

function describeLoad(counts: LoadCounts): string {
  const slowest = Math.round(counts.slowestMs);
  return `${counts.failed} of ${counts.sent} new connections failed (slowest ${slowest} ms)`;
}

/** Runs `act` under a load of new connections and demands that none of them fails. */
async function underLoad(
  context: StoryContext,
  name: string,
  act: () => Promise<void>,
): Promise<string> {
  await startTraffic(context, name);
  await wait(400);
  await act();
  await wait(600);
  const counts = await stopTraffic(context, name);
  expect(counts.failed === 0, `${describeLoad(counts)}: ${counts.errors.join('; ')}`);
  return describeLoad(counts);
}

/** Waits until neither a pod's own connections nor anybody's view of the mesh is in plain text any more. */
async function untilEncrypted(context: StoryContext): Promise<number> {
  const { wire } = context;
  return until('new connections between the nodes are encrypted', 15_000, async () => {
    wire.reset();
    const answers = await Promise.all([
      probeFrom(context, 'web', CART),
      probeFrom(context, 'web', CART),
      probeFrom(context, 'web', DB),
      probeFrom(context, 'web', DB),
    ]);
    await wait(60);
    const { tunnel, plainNew } = wire.counts();
    return answers.every(({ ok }) => ok) && plainNew === 0 && tunnel > 0;
  });
}

function logLines(context: StoryContext, word: string): string[] {
  return [...context.proxies.values()].flatMap((proxy) =>
    readFileSync(proxy.logFile, 'utf8')
      .split('\n')
      .filter((line) => line.includes(word)),
  );
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
    const ms = await untilEncrypted(context);
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
    return { summary: `${load}; ${held.open} long connections go on`, details: [] };
  },
};

/** Processes of one node proxy with a role, by the command line. */
function childrenOf(proxy: NodeProxy, role: string): number[] {
  const path = `/proc/${proxy.process.pid}/task/${proxy.process.pid}/children`;
  return readFileSync(path, 'utf8')
    .trim()
    .split(' ')
    .map(Number)
    .filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(role));
}

const workerKilled: Step = {
  title: 'A worker is killed with SIGKILL under load',
  async run(context) {
    const proxy = context.proxies.get('node-b');
    if (proxy === undefined) throw new MeshError('MESH_CONFIG_INVALID', 'No proxy on node-b');
    const [victim] = childrenOf(proxy, 'worker');
    const before = await holdCounts(context, 'kept');
    const load = await underLoad(context, 'worker', async () => {
      if (victim !== undefined) process.kill(victim, 'SIGKILL');
      await wait(1000);
    });
    const after = await holdCounts(context, 'kept');
    const lost = after.lost - before.lost;
    expect(after.open > 0, 'connections of other workers were lost too');
    await holdStop(context, 'kept');
    return {
      summary: `${load}; of ${before.open} long connections the dead worker's own ${lost} ended`,
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
    return { summary: `${load}; all ${held.open} long connections are still open`, details: [] };
  },
};

const rootRotated: Step = {
  title: "The CA's root is rotated under load",
  async run(context) {
    const before = context.mesh.trustedRoots();
    let ms = 0;
    const load = await underLoad(context, 'rotation', async () => {
      context.mesh.writeManifest('mesh-config.yaml', ROTATION_MANIFEST);
      ms = await until('the new root is the only one', 20_000, () => {
        const now = context.mesh.trustedRoots();
        return now.length === 1 && now[0] !== before[0];
      });
    });
    const held = await holdCounts(context, 'upgrade');
    expect(held.lost === 0, `${held.lost} long connections were cut`);
    const after = context.mesh.trustedRoots();
    return {
      summary: `${load}; root ${before[0]?.slice(0, 12)} → ${after[0]?.slice(0, 12)} in ${Math.round(ms)} ms`,
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
