/**
 * The demo's two-node mesh for end-to-end tests: real processes, namespaces, rules and tunnels, in namespaces and
 * a folder of its own, gone when the test ends however it ends. What a killed run left is removed by the next one.
 *
 * Pods: `web`, `cart-v2` and `outsider` on node-a, `cart-v1` and `db` on node-b; src/demo/actions.ts has the words
 * to make them talk.
 */

import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import type { Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { untilWire, type RunningMesh } from '../../src/demo/actions.ts';
import { startDemoMesh } from '../../src/demo/demo.ts';
import { DemoMesh, until, type MeshOptions } from '../../src/demo/mesh.ts';
import { killInNamespaces } from '../../src/demo/processes.ts';
import { removeNamespaces } from '../../src/demo/topology.ts';
import { loadNative, type Native } from '../../src/linux/native.ts';
import { reasonToSkip } from '../support/network-namespace.ts';

export const PROGRAM: string = resolve(import.meta.dirname, '../../src/bin/nodemesh.ts');

const PREFIX = 'nme';
const KEY_ROOT = '/dev/shm';
const LOG_LINES = 40;
/** Where the logs of a failed test are copied to, if anywhere. */
const LOGS_KEPT = process.env['NODEMESH_TEST_LOGS'];

/** Why a mesh cannot be made here, or false: the `skip` option of a tap test. */
export function reasonToSkipMesh(...tools: readonly string[]): string | false {
  return reasonToSkip('nft', 'nsenter', 'sysctl', ...tools);
}

export interface TestMeshOptions extends Partial<
  Pick<MeshOptions, 'workers' | 'logLevel' | 'nodeSettings' | 'controllerSettings'>
> {
  /** Whether namespace `shop` is in the mesh from the start. Default true. */
  readonly enrolled?: boolean;
  /** Further manifests that are there from the start, by file name. */
  readonly manifests?: Readonly<Record<string, string>>;
}

export interface TestMesh extends RunningMesh {
  readonly native: Native;
  readonly dir: string;
}

let meshes = 0;

/** A mesh that is up, ready, and encrypted between its nodes unless `enrolled` is false. */
export async function createTestMesh(t: Test, options: TestMeshOptions = {}): Promise<TestMesh> {
  removeLeftovers();
  const prefix = `${PREFIX}${process.pid}${String.fromCodePoint(97 + (meshes++ % 26))}`;
  const dir = join(tmpdir(), prefix);
  const native = loadNative();
  const { enrolled = true, manifests = {}, workers = 2, ...rest } = options;
  const mesh = new DemoMesh({
    native,
    prefix,
    dir,
    keyDir: existsSync(KEY_ROOT) ? join(KEY_ROOT, prefix) : '',
    program: PROGRAM,
    workers,
    ...rest,
  });
  t.teardown(async () => {
    if (!t.passing()) showLogs(t, dir);
    running?.wire.close();
    await mesh.remove();
  });
  let running: RunningMesh | undefined;
  running = await startDemoMesh(mesh, native, createSystemClock(), {
    'namespace.yaml': shopNamespace(false),
    ...manifests,
  });
  if (enrolled) {
    // Not before: a node is not ready while an enrolled pod has no network yet, and pods wait for ready nodes.
    mesh.writeManifest('namespace.yaml', shopNamespace(true));
    await untilCaptured(running, 4);
    // Peers hear that a pod is captured a moment later; until then PERMISSIVE lets them in as they are. Each
    // worker hears it for itself, and one round may not meet all of them.
    for (let round = 0; round < 3; round++) await untilWire(running, 'encrypted');
  }
  return { ...running, native, dir };
}

/** Namespace `shop` in or out of the mesh; `labels` are added as YAML, `a: b, c: d`. */
export function shopNamespace(enrolled: boolean, labels = ''): string {
  const all = [...(enrolled ? ['nodemesh.dev/mesh: enabled'] : []), ...(labels ? [labels] : [])];
  return `apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: { ${all.join(', ')} }
`;
}

/** How many pods the node proxies capture and serve, by their own readiness. */
export async function countServed({ mesh }: RunningMesh): Promise<number> {
  let served = 0;
  for (const node of mesh.topology.nodes) {
    const answer = await mesh.readiness(node);
    if (answer?.status !== 200) return -1;
    const { served: pods }: { served?: readonly string[] } = JSON.parse(answer.body);
    served += pods?.length ?? 0;
  }
  return served;
}

/** Waits until both nodes are ready and serve `count` pods between them. */
export function untilCaptured(running: RunningMesh, count: number): Promise<number> {
  return until(`${count} pods are captured and served`, 20_000, async () => {
    return (await countServed(running)) === count;
  });
}

/** Namespaces, folders and processes of test processes that are gone. */
function removeLeftovers(): void {
  const isOrphan = (name: string): boolean => {
    const pid = new RegExp(`^${PREFIX}(\\d+)[a-z]`).exec(name)?.[1];
    return pid !== undefined && !existsSync(`/proc/${pid}`);
  };
  const names = existsSync('/run/netns') ? readdirSync('/run/netns').filter(isOrphan) : [];
  for (const prefix of new Set(names.map((name) => name.slice(0, name.indexOf('-'))))) {
    killInNamespaces(prefix);
    removeNamespaces(prefix);
  }
  for (const root of [tmpdir(), KEY_ROOT]) {
    if (!existsSync(root)) continue;
    for (const name of readdirSync(root).filter(isOrphan)) {
      rmSync(join(root, name), { recursive: true, force: true });
    }
  }
}

function showLogs(t: Test, dir: string): void {
  const logs = join(dir, 'log');
  if (!existsSync(logs)) return;
  if (LOGS_KEPT !== undefined) cpSync(logs, LOGS_KEPT, { recursive: true });
  for (const name of readdirSync(logs)) {
    const lines = readFileSync(join(logs, name), 'utf8').trimEnd().split('\n');
    const last = lines.filter((line) => !line.includes('"level":20')).slice(-LOG_LINES);
    if (last.length > 0) t.comment(`${name} ends with:\n${last.join('\n')}`);
  }
}
