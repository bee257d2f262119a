/**
 * How tests reach a cluster: the project's own by its id (`CLUSTER_ID`, see `test/cluster/cluster`), or any other by
 * `KUBECONFIG`. The own one also lets itself be looked at and be broken: nodes entered, parts stopped, wires captured.
 */

import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export const CLUSTER_PROGRAM: string = join(import.meta.dirname, 'cluster');
const OUTPUT_MAX_BYTES = 64 * 1024 * 1024;
const KUBECTL_TIMEOUT_MS = 120_000;

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface RunOptions {
  readonly input?: string;
  readonly timeoutMs?: number;
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs a program to its end; a code other than 0 is an answer, not an error. */
export function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Ran> {
  const { input = '', timeoutMs = KUBECTL_TIMEOUT_MS, env = {} } = options;
  return new Promise((resolve) => {
    const settings = {
      encoding: 'utf8',
      maxBuffer: OUTPUT_MAX_BYTES,
      timeout: timeoutMs,
      env: { ...process.env, ...env },
    } as const;
    const child = execFile(program, args, settings, (error, out, err) => {
      const code = typeof error?.code === 'number' ? error.code : error === null ? 0 : -1;
      resolve({ code, out, err: error === null || code > 0 ? err : `${err}${error.message}` });
    });
    // Whoever ends before it has read everything says so by its exit code.
    child.stdin?.on('error', () => {});
    child.stdin?.end(input);
  });
}

export interface OwnCluster {
  readonly id: string;
  readonly dir: string;
  /** Name of the network namespace that holds the control plane and the wire between the nodes. */
  readonly hub: string;
  readonly kubeconfig: string;
  /** Folder of kubectl and the other programs of Kubernetes. */
  readonly programs: string;
  /** `cluster ARGS`: throws with what it said when it fails. */
  tool(...args: readonly string[]): Promise<string>;
}

export interface ClusterAccess {
  /** Undefined when the cluster is somebody else's. */
  readonly own: OwnCluster | undefined;
  kubectl(args: readonly string[], options?: RunOptions): Promise<Ran>;
  /** Runs a program where the API server is reachable, with KUBECONFIG in its environment. */
  run(program: string, args: readonly string[], options?: RunOptions): Promise<Ran>;
  /** Starts a program of a running container, connected to us by its standard streams. */
  startInPod(place: PodPlace, command: readonly string[]): Promise<ChildProcess>;
}

export interface PodPlace {
  readonly namespace: string;
  readonly pod: string;
  /** Default: the first container. */
  readonly container?: string;
}

interface PodStatus {
  readonly status?: {
    readonly containerStatuses?: readonly {
      readonly name: string;
      readonly containerID?: string;
    }[];
  };
}

/** The first process of a container of the own cluster, as this machine counts it. */
export async function processOf(access: ClusterAccess, place: PodPlace): Promise<number> {
  const args = ['-n', place.namespace, 'get', 'pod', place.pod, '-o', 'json'];
  const got = await access.kubectl(args);
  if (got.code !== 0) throw new Error(got.err);
  const statuses = (JSON.parse(got.out) as PodStatus).status?.containerStatuses ?? [];
  const status = statuses.find(({ name }) => name === (place.container ?? statuses[0]?.name));
  const container = status?.containerID?.replace(/^.*\/\//, '');
  if (container === undefined) throw new Error(`Pod "${place.pod}" has no running container`);
  for (const path of globSync('/proc/[0-9]*/cgroup')) {
    let text = '';
    try {
      text = readFileSync(path, 'utf8');
    } catch {
      continue; // It ended meanwhile.
    }
    if (text.includes(container)) return Number(path.split('/')[2]);
  }
  throw new Error(`No process of pod "${place.pod}" on this machine`);
}

function ownCluster(id: string): OwnCluster {
  const env = { ...process.env, CLUSTER_ID: id };
  const paths = JSON.parse(execFileSync(CLUSTER_PROGRAM, ['paths'], { env, encoding: 'utf8' })) as {
    dir: string;
    hub: string;
    cache: string;
    kubeconfig: string;
  };
  const { dir, hub, kubeconfig, cache: programs } = paths;
  return {
    id,
    dir,
    hub,
    kubeconfig,
    programs,
    async tool(...args) {
      const done = await run(CLUSTER_PROGRAM, args, {
        env: { CLUSTER_ID: id },
        timeoutMs: 300_000,
      });
      if (done.code !== 0) throw new Error(`cluster ${args.join(' ')}: ${done.err}`);
      return done.out;
    },
  };
}

/** The cluster with this id, which is up. */
export function accessOwnCluster(id: string): ClusterAccess {
  const own = ownCluster(id);
  const path = `${own.programs}:${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
  // As `cluster run` does, without the shell: a test asks hundreds of times.
  const inCluster = (program: string, args: readonly string[], options: RunOptions = {}) => {
    const env = { ...options.env, KUBECONFIG: own.kubeconfig, PATH: path };
    const enter = [`--net=/run/netns/${own.hub}`, program];
    return run('nsenter', [...enter, ...args], { ...options, env });
  };
  const access: ClusterAccess = {
    own,
    run: inCluster,
    kubectl: (args, options) => inCluster('kubectl', args, options),
    async startInPod(place, command) {
      // Not by `kubectl exec`: this line must outlive the API server. It dies with the test, being no daemon.
      const pid = String(await processOf(access, place));
      const enter = ['--pdeathsig', 'KILL', 'nsenter', '-t', pid, '-m', '-n', '-u', '-i'];
      return spawn('setpriv', [...enter, ...command], {
        stdio: ['pipe', 'pipe', 'inherit'],
        env: { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' },
      });
    },
  };
  return access;
}

/** The cluster that `KUBECONFIG` and `kubectl` of this machine speak to. */
export function accessByKubeconfig(): ClusterAccess {
  return {
    own: undefined,
    run,
    kubectl: (args, options) => run('kubectl', args, options),
    async startInPod({ namespace, pod, container }, command) {
      const which = container === undefined ? [] : ['-c', container];
      const args = ['-n', namespace, 'exec', '-i', pod, ...which, '--', ...command];
      return spawn('kubectl', args, { stdio: ['pipe', 'pipe', 'inherit'] });
    },
  };
}

/** Why there can be no cluster here, or undefined. */
export function reasonAgainstCluster(): string | undefined {
  if (process.env['KUBECONFIG'] !== undefined) return undefined;
  const said = execFileSync(CLUSTER_PROGRAM, ['reason'], { encoding: 'utf8' }).trim();
  return said === '' ? undefined : said;
}
