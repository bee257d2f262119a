/**
 * A program: fills an API server with simulated pods, starts the real controller on it with its real rights, connects
 * simulated node proxies, changes pods at a fixed rate, and prints one line of JSON with what it measured. To be run
 * where the API server is reachable: `cluster run node scale-driver.ts '{"pods":…}'`, as root.
 */

import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';

import { createSystemClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { accessObjects } from '../../src/cli/install/access.ts';
import { CONTROLLER_FLAGS, CONTROLLER_MALLOC } from '../../src/cli/install/controller.ts';
import { readCustomResources } from '../../src/cli/install/custom-resources.ts';
import type { KubeObject } from '../../src/cli/install/kube-object.ts';
import {
  createApiClient,
  MERGE_PATCH_CONTENT_TYPE,
  statusOf,
  type ApiRequest,
} from '../../src/kubernetes/api-client.ts';
import { kubeconfigCredentials } from '../../src/kubernetes/api-credentials.ts';
import { TOKEN_AUDIENCE } from '../../src/kubernetes/token-review.ts';
import { startNodes } from './scale-nodes.ts';
import {
  namespaceNames,
  nodeName,
  nodeObject,
  podObject,
  runningStatus,
  serviceObject,
  simulatedPod,
  sliceObject,
  type Json,
  type ScaleSize,
  type SimulatedPod,
} from './scale-objects.ts';

export interface ScaleOrder extends ScaleSize {
  readonly changesPerSecond: number;
  readonly seconds: number;
  /** The controller's, as it is shipped: JavaScript, not what tests run. */
  readonly program: string;
}

export interface ScaleResult {
  readonly fillSeconds: number;
  /** From the controller's start to its readiness. */
  readonly readySeconds: number;
  /** From the nodes' start until every pod is published as HBONE to all. */
  readonly enrolSeconds: number;
  readonly changes: number;
  readonly changesPerSecond: number;
  /** From sending the change to the API server to its arrival at a node, over all nodes. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  /** Pairs of change and node that never arrived. */
  readonly lost: number;
  readonly rssMiB: number;
  readonly rssPeakMiB: number;
  readonly controllerCpuSeconds: number;
  /** What the controller itself wrote to the API server meanwhile, per second. */
  readonly controllerWritesPerSecond: number;
  /** This program's own, which is in the latencies. */
  readonly driverLoopP99Ms: number;
}

const SYSTEM = 'nodemesh-system';
const WRITERS = 24;
const SETTLE_LIMIT_MS = 240_000;

const clock = createSystemClock();
const order = JSON.parse(process.argv[2] ?? '{}') as ScaleOrder;
const credentials = await kubeconfigCredentials(process.env['KUBECONFIG'] ?? '', clock);
const api = createApiClient({ clock, credentials });
const folder = mkdtempSync(join(tmpdir(), 'nodemesh-scale-'));

let ownWrites = 0;

async function call(request: ApiRequest): Promise<Json> {
  if (request.method !== undefined) ownWrites++;
  return (unwrap(await api.request({ timeoutMs: 60_000, ...request })) ?? {}) as Json;
}

/** What is there already is fine. */
async function create(path: string, body: Json): Promise<void> {
  ownWrites++;
  const answer = await api.request({ method: 'POST', path, body, timeoutMs: 60_000 });
  if (!answer.ok && statusOf(answer.error) !== 409) throw answer.error;
}

async function inParallel<T>(
  items: Iterable<T>,
  act: (item: T) => Promise<unknown>,
): Promise<void> {
  const iterator = items[Symbol.iterator]();
  const work = async (): Promise<void> => {
    for (let next = iterator.next(); next.done !== true; next = iterator.next())
      await act(next.value);
  };
  await Promise.all(Array.from({ length: WRITERS }, work));
}

function pathOf({ apiVersion, kind, metadata }: KubeObject): string {
  const root = apiVersion.includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  const { namespace } = metadata;
  return `${root}${namespace === undefined ? '' : `/namespaces/${namespace}`}/${kind.toLowerCase()}s`;
}

function podsPath(namespace: string): string {
  return `/api/v1/namespaces/${namespace}/pods`;
}

async function makePod(pod: SimulatedPod): Promise<void> {
  await create(podsPath(pod.namespace), podObject(pod));
}

async function runPod({ namespace, name, ip }: SimulatedPod): Promise<void> {
  await call({
    method: 'PATCH',
    path: `${podsPath(namespace)}/${name}/status`,
    contentType: MERGE_PATCH_CONTENT_TYPE,
    body: runningStatus(ip),
  });
}

async function fill(pods: readonly SimulatedPod[]): Promise<void> {
  for (const name of [SYSTEM, ...namespaceNames()]) {
    const labels = name === SYSTEM ? {} : { 'nodemesh.dev/mesh': 'enabled' };
    await create('/api/v1/namespaces', { metadata: { name, labels } });
    // Nobody makes it here: the programs that would are not running.
    await create(`/api/v1/namespaces/${name}/serviceaccounts`, { metadata: { name: 'default' } });
  }
  for (const object of [...readCustomResources(), ...accessObjects('0')]) {
    await create(pathOf(object), object);
  }
  const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
  await inParallel(numbers(order.nodes), (i) => create('/api/v1/nodes', nodeObject(i)));
  await inParallel(numbers(order.services), async (i) => {
    const namespace = `/namespaces/app-${i % namespaceNames().length}`;
    await create(`/api/v1${namespace}/services`, serviceObject(i));
    const own = pods.filter(({ name }) => name.startsWith(`svc-${i}-`));
    await create(`/apis/discovery.k8s.io/v1${namespace}/endpointslices`, sliceObject(i, own));
  });
  await inParallel(pods, async (pod) => {
    await makePod(pod);
    await runPod(pod);
  });
}

/** A token as the kubelet would project it into the node proxy's pod. */
async function nodeToken(index: number): Promise<string> {
  const name = `nodemesh-node-${index}`;
  const pod = {
    metadata: { name, namespace: SYSTEM },
    spec: {
      nodeName: nodeName(index),
      hostNetwork: true,
      serviceAccountName: 'nodemesh-node',
      automountServiceAccountToken: false,
      containers: [{ name: 'main', image: 'nodemesh.test/none:1' }],
    },
  };
  await create(podsPath(SYSTEM), pod);
  const { metadata } = (await call({ path: `${podsPath(SYSTEM)}/${name}` })) as {
    metadata?: { uid?: string };
  };
  return accountToken('nodemesh-node', {
    audiences: [TOKEN_AUDIENCE],
    boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name, uid: metadata?.uid },
  });
}

async function accountToken(account: string, spec: Json): Promise<string> {
  const path = `/api/v1/namespaces/${SYSTEM}/serviceaccounts/${account}/token`;
  const answer = await call({ method: 'POST', path, body: { spec } });
  return (answer['status'] as { token: string }).token;
}

/** The real program with the rights of its role, as in a pod. */
async function startController(): Promise<ChildProcess> {
  const secrets = join(folder, 'account');
  mkdirSync(secrets);
  writeFileSync(join(secrets, 'token'), await accountToken('nodemesh-controller', {}));
  const { tls } = await credentials.access();
  writeFileSync(join(secrets, 'ca.crt'), String(tls.ca));
  const mounted = '/var/run/secrets/kubernetes.io/serviceaccount';
  const script = [
    'mount --make-rprivate /',
    'mount -t tmpfs tmpfs /run',
    `mkdir -p ${mounted}`,
    `mount --bind ${secrets} ${mounted}`,
    `exec ${process.execPath} ${CONTROLLER_FLAGS.join(' ')} ${order.program} controller`,
  ].join(' && ');
  const log = openSync(join(folder, 'controller.log'), 'w');
  return spawn('unshare', ['--mount', 'sh', '-c', script], {
    stdio: ['ignore', log, log],
    env: {
      PATH: process.env['PATH'],
      KUBERNETES_SERVICE_HOST: credentials.server.hostname,
      KUBERNETES_SERVICE_PORT: credentials.server.port,
      NODEMESH_STATE_DIR: join(folder, 'state'),
      NODEMESH_POD_NAME: 'scale',
      ...CONTROLLER_MALLOC,
    },
  });
}

function memoryOf(pid: number): { rssMiB: number; peakMiB: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const read = (name: string): number =>
    Math.round(
      Number(
        new Map(status.split('\n').map((line) => line.split(':\t') as [string, string]))
          .get(name)
          ?.trim()
          .split(' ')[0],
      ) / 1024,
    );
  return { rssMiB: read('VmRSS'), peakMiB: read('VmHWM') };
}

function cpuSecondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<number> {
  const startMs = performance.now();
  while (!(await holds())) {
    if (performance.now() - startMs > SETTLE_LIMIT_MS) throw new Error(`Never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return (performance.now() - startMs) / 1000;
}

async function isReady(): Promise<boolean> {
  return fetch('http://127.0.0.1:15021/healthz/ready').then(
    ({ ok }) => ok,
    () => false,
  );
}

/** Latencies of changes under way: one at a time per workload. */
class Latencies {
  readonly #sinceMs = new Map<string, number>();
  readonly #missing = new Map<string, Set<number>>();
  readonly values: number[] = [];
  readonly #nodes: number;

  constructor(nodes: number) {
    this.#nodes = nodes;
  }

  begin(uid: string): void {
    this.#sinceMs.set(uid, performance.now());
    this.#missing.set(uid, new Set(Array.from({ length: this.#nodes }, (_, i) => i)));
  }

  heard(node: number, uid: string): void {
    const missing = this.#missing.get(uid);
    if (missing?.delete(node) !== true) return;
    this.values.push(performance.now() - (this.#sinceMs.get(uid) ?? 0));
    if (missing.size > 0) return;
    this.#missing.delete(uid);
    this.#sinceMs.delete(uid);
  }

  isPending(uid: string): boolean {
    return this.#missing.has(uid);
  }

  get lost(): number {
    let count = 0;
    for (const missing of this.#missing.values()) count += missing.size;
    return count;
  }
}

function workloadUid({ namespace, name }: SimulatedPod): string {
  return `Kubernetes//Pod/${namespace}/${name}`;
}

async function measure(): Promise<ScaleResult> {
  const live = Array.from({ length: order.pods }, (_, i) => simulatedPod(i, order));
  let made = order.pods;
  const fillStartMs = performance.now();
  await fill(live);
  const tokens = new Map<string, string>();
  await inParallel(
    Array.from({ length: order.nodes }, (_, i) => i),
    async (i) => void tokens.set(nodeName(i), await nodeToken(i)),
  );
  const fillSeconds = (performance.now() - fillStartMs) / 1000;
  const controller = await startController();
  const pid = controller.pid ?? 0;
  try {
    const readySeconds = await until('the controller is ready', isReady);
    const rootFile = join(folder, 'root.pem');
    const roots = await call({ path: `/api/v1/namespaces/${SYSTEM}/configmaps/nodemesh-root` });
    writeFileSync(rootFile, (roots['data'] as Record<string, string>)['root-cert.pem'] ?? '');
    const latencies = new Latencies(order.nodes);
    const name = 'nodemesh-controller.nodemesh-system.svc';
    const nodes = startNodes({
      clock,
      controller: { host: '127.0.0.1', port: 15_012, name, rootFile },
      tokens,
      onHeard: (node, uid) => latencies.heard(node, uid),
    });
    const wanted = order.pods + order.services;
    let quietSince = 0;
    let seen = 0;
    const enrolSeconds = await until('all nodes have everything', () => {
      if (nodes.updates() !== seen) quietSince = performance.now();
      seen = nodes.updates();
      const complete = nodes.held().every((count) => count >= wanted);
      return complete && nodes.tunnelled() >= order.pods && performance.now() - quietSince > 3_000;
    });
    const loop = monitorEventLoopDelay({ resolution: 10 });
    loop.enable();
    const cpuBefore = cpuSecondsOf(pid);
    const versionBefore = await lastVersion();
    ownWrites = 0;
    const startMs = performance.now();
    const total = order.changesPerSecond * order.seconds;
    const acts: Promise<void>[] = [];
    let changes = 0;
    for (let i = 0; i < total; i++) {
      const dueMs = startMs + (i * 1000) / order.changesPerSecond;
      const waitMs = dueMs - performance.now();
      if (waitMs > 1) await new Promise((resolve) => setTimeout(resolve, waitMs));
      acts.push(change(i, live, latencies, () => simulatedPod(made++, order)));
      changes++;
    }
    await Promise.all(acts);
    const tookSeconds = (performance.now() - startMs) / 1000;
    const versionAfter = await lastVersion();
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    const { rssMiB, peakMiB } = memoryOf(pid);
    const controllerCpuSeconds = cpuSecondsOf(pid) - cpuBefore;
    loop.disable();
    const { values } = latencies;
    values.sort((a, b) => a - b);
    const at = (share: number): number =>
      Math.round(values[Math.floor(values.length * share)] ?? 0);
    await nodes.stop();
    return {
      fillSeconds: Math.round(fillSeconds),
      readySeconds: Math.round(readySeconds * 10) / 10,
      enrolSeconds: Math.round(enrolSeconds * 10) / 10,
      changes,
      changesPerSecond: Math.round(changes / tookSeconds),
      p50Ms: at(0.5),
      p99Ms: at(0.99),
      maxMs: Math.round(values.at(-1) ?? 0),
      lost: latencies.lost,
      rssMiB,
      rssPeakMiB: peakMiB,
      controllerCpuSeconds: Math.round(controllerCpuSeconds * 10) / 10,
      controllerWritesPerSecond: Math.round(
        (versionAfter - versionBefore - ownWrites) / tookSeconds,
      ),
      driverLoopP99Ms: Math.round(loop.percentile(99) / 1e6),
    };
  } finally {
    controller.kill('SIGTERM');
    await new Promise((resolve) => controller.once('exit', resolve));
  }
}

/** Of the whole store: its difference counts all writes. */
async function lastVersion(): Promise<number> {
  const { metadata } = (await call({ path: '/api/v1/namespaces' })) as {
    metadata?: { resourceVersion?: string };
  };
  return Number(metadata?.resourceVersion ?? 0);
}

/** Most pods change in place; of the rest half end and half are new. */
async function change(
  index: number,
  live: SimulatedPod[],
  latencies: Latencies,
  nextPod: () => SimulatedPod,
): Promise<void> {
  const kind = index % 20;
  if (kind < 3) {
    const pod = nextPod();
    await makePod(pod);
    latencies.begin(workloadUid(pod));
    await runPod(pod);
    live.push(pod);
    return;
  }
  const at = (index * 7919) % live.length;
  const pod = live[at];
  if (pod === undefined || latencies.isPending(workloadUid(pod))) return;
  const path = `${podsPath(pod.namespace)}/${pod.name}`;
  latencies.begin(workloadUid(pod));
  if (kind < 6) {
    live.splice(at, 1);
    await call({ method: 'DELETE', path, query: { gracePeriodSeconds: '0' } });
    return;
  }
  const labels = { 'service.istio.io/canonical-revision': `r${index}` };
  const body = { metadata: { labels } };
  await call({ method: 'PATCH', path, contentType: MERGE_PATCH_CONTENT_TYPE, body });
}

try {
  process.stdout.write(`${JSON.stringify(await measure())}\n`);
} catch (error) {
  const log = readFileSync(join(folder, 'controller.log'), { encoding: 'utf8', flag: 'a+' });
  process.stderr.write(`${String(error)}\n${log.split('\n').slice(-15).join('\n')}\n`);
  process.exitCode = 1;
} finally {
  api[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
}
process.exit();
