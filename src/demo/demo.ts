/**
 * `nodemesh demo`: brings up the two-node mesh, tells the story with its proofs, and stays up for playing with
 * (or, with `once`, cleans up and says whether every promise was kept). Whatever ends it, nothing stays behind.
 */

import { cpSync } from 'node:fs';
import { join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import type { IpAddress } from '../core/address.ts';
import type { Native } from '../linux/native.ts';
import { DemoMesh, wait, type MeshPod, type MeshPodOptions, type NodeProxy } from './mesh.ts';
import type { RunningMesh } from './actions.ts';
import { STORY } from './story.ts';
import { WAYPOINT_STORY } from './waypoint-story.ts';
import { openWire } from './wire.ts';

export interface DemoOptions {
  readonly native: Native;
  readonly clock: Clock;
  readonly dir: string;
  readonly keyDir: string;
  readonly program: string;
  readonly prefix: string;
  readonly once: boolean;
  readonly print: (line: string) => void;
  /** Resolves when the user wants to leave. */
  readonly interrupted: Promise<void>;
}

const uid = (number: number): string => `00000000-0000-4000-8000-00000000000${number}`;
export const DEMO_PODS: readonly MeshPodOptions[] = [
  {
    name: 'web',
    namespace: 'shop',
    uid: uid(1),
    node: 'node-a',
    host: 10,
    args: ['v1', '8080', 'http'],
  },
  {
    name: 'cart-v1',
    namespace: 'shop',
    uid: uid(2),
    node: 'node-b',
    host: 10,
    args: ['v1', '8080', 'http'],
  },
  {
    name: 'cart-v2',
    namespace: 'shop',
    uid: uid(3),
    node: 'node-a',
    host: 11,
    args: ['v2', '8080', 'http'],
  },
  {
    name: 'db',
    namespace: 'shop',
    uid: uid(4),
    node: 'node-b',
    host: 11,
    args: ['v1', '5432', 'db'],
  },
  { name: 'outsider', namespace: 'outside', uid: uid(5), node: 'node-a', host: 12, args: ['v1'] },
];

/**
 * Brings up controller, node proxies, pods and service addresses; the story starts from here. `manifests` (file
 * name → text) are there from the start, beside the demo's own or instead of those with the same name.
 */
export async function startDemoMesh(
  mesh: DemoMesh,
  native: Native,
  clock: Clock,
  manifests: Readonly<Record<string, string>> = {},
): Promise<RunningMesh> {
  cpSync(join(import.meta.dirname, 'manifests'), mesh.manifests, { recursive: true });
  for (const [name, text] of Object.entries(manifests)) mesh.writeManifest(name, text);
  await mesh.startController();
  const proxies = new Map<string, NodeProxy>();
  for (const node of mesh.topology.nodes) proxies.set(node.name, mesh.startNode(node.name));
  await Promise.all([...proxies.values()].map((proxy) => mesh.waitReady(proxy)));
  const started = await Promise.all(DEMO_PODS.map((pod) => mesh.startPod(pod)));
  const pods = new Map<string, MeshPod>();
  for (const [index, { name }] of DEMO_PODS.entries()) {
    const pod = started[index];
    if (pod !== undefined) pods.set(name, pod);
  }
  const at = (name: string, port: number): { ip: IpAddress; port: number }[] => {
    const pod = pods.get(name);
    return pod === undefined ? [] : [{ ip: pod.place.ip, port }];
  };
  const cart = [...at('cart-v1', 8080), ...at('cart-v2', 8080)];
  mesh.topology.setServices([
    { vip: '10.96.0.10' as IpAddress, port: 80, endpoints: cart },
    { vip: '10.96.0.20' as IpAddress, port: 5432, endpoints: at('db', 5432) },
    { vip: '10.96.0.30' as IpAddress, port: 80, endpoints: at('web', 8080) },
  ]);
  return {
    mesh,
    wire: openWire(native, clock, { netns: mesh.topology.hub.netns, device: 'n1' }),
    pods,
    proxies,
  };
}

const INTERRUPT_MS = 50;
/** As a shell would say it of a program that SIGINT ended. */
const INTERRUPTED = 130;

/** The exit code: 0 when every step showed its proof. */
export async function runDemoStory(options: DemoOptions): Promise<number> {
  const { print } = options;
  const startMs = options.clock.nowMs();
  const seconds = (): string => `${((options.clock.nowMs() - startMs) / 1000).toFixed(1)} s`;
  print('nodemesh demo: two nodes, five pods, a waypoint, a controller, all on this machine');
  const mesh = new DemoMesh({
    native: options.native,
    prefix: options.prefix,
    dir: options.dir,
    keyDir: options.keyDir,
    program: options.program,
    workers: 2,
  });
  let failed = 0;
  let left = false;
  let told = false;
  const leaving = options.interrupted.then(() => {
    left = true;
    return undefined;
  });
  try {
    const context = await startDemoMesh(mesh, options.native, options.clock);
    print(`   up after ${seconds()}: node-a (web, cart-v2, outsider), node-b (cart-v1, db)`);
    const story = [...STORY, ...WAYPOINT_STORY];
    for (const [index, step] of story.entries()) {
      print(`\n${index + 1}. ${step.title}`);
      try {
        const running = step.run(context);
        // Who leaves does not wait for its end, nor hear how it fails without its processes.
        running.catch(() => {});
        const proof = await Promise.race([running, leaving]);
        if (proof === undefined) break;
        print(`   ✓ ${proof.summary}`);
        for (const detail of proof.details) print(`     ${detail}`);
      } catch (error) {
        // A terminal's Ctrl-C reaches every process of the mesh: what fails then fails for that.
        await wait(INTERRUPT_MS);
        if (left) break;
        failed++;
        print(`   ✗ ${error instanceof Error ? error.message : String(error)}`);
        break;
      }
    }
    if (left) return INTERRUPTED;
    told = true;
    const result = failed === 0 ? `all ${story.length} promises kept` : 'a promise was not kept';
    print(`\n${result}, ${seconds()}`);
    if (failed > 0 && !options.once)
      print(`   logs are in ${join(options.dir, 'log')} until the demo ends`);
    if (!options.once) {
      printPlayground(options, context);
      await options.interrupted;
    }
  } catch (error) {
    if (!left) throw error;
  } finally {
    if (left) print('\nRemoving everything');
    await mesh.remove();
  }
  if (!told) return INTERRUPTED;
  return failed === 0 ? 0 : 1;
}

function printPlayground(options: DemoOptions, context: RunningMesh): void {
  const { print, dir } = options;
  const web = context.pods.get('web')?.place.netns.split('/').at(-1) ?? '';
  const hub = context.mesh.topology.hub.netns.split('/').at(-1) ?? '';
  print('\nThe mesh stays up. Try, in another terminal:');
  print(`   ip netns exec ${web} curl -s 10.96.0.10      # web → cart, v1 or v2`);
  print(`   ip netns exec ${hub} tcpdump -ni mesh0 -A    # what crosses between the nodes`);
  print(`   ip netns exec ${hub} curl -s 172.31.0.11:15020/metrics | grep istio_tcp`);
  print(`   ip netns exec ${hub} curl -s 172.31.0.11:15021/healthz/ready`);
  print(`   edit ${join(dir, 'manifests')}/*.yaml          # applied as you save`);
  print(`   tail -f ${join(dir, 'log')}/*.log`);
  print('Ctrl-C ends it and removes everything.');
}
