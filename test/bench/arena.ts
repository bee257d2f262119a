/**
 * Where the bench takes place: two nodes in network namespaces, one set of plain pods (for the direct path and
 * HAProxy), one set of enrolled ones, servers in them, and the subjects. Names carry the bench's process id;
 * what a killed bench left behind is removed by the next one.
 */

import { cpSync, existsSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { DemoMesh, wait } from '../../src/demo/mesh.ts';
import { killInNamespaces } from '../../src/demo/processes.ts';
import { removeNamespaces } from '../../src/demo/topology.ts';
import { loadNative } from '../../src/linux/native.ts';
import { createDirectSubject } from './direct-subject.ts';
import { createHaproxySubject } from './haproxy-subject.ts';
import { runIperf, runWrk } from './load.ts';
import {
  PROGRAM,
  buildProgram,
  createNodemeshSubject,
  startMesh,
  workerPids,
} from './nodemesh-subject.ts';
import type { BenchOptions, CaseName, SubjectName } from './options.ts';
import { startServers, type Pods, type Subject } from './subject.ts';
import { runTool } from './tools.ts';

const PREFIX = 'nmb';
const PROFILER = new URL('./profile-worker.ts', import.meta.url).pathname;
/** The logs of all processes, after a failure. */
const KEPT_LOGS = join(import.meta.dirname, 'results/log');
const MEMORY_DIR = '/dev/shm';
/** Until a subject carries its first bytes. */
const FIRST_BYTES_MS = 15_000;
const RETRY_MS = 250;
/** What a connection runs is optimised after some thousands of them. */
const WARM_UP_S = 5;

export interface Arena {
  /** Those that started. */
  readonly subjects: readonly Subject[];
  /** A subject could not run: remembered for the end. */
  fail(subject: SubjectName, what: string, error: unknown): void;
  failures(): readonly string[];
  /** Waits until the subject carries traffic on every way, and lets it run warm. */
  warmUp(subject: Subject): Promise<void>;
  /** Writes CPU profiles of a worker of each node while a case runs. */
  profile(subject: Subject, name: CaseName, dir: string): Promise<void>;
  pause(delayMs: number): Promise<void>;
  remove(): Promise<void>;
}

/** Removes namespaces, processes and folders of benches that are no more. */
function removeLeftovers(): void {
  for (const folder of ['/run/netns', tmpdir(), MEMORY_DIR]) {
    if (!existsSync(folder)) continue;
    for (const name of readdirSync(folder)) {
      const match = /^nmb(\d+)(?:-|$)/.exec(name);
      if (match === null || existsSync(`/proc/${match[1]}`)) continue;
      if (folder !== '/run/netns') rmSync(join(folder, name), { recursive: true, force: true });
      else if (existsSync(join(folder, name))) removeAll(`${PREFIX}${match[1]}`);
    }
  }
}

function removeAll(prefix: string): void {
  killInNamespaces(prefix);
  removeNamespaces(prefix);
}

/**
 * Room for a new connection per request: more ephemeral ports, above those that HAProxy listens on, and their
 * reuse while the other side waits out an old connection.
 */
const POD_SETTINGS = ['net.ipv4.ip_local_port_range=20000 65000', 'net.ipv4.tcp_tw_reuse=1'];

export async function createArena(options: BenchOptions, signal: AbortSignal): Promise<Arena> {
  removeLeftovers();
  const prefix = `${PREFIX}${process.pid}`;
  const dir = join(tmpdir(), prefix);
  const keyDir = existsSync(MEMORY_DIR) ? join(MEMORY_DIR, prefix) : '';
  process.once('exit', () => {
    removeAll(prefix);
    for (const folder of [dir, keyDir]) {
      if (folder !== '') rmSync(folder, { recursive: true, force: true });
    }
  });
  const mesh = new DemoMesh({
    native: loadNative(),
    prefix,
    dir,
    keyDir,
    program: PROGRAM,
    workers: options.workers,
    // Without it a process of ours opens no inspector for SIGUSR1.
    ...(options.profile ? { nodeFlags: ['--inspect-port=127.0.0.1:9229'] } : {}),
  });
  const proxies: Awaited<ReturnType<typeof startMesh>>['proxies'][number][] = [];
  const failures: string[] = [];
  const subjects: Subject[] = [];
  const fail = (subject: SubjectName, what: string, error: unknown): void => {
    const reason = error instanceof Error ? error.message : String(error);
    failures.push(`${subject} failed in ${what}: ${reason}`);
    rmSync(KEPT_LOGS, { recursive: true, force: true });
    cpSync(join(dir, 'log'), KEPT_LOGS, { recursive: true });
  };
  const prepare = async (pods: Pods): Promise<void> => {
    for (const pod of Object.values(pods)) {
      const done = await runTool(pod.netns, ['sysctl', '-qw', ...POD_SETTINGS], 5000, signal);
      if (done.code !== 0) throw new Error(`sysctl: ${done.stderr}`);
    }
    for (const pod of [pods.server, pods.neighbour]) startServers(pod, dir);
  };
  const start: Record<SubjectName, () => Promise<Subject>> = {
    direct: async () => createDirectSubject(plain),
    haproxy: () => createHaproxySubject(plain, options.workers, dir, 'haproxy'),
    'haproxy-full': () => createHaproxySubject(plain, options.workers, dir, 'haproxy-full'),
    async nodemesh() {
      buildProgram();
      const started = await startMesh(mesh);
      proxies.push(...started.proxies);
      await prepare(started.pods);
      return createNodemeshSubject(started.pods, started.proxies);
    },
  };

  const [nodeA, nodeB] = mesh.topology.nodes;
  if (nodeA === undefined || nodeB === undefined) throw new Error('the bench needs two nodes');
  const plain: Pods = {
    client: mesh.topology.addPod('plain-client', nodeA),
    server: mesh.topology.addPod('plain-server', nodeB),
    neighbour: mesh.topology.addPod('plain-neighbour', nodeA),
  };
  try {
    await prepare(plain);
    for (const name of options.subjects) {
      if (name === 'haproxy-full' && !options.cases.includes('newconn-16')) continue;
      signal.throwIfAborted();
      try {
        subjects.push(await start[name]());
      } catch (error) {
        fail(name, 'starting', error);
      }
    }
  } catch (error) {
    await mesh.remove();
    throw error;
  }

  /** The first try may meet a server or a route that is not there yet. */
  const retried = async (work: () => Promise<unknown>): Promise<void> => {
    const endMs = performance.now() + FIRST_BYTES_MS;
    for (;;) {
      try {
        await work();
        return;
      } catch (error) {
        if (signal.aborted || performance.now() > endMs) throw error;
        await wait(RETRY_MS);
      }
    }
  };

  return {
    subjects,
    fail,
    failures: () => failures,
    async warmUp(subject) {
      const { clientNetns: netns } = subject;
      for (const close of [false, true]) {
        const load = { connections: 16, close };
        await retried(() => runWrk(netns, subject.address('http'), load, WARM_UP_S, signal));
      }
      await retried(() => runIperf(netns, subject.address('iperf'), 2, WARM_UP_S, signal));
      await retried(() => runIperf(netns, subject.address('same-node-iperf'), 1, 1, signal));
    },
    async profile(subject, name, results) {
      if (subject.name !== 'nodemesh') return;
      const seconds = String(Math.max(1, options.seconds - 1));
      await Promise.all(
        proxies.map(async (proxy) => {
          const [worker] = workerPids(proxy);
          const file = join(results, `${name}-${proxy.node.name}.cpuprofile`);
          const args = [process.execPath, PROFILER, String(worker), seconds, file];
          const done = await runTool(proxy.node.netns, args, 120_000, signal);
          if (done.code !== 0) throw new Error(`profiler: ${done.stderr}`);
        }),
      );
    },
    pause: wait,
    remove: () => mesh.remove(),
  };
}
