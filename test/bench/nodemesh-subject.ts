/**
 * nodemesh itself: the product's controller and node proxies through `DemoMesh`, with pods enrolled from their
 * start under STRICT. The servers are asked by pod address, as the direct path does it, so nothing but the
 * mesh is in between; plain text would be refused by the server's side, so an answer proves a tunnel.
 */

import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';

import type { TopologyNode } from '../../src/demo/topology.ts';
import type { DemoMesh, MeshPodOptions, NodeProxy } from '../../src/demo/mesh.ts';
import { childProcesses, commandLine, memoryOf } from './process-usage.ts';
import { HTTP_PORT, IPERF_PORT, type Pods, type Service, type Subject } from './subject.ts';

const NAMESPACE = 'bench';
const ROOT = join(import.meta.dirname, '../..');
const BUILD = '.cache/bench-program';
/** Below the repository, so that it finds the packages. */
export const PROGRAM: string = join(ROOT, BUILD, 'bin/nodemesh.js');

/**
 * Compiles the program as it is shipped: JavaScript. Run from its TypeScript, each process holds 25 MB more,
 * for the compiler inside Node that strips the types.
 */
export function buildProgram(): void {
  rmSync(join(ROOT, BUILD), { recursive: true, force: true });
  const quick = ['--noCheck', '--declaration', 'false', '--isolatedDeclarations', 'false'];
  const done = spawnSync('node_modules/.bin/tsc', ['--outDir', BUILD, ...quick], {
    cwd: ROOT,
    encoding: 'utf8',
  });
  if (done.status !== 0) {
    throw new Error(`cannot compile: ${done.error?.message ?? done.stdout.slice(0, 2000)}`);
  }
}

function formatNode(node: TopologyNode): string {
  return `apiVersion: v1
kind: Node
metadata: { name: ${node.name} }
status: { addresses: [{ type: InternalIP, address: ${node.ip} }] }
`;
}

function formatPod(name: string, node: TopologyNode, uid: string, host: number): string {
  const podIp = `10.42.${node.index}.${host}`;
  const podIp6 = `fd42:${node.index}::${host.toString(16)}`;
  return `apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: ${NAMESPACE}, uid: ${uid}, labels: { app: ${name} } }
spec:
  nodeName: ${node.name}
  serviceAccountName: ${name}
  containers: [{ name: app, image: bench }]
status:
  phase: Running
  podIP: ${podIp}
  podIPs: [{ ip: ${podIp} }, { ip: '${podIp6}' }]
  conditions: [{ type: Ready, status: 'True' }]
`;
}

const POLICY = `apiVersion: v1
kind: Namespace
metadata: { name: ${NAMESPACE}, labels: { nodemesh.dev/mesh: enabled } }
---
apiVersion: nodemesh.dev/v1
kind: PeerAuthentication
metadata: { name: strict, namespace: ${NAMESPACE} }
spec: { mtls: { mode: STRICT } }
`;

/** Starts the mesh on the bench's nodes and makes its pods. Throws with the end of a log when it cannot. */
export async function startMesh(
  mesh: DemoMesh,
): Promise<{ readonly proxies: readonly NodeProxy[]; readonly pods: Pods }> {
  const [nodeA, nodeB] = mesh.topology.nodes;
  if (nodeA === undefined || nodeB === undefined) throw new Error('the bench needs two nodes');
  const wanted = {
    client: { name: 'mesh-client', node: nodeA, host: 50 },
    server: { name: 'mesh-server', node: nodeB, host: 51 },
    neighbour: { name: 'mesh-neighbour', node: nodeA, host: 52 },
  } as const;
  const uidOf = (host: number): string => `00000000-0000-4000-8000-0000000000${host}`;
  mesh.writeManifest('nodes.yaml', mesh.topology.nodes.map(formatNode).join('---\n'));
  await mesh.startController();
  const proxies = mesh.topology.nodes.map((node) => mesh.startNode(node.name));
  for (const proxy of proxies) await mesh.waitReady(proxy);
  const pods = Object.values(wanted).map(({ name, node, host }) =>
    formatPod(name, node, uidOf(host), host),
  );
  mesh.writeManifest('pods.yaml', [POLICY, ...pods].join('---\n'));
  const make = async (role: keyof Pods): Promise<Pods[keyof Pods]> => {
    const { name, node, host } = wanted[role];
    const place = mesh.topology.addPod(name, node, host);
    const pod: MeshPodOptions = {
      name,
      namespace: NAMESPACE,
      uid: uidOf(host),
      node: node.name,
      host,
      args: [],
    };
    await mesh.announce(pod, place);
    return place;
  };
  const places: Pods = {
    client: await make('client'),
    server: await make('server'),
    neighbour: await make('neighbour'),
  };
  for (const proxy of proxies) await mesh.waitReady(proxy);
  return { proxies, pods: places };
}

/** Children of a supervisor say what they are in their last argument. */
function withRole(supervisor: number, role: 'agent' | 'worker'): number[] {
  return childProcesses(supervisor).filter((pid) => commandLine(pid).at(-1) === role);
}

export function workerPids(proxy: NodeProxy): number[] {
  return withRole(proxy.process.pid, 'worker');
}

export function createNodemeshSubject(pods: Pods, proxies: readonly NodeProxy[]): Subject {
  const addresses: Record<Service, { host: string; port: number }> = {
    iperf: { host: pods.server.ip, port: IPERF_PORT },
    http: { host: pods.server.ip, port: HTTP_PORT },
    'same-node-iperf': { host: pods.neighbour.ip, port: IPERF_PORT },
  };
  return {
    name: 'nodemesh',
    clientNetns: pods.client.netns,
    address: (service) => addresses[service],
    // Not the agents' short-lived children: those count with their parents once they have ended.
    processes: () =>
      proxies.flatMap(({ process: { pid } }) => [
        pid,
        ...withRole(pid, 'agent'),
        ...withRole(pid, 'worker'),
      ]),
    memoryProcesses() {
      const proxy = proxies[0];
      if (proxy === undefined) return new Map();
      const supervisor = proxy.process.pid;
      const [agent] = withRole(supervisor, 'agent');
      // The one that needs most: they take the connections as they come.
      const largest = workerPids(proxy)
        .map((pid) => ({ pid, pssMb: memoryOf(pid).pssMb }))
        .toSorted((a, b) => b.pssMb - a.pssMb)[0];
      if (agent === undefined || largest === undefined) {
        throw new Error(`node proxy ${supervisor} has no agent or no worker`);
      }
      return new Map([
        ['supervisor', supervisor],
        ['agent', agent],
        ['worker', largest.pid],
      ]);
    },
  };
}
