/**
 * What one does to a running mesh and what one looks at: probes, loads and long connections from its pods, its
 * processes, its logs, what crosses its wire. The story and the end-to-end tests are written in these words.
 */

import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

import { MeshError } from '../base/errors.ts';
import { until, wait, type DemoMesh, type MeshPod, type NodeProxy } from './mesh.ts';
import type { HoldCounts, LoadCounts, ProbeResult, Target } from './traffic.ts';
import type { Wire } from './wire.ts';

export interface RunningMesh {
  readonly mesh: DemoMesh;
  readonly wire: Wire;
  readonly pods: ReadonlyMap<string, MeshPod>;
  /** Node proxies by node name; an upgrade replaces them. */
  readonly proxies: Map<string, NodeProxy>;
}

export const CART: Target = { host: '10.96.0.10', port: 80, protocol: 'http' };
export const DB: Target = { host: '10.96.0.20', port: 5432, protocol: 'db' };
export const LOAD_PER_SECOND = 20;
export const LONG_CONNECTIONS = 20;
const PROBE_TIMEOUT_MS = 5000;
const OPENING_MS = 10_000;
/** TCP_ESTABLISHED, as /proc/net/tcp writes it. */
const ESTABLISHED = '01';

/** Throws what was seen, unless it was as it should be. */
export function expect(ok: boolean, saw: string): void {
  if (!ok) throw new MeshError('MESH_COMMAND_FAILED', saw);
}

export function podNamed(running: RunningMesh, name: string): MeshPod {
  const found = running.pods.get(name);
  if (found === undefined) throw new MeshError('MESH_CONFIG_INVALID', `No pod "${name}"`);
  return found;
}

export function proxyOn(running: RunningMesh, node: string): NodeProxy {
  const proxy = running.proxies.get(node);
  if (proxy === undefined) throw new MeshError('MESH_CONFIG_INVALID', `No proxy on "${node}"`);
  return proxy;
}

/** One new connection from a pod. */
export function probeFrom(
  running: RunningMesh,
  from: string,
  target: Target,
  timeoutMs: number = PROBE_TIMEOUT_MS,
): Promise<ProbeResult> {
  const command = { kind: 'probe', target, timeoutMs } as const;
  return podNamed(running, from).program.ask<ProbeResult>(command);
}

export interface Traffic {
  readonly from?: string;
  readonly targets?: readonly Target[];
  readonly perSecond?: number;
  readonly timeoutMs?: number;
}

/** New connections at a steady rate; by default 20 a second from `web`, to `cart` and `db` in turn. */
export async function startTraffic(
  running: RunningMesh,
  name: string,
  traffic: Traffic = {},
): Promise<void> {
  const { from = 'web', targets = [CART, DB], perSecond = LOAD_PER_SECOND } = traffic;
  const { timeoutMs = PROBE_TIMEOUT_MS } = traffic;
  const { program } = podNamed(running, from);
  await program.ask({ kind: 'load', name, targets, perSecond, timeoutMs });
}

export function stopTraffic(running: RunningMesh, name: string, from = 'web'): Promise<LoadCounts> {
  return podNamed(running, from).program.ask<LoadCounts>({ kind: 'load-stop', name });
}

export interface LongConnections {
  readonly from?: string;
  readonly target?: Target;
  readonly count?: number;
}

/** Opens long connections, by default 20 from `web` to `db`, and waits until each has exchanged something. */
export async function holdOpen(
  running: RunningMesh,
  name: string,
  { from = 'web', target = DB, count = LONG_CONNECTIONS }: LongConnections = {},
): Promise<void> {
  await podNamed(running, from).program.ask({ kind: 'hold', name, target, count });
  await until(`${count} long connections are open`, OPENING_MS, async () => {
    const { open, exchanged } = await holdCounts(running, name, from);
    return open === count && exchanged >= count;
  });
}

export function holdCounts(running: RunningMesh, name: string, from = 'web'): Promise<HoldCounts> {
  return podNamed(running, from).program.ask<HoldCounts>({ kind: 'hold-counts', name });
}

export function holdStop(running: RunningMesh, name: string, from = 'web'): Promise<HoldCounts> {
  return podNamed(running, from).program.ask<HoldCounts>({ kind: 'hold-stop', name });
}

export function describeLoad(counts: LoadCounts): string {
  const slowest = Math.round(counts.slowestMs);
  return `${counts.failed} of ${counts.sent} new connections failed (slowest ${slowest} ms)`;
}

/** Now, in the same milliseconds as `LoadCounts.failedStartsMs`. */
export function epochMs(): number {
  return performance.timeOrigin + performance.now();
}

/**
 * Runs `act` under a load of new connections and demands that none of them fails, but for those that `act` cut:
 * it answers when it killed what carried them, and connections that had begun by then are not counted.
 */
export async function underLoad(
  running: RunningMesh,
  name: string,
  act: () => Promise<number | void>,
  traffic: Traffic = {},
): Promise<LoadCounts> {
  await startTraffic(running, name, traffic);
  await wait(400);
  const killedMs = (await act()) ?? 0;
  await wait(600);
  const all = await stopTraffic(running, name, traffic.from);
  const counts = { ...all, failed: all.failedStartsMs.filter((ms) => ms > killedMs).length };
  expect(counts.failed === 0, `${describeLoad(counts)}: ${counts.errors.join('; ')}`);
  return counts;
}

/**
 * Waits until new connections from `web` to the other node are all in tunnels, or all in plain text. Answers how
 * long it took, in milliseconds.
 */
export function untilWire(running: RunningMesh, wanted: 'encrypted' | 'plain'): Promise<number> {
  const { wire } = running;
  return until(`new connections between the nodes are ${wanted}`, 15_000, async () => {
    wire.reset();
    const targets = [CART, CART, DB, DB];
    const answers = await Promise.all(targets.map((target) => probeFrom(running, 'web', target)));
    await wait(60);
    const { tunnel, plainNew, plainConnections } = wire.counts();
    if (!answers.every(({ ok }) => ok)) return false;
    // Both connections to db cross the wire; those to cart may stay on the node.
    return wanted === 'encrypted' ? plainNew === 0 && tunnel > 0 : plainConnections >= 2;
  });
}

/** Process ids of a node proxy's children with a role. */
export function childrenOf(proxy: NodeProxy, role: 'agent' | 'worker'): number[] {
  const path = `/proc/${proxy.process.pid}/task/${proxy.process.pid}/children`;
  const pids = readFileSync(path, 'utf8').trim().split(' ').filter(Boolean).map(Number);
  return pids.filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(role);
    } catch {
      return false;
    }
  });
}

/** Sockets of process `pid` that are connected to `port` and live in the network namespace of `pod`. */
export function countConnections(pid: number, pod: MeshPod, port: number): number {
  const own = new Set<string>();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
      if (inode !== undefined) own.add(inode);
    } catch {
      // Closed since it was listed.
    }
  }
  const remotePort = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const isOwn = (line: string): boolean => {
    const [, , remote = '', state, , , , , , inode = ''] = line.trim().split(/\s+/);
    return state === ESTABLISHED && remote.endsWith(remotePort) && own.has(inode);
  };
  const { pid: inside } = pod.program.process;
  return ['tcp', 'tcp6'].reduce((count, table) => {
    const lines = readFileSync(`/proc/${inside}/net/${table}`, 'utf8').split('\n');
    return count + lines.filter(isOwn).length;
  }, 0);
}

/** Lines of the present node proxies' logs that contain `word`. */
export function logLines(running: RunningMesh, word: string): string[] {
  return [...running.proxies.values()].flatMap((proxy) => linesOf(proxy, word));
}

export function linesOf(proxy: NodeProxy, word: string): string[] {
  const lines = readFileSync(proxy.logFile, 'utf8').split('\n');
  return lines.filter((line) => line.includes(word));
}
