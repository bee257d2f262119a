/**
 * The two-node mesh of the demo and of the end-to-end tests: a controller on a folder of manifests, node
 * proxies on the nodes of a `Topology`, and pods announced to their node as a CNI would announce them. Every
 * part is the product's own program in its own process; only the network and the pods' programs are the demo's.
 */

import { X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync, existsSync } from 'node:fs';
import { get } from 'node:http';
import { Socket } from 'node:net';
import { join } from 'node:path';

import { MeshError } from '../base/errors.ts';
import { openNamespace } from '../linux/namespaces.ts';
import type { Native } from '../linux/native.ts';
import { createConnector } from '../linux/sockets.ts';
import { killInNamespaces, startPodProcess, startProcess } from './processes.ts';
import type { DemoProcess, PodProcess } from './processes.ts';
import {
  createTopology,
  HUB_IP,
  type Topology,
  type TopologyNode,
  type TopologyPod,
} from './topology.ts';

export interface MeshOptions {
  readonly native: Native;
  /** Prefix of the namespaces, short; one mesh per prefix. */
  readonly prefix: string;
  /** Folder for manifests, state, sockets and logs; made anew. Short: socket paths are limited. */
  readonly dir: string;
  /** Memory-backed folder for keys; empty for none. */
  readonly keyDir: string;
  /** The product's program, `bin/nodemesh.ts` or its compiled form. */
  readonly program: string;
  readonly workers: number;
  /** Flags of Node for every process of the mesh. Default none. */
  readonly nodeFlags?: readonly string[];
  readonly logLevel?: 'debug' | 'info';
  /** Further settings of every node proxy, `NODEMESH_…`. */
  readonly nodeSettings?: Readonly<Record<string, string>>;
  readonly controllerSettings?: Readonly<Record<string, string>>;
}

export interface MeshPodOptions {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly node: string;
  /** Last part of its address; see topology.ts. */
  readonly host: number;
  /** Arguments of its program after the name. */
  readonly args: readonly string[];
}

export interface MeshPod {
  readonly place: TopologyPod;
  readonly program: PodProcess;
}

export interface NodeProxy {
  readonly node: TopologyNode;
  readonly generation: number;
  readonly process: DemoProcess;
  readonly logFile: string;
}

/**
 * Where Node keeps what it compiled of our sources: stripping types is more than half of what a process's start
 * costs, and the mesh starts nine. Where this cannot be written, Node goes without.
 */
const COMPILE_CACHE = join(import.meta.dirname, '../../node_modules/.cache/nodemesh');
/** Tries again when a process that was just killed still writes. */
const REMOVE = { recursive: true, force: true, maxRetries: 10, retryDelay: 50 } as const;
/** `NAMESPACE/ACCOUNT` of the demo's waypoint: the name of its Gateway. */
const WAYPOINT_ACCOUNT = 'shop/waypoint';
const READY_TIMEOUT_MS = 30_000;
const POLL_MS = 50;
const CNI_TIMEOUT_MS = 15_000;
const HTTP_TIMEOUT_MS = 2000;

export const wait = (ms: number): Promise<void> =>
  new Promise((resolve) => void setTimeout(resolve, ms));

/** Polls until `check` is true. The error says what was waited for. */
export async function until(
  what: string,
  timeoutMs: number,
  check: () => boolean | Promise<boolean>,
): Promise<number> {
  const startMs = performance.now();
  while (!(await check())) {
    if (performance.now() - startMs > timeoutMs) {
      const message = `Waited ${timeoutMs} ms in vain: ${what}`;
      throw new MeshError('MESH_DEADLINE_EXCEEDED', message);
    }
    await wait(POLL_MS);
  }
  return performance.now() - startMs;
}

export class DemoMesh {
  readonly topology: Topology;
  readonly manifests: string;
  readonly #options: MeshOptions;
  readonly #processes = new Set<DemoProcess>();
  readonly #generations = new Map<string, number>();
  controller: DemoProcess | undefined;
  #removed = false;

  constructor(options: MeshOptions) {
    this.#options = options;
    killInNamespaces(options.prefix);
    rmSync(options.dir, REMOVE);
    if (options.keyDir !== '') rmSync(options.keyDir, REMOVE);
    this.manifests = join(options.dir, 'manifests');
    mkdirSync(this.manifests, { recursive: true, mode: 0o700 });
    mkdirSync(join(options.dir, 'log'));
    mkdirSync(join(options.dir, 'trust'));
    this.topology = createTopology(options.prefix, ['node-a', 'node-b']);
    const callers = [...this.topology.nodes.map(({ name }) => name), WAYPOINT_ACCOUNT];
    const tokens = callers.map((caller) => `${caller} ${this.#token(caller)}`);
    this.#write('tokens', `${tokens.join('\n')}\n`);
  }

  #token(caller: string): string {
    return `demo-token-of-${caller}-0123456789abcdef`;
  }

  #write(path: string, text: string): void {
    writeFileSync(join(this.#options.dir, path), text, { mode: 0o600 });
  }

  logFile(name: string): string {
    return join(this.#options.dir, 'log', `${name}.log`);
  }

  /** Replaces one manifest file at once, as an operator's editor or a GitOps agent would. */
  writeManifest(name: string, text: string): void {
    const temporary = join(this.#options.dir, `.${name}.new`);
    writeFileSync(temporary, text);
    renameSync(temporary, join(this.manifests, name));
  }

  readManifest(name: string): string {
    return readFileSync(join(this.manifests, name), 'utf8');
  }

  removeManifest(name: string): void {
    rmSync(join(this.manifests, name), { force: true });
  }

  /** Whoever was still at something when the mesh was removed must not leave anything behind. */
  #assertPresent(): void {
    if (this.#removed) throw new MeshError('MESH_ABORTED', 'The mesh is being removed');
  }

  #start(netns: string, name: string, args: string[], env: Record<string, string>): DemoProcess {
    this.#assertPresent();
    const started = startProcess({
      netns,
      args: [
        '--disable-warning=ExperimentalWarning',
        ...(this.#options.nodeFlags ?? []),
        this.#options.program,
        ...args,
      ],
      env: {
        NODEMESH_LOG_LEVEL: this.#options.logLevel ?? 'info',
        ...(this.#options.program.endsWith('.ts') ? { NODE_COMPILE_CACHE: COMPILE_CACHE } : {}),
        ...env,
      },
      logFile: this.logFile(name),
      ipc: false,
    });
    this.#processes.add(started);
    void started.exited.then(() => this.#processes.delete(started));
    return started;
  }

  /** The controller lives beside the nodes, on the hub, at 172.31.0.1. */
  async startController(): Promise<void> {
    const dir = this.#options.dir;
    const root = join(dir, 'trust', 'root-cert.pem');
    this.controller = this.#start(this.topology.hub.netns, 'controller', ['controller'], {
      NODEMESH_MANIFESTS: this.manifests,
      NODEMESH_STATE_DIR: join(dir, 'controller'),
      NODEMESH_TOKENS_FILE: join(dir, 'tokens'),
      NODEMESH_CONTROLLER_NAMES: 'nodemesh-controller.nodemesh-system.svc,172.31.0.1',
      NODEMESH_ROOT_OUT: root,
      ...this.#options.controllerSettings,
    });
    let gone: number | string | undefined;
    void this.controller.exited.then((reason) => (gone = reason));
    await until('the controller writes its roots', READY_TIMEOUT_MS, () => {
      if (gone !== undefined) this.#explain('controller', `ended: ${gone}`);
      return existsSync(root);
    });
  }

  /** Throws with the end of a process's log, which is what a reader needs. */
  #explain(name: string, what: string): never {
    const log = readFileSync(this.logFile(name), 'utf8').split('\n').slice(-12).join('\n');
    throw new MeshError('MESH_COMMAND_FAILED', `${name} ${what}; its log ends with:\n${log}`);
  }

  nodeNamed(name: string): TopologyNode {
    const node = this.topology.nodes.find((candidate) => candidate.name === name);
    if (node === undefined) throw new MeshError('MESH_CONFIG_INVALID', `No node "${name}"`);
    return node;
  }

  /** Starts a node proxy; a second one on the same node is the successor of the first. */
  startNode(name: string, settings: Readonly<Record<string, string>> = {}): NodeProxy {
    const node = this.nodeNamed(name);
    const generation = (this.#generations.get(name) ?? 0) + 1;
    this.#generations.set(name, generation);
    const dir = join(this.#options.dir, name);
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    this.#write(`${name}/token`, this.#token(name));
    const logName = `${name}-${generation}`;
    const keyDir = this.#options.keyDir === '' ? '' : join(this.#options.keyDir, name);
    const process = this.#start(node.netns, logName, ['node'], {
      NODEMESH_NODE_NAME: name,
      NODEMESH_CONTROLLER: '172.31.0.1:15012',
      NODEMESH_ROOT_FILE: join(this.#options.dir, 'trust', 'root-cert.pem'),
      NODEMESH_TOKEN_FILE: join(dir, 'token'),
      NODEMESH_RUN_DIR: join(dir, 'run'),
      NODEMESH_STATE_DIR: join(dir, 'state'),
      NODEMESH_KEY_DIR: keyDir,
      NODEMESH_WORKERS: String(this.#options.workers),
      ...this.#options.nodeSettings,
      ...settings,
    });
    return { node, generation, process, logFile: this.logFile(logName) };
  }

  /**
   * A waypoint's process, in a pod network of its own that no node proxy captures. Resolves when it serves; the
   * manifests must have its pod by then, since its certificate is signed for a pod that lives.
   */
  async startWaypoint(node: string, host: number): Promise<DemoProcess> {
    const [namespace = '', account = ''] = WAYPOINT_ACCOUNT.split('/');
    const place = this.topology.addPod(account, this.nodeNamed(node), host);
    const dir = join(this.#options.dir, account);
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    this.#write(`${account}/token`, this.#token(WAYPOINT_ACCOUNT));
    const process = this.#start(place.netns, account, ['waypoint'], {
      NODEMESH_POD_NAME: account,
      NODEMESH_POD_NAMESPACE: namespace,
      NODEMESH_SERVICE_ACCOUNT: account,
      NODEMESH_CONTROLLER: `${HUB_IP}:15012`,
      NODEMESH_ROOT_FILE: join(this.#options.dir, 'trust', 'root-cert.pem'),
      NODEMESH_TOKEN_FILE: join(dir, 'token'),
      NODEMESH_RUN_DIR: join(dir, 'run'),
    });
    let gone: number | string | undefined;
    void process.exited.then((reason) => (gone = reason));
    await until('the waypoint is ready', READY_TIMEOUT_MS, async () => {
      if (gone !== undefined) this.#explain(account, `ended: ${gone}`);
      const { native } = this.#options;
      const hub = this.topology.hub.netns;
      return (await httpGet(native, hub, place.ip, 15_021, '/healthz/ready'))?.status === 200;
    });
    return process;
  }

  /** What a node proxy answers on its readiness port; undefined when nobody answers. */
  readiness(node: TopologyNode): Promise<{ status: number; body: string } | undefined> {
    const { native } = this.#options;
    return httpGet(native, this.topology.hub.netns, node.ip, 15_021, '/healthz/ready');
  }

  async waitReady(proxy: NodeProxy): Promise<number> {
    let last = 'nobody answers on port 15021';
    let gone: number | string | undefined;
    void proxy.process.exited.then((reason) => (gone = reason));
    const name = `${proxy.node.name}-${proxy.generation}`;
    try {
      return await until(`${name} is ready`, READY_TIMEOUT_MS, async () => {
        if (gone !== undefined) this.#explain(name, `ended: ${gone}`);
        const answer = await this.readiness(proxy.node);
        if (answer !== undefined) last = answer.body;
        return answer?.status === 200;
      });
    } catch (error) {
      return this.#explain(name, `is not ready (${last}): ${String(error)}`);
    }
  }

  /** Waits until a successor is ready and its predecessor no longer answers for the node. */
  async waitHandedOver(old: NodeProxy | undefined, successor: NodeProxy): Promise<void> {
    if (old !== undefined) {
      await until(`${old.node.name} is handed over`, READY_TIMEOUT_MS, () =>
        readFileSync(old.logFile, 'utf8').includes('a successor serves this node'),
      );
    }
    await this.waitReady(successor);
  }

  /** SHA-256 fingerprints of the roots the controller publishes now. */
  trustedRoots(): string[] {
    const text = readFileSync(join(this.#options.dir, 'trust', 'root-cert.pem'), 'utf8');
    const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
    return blocks.map((pem) => new X509Certificate(pem).fingerprint256.replaceAll(':', ''));
  }

  /** Makes the pod's network, announces it to its node, then starts its program: the order of a kubelet. */
  async startPod(pod: MeshPodOptions): Promise<MeshPod> {
    this.#assertPresent();
    const node = this.nodeNamed(pod.node);
    const place = this.topology.addPod(pod.name, node, pod.host);
    if (existsSync(join(this.#options.dir, node.name, 'run', 'cni'))) {
      await this.announce(pod, place);
    }
    this.#assertPresent();
    const program = await startPodProcess({
      netns: place.netns,
      args: [
        join(import.meta.dirname, `pod-process${this.#options.program.slice(-3)}`),
        pod.name,
        ...pod.args,
      ],
      env: {},
      logFile: this.logFile(`pod-${pod.name}`),
    });
    this.#processes.add(program.process);
    return { place, program };
  }

  /** The CNI's ADD: a request in the node's spool folder, answered by the node proxy. */
  async announce(pod: MeshPodOptions, place: TopologyPod): Promise<void> {
    const spool = join(this.#options.dir, place.node.name, 'run', 'cni');
    const id = `${pod.uid}-${this.#generations.get(place.node.name) ?? 0}`;
    const lines = [
      `CNI_CONTAINERID=${id}`,
      `CNI_NETNS=${place.netns}`,
      `K8S_POD_UID=${pod.uid}`,
      `K8S_POD_NAME=${pod.name}`,
      `K8S_POD_NAMESPACE=${pod.namespace}`,
      `ADDRESSES=${place.ip},${place.ip6}`,
    ];
    writeFileSync(join(spool, `.${id}`), `${lines.join('\n')}\n`, { mode: 0o600 });
    renameSync(join(spool, `.${id}`), join(spool, `${id}.add`));
    const failed = join(spool, `${id}.error`);
    await until(`the CNI request of ${pod.name} is answered`, CNI_TIMEOUT_MS, () => {
      if (existsSync(failed)) {
        const reason = readFileSync(failed, 'utf8').trim();
        throw new MeshError('MESH_COMMAND_FAILED', `CNI ADD of "${pod.name}" failed: ${reason}`);
      }
      return existsSync(join(spool, `${id}.ok`));
    });
  }

  /** Stops everything and removes every trace. Idempotent; safe after a crash. */
  async remove(): Promise<void> {
    this.#removed = true;
    for (const process of this.#processes) process.kill('SIGKILL');
    await Promise.all([...this.#processes].map((process) => process.exited));
    killInNamespaces(this.#options.prefix);
    this.topology.remove();
    rmSync(this.#options.dir, REMOVE);
    if (this.#options.keyDir !== '') {
      rmSync(this.#options.keyDir, REMOVE);
    }
  }
}

/** One GET from inside a namespace; undefined when nobody answers in two seconds. */
export function httpGet(
  native: Native,
  netns: string,
  host: string,
  port: number,
  path: string,
): Promise<{ status: number; body: string } | undefined> {
  return new Promise((resolve) => {
    const namespace = openNamespace(native, netns);
    const request = get({
      host,
      port,
      path,
      timeout: HTTP_TIMEOUT_MS,
      createConnection: () => {
        const fd = createConnector(native, namespace, { family: 'ipv4', marked: false });
        const socket = new Socket({ fd });
        socket.on('error', () => resolve(undefined));
        return socket.connect({ host, port });
      },
    });
    const finish = (answer: { status: number; body: string } | undefined): void => {
      namespace.close();
      resolve(answer);
    };
    request.on('error', () => finish(undefined));
    request.on('timeout', () => request.destroy());
    request.on('response', (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (text: string) => (body += text));
      response.on('error', () => finish(undefined));
      response.on('end', () => finish({ status: response.statusCode ?? 0, body }));
    });
  });
}
