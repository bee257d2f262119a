/**
 * The whole path of the L7 bench: client, its node's proxy, a waypoint, the server's node's proxy, server, each in a
 * network namespace of its own, under STRICT, with a route and an L7 policy. Nothing else here makes such a path out of
 * one label, so beside it stand a service of the same mesh that no waypoint serves (`l4`; with a server of its own,
 * since the other one answers to the waypoint alone) and pods that are in no mesh (`direct`). CPU is that of all
 * processes of both node proxies and the waypoint.
 */

import { existsSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { DemoMesh, until } from '../../src/demo/mesh.ts';
import { killInNamespaces } from '../../src/demo/processes.ts';
import { removeNamespaces, type TopologyPod } from '../../src/demo/topology.ts';
import { loadNative } from '../../src/linux/native.ts';
import type { SubjectName } from './l7-cases.ts';
import type { Place } from './l7-load.ts';
import type { Running } from './l7-subjects.ts';
import { buildProgram, PROGRAM } from './nodemesh-subject.ts';
import { childProcesses } from './process-usage.ts';
import { startServers } from './subject.ts';
import { runTool } from './tools.ts';

const MEMORY_DIR = '/dev/shm';
const ROUTED_VIP = '10.96.0.61';
const PLAIN_VIP = '10.96.0.62';
const SERVER_PORT = 8080;
const FIRST_ANSWER_MS = 30_000;
const PROBE_MS = 5_000;
/** Last part of the address, which is the waypoint's in its manifest, too. */
const HOSTS = { client: 60, server: 61, waypoint: 62, other: 63 } as const;
const SHOP = { namespace: 'shop' };

const uidOf = (host: number): string => `00000000-0000-4000-8000-0000000000${host}`;

function pod(name: string, node: 1 | 2, host: number, label: string): string {
  return `---
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, uid: ${uidOf(host)}, labels: { ${label} } }
spec: { nodeName: node-${node === 1 ? 'a' : 'b'}, serviceAccountName: ${name}, containers: [{ name: app, image: bench }] }
status:
  phase: Running
  podIP: 10.42.${node}.${host}
  podIPs: [{ ip: 10.42.${node}.${host} }]
  conditions: [{ type: Ready, status: 'True' }]
`;
}

function service(
  name: string,
  vip: string,
  selector: string,
  labels: string,
  port: string,
): string {
  return `---
apiVersion: v1
kind: Service
metadata: { name: ${name}, namespace: shop, labels: { ${labels} } }
spec: { clusterIP: ${vip}, selector: { ${selector} }, ports: [{ ${port}, protocol: TCP }] }
`;
}

const HTTP_PORT = `name: http, port: 80, targetPort: ${SERVER_PORT}`;
const GATEWAY_LABEL = 'gateway.networking.k8s.io/gateway-name: waypoint';
const NODES = ['a', 'b']
  .map(
    (name, index) => `---
apiVersion: v1
kind: Node
metadata: { name: node-${name} }
status: { addresses: [{ type: InternalIP, address: 172.31.0.1${index + 1} }] }
`,
  )
  .join('');
const OBJECTS = `apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { nodemesh.dev/mesh: enabled } }
---
apiVersion: nodemesh.dev/v1alpha1
kind: PeerAuthentication
metadata: { name: strict, namespace: shop }
spec: { mtls: { mode: STRICT } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: waypoint, namespace: shop }
spec: { gatewayClassName: nodemesh-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: routed, namespace: shop }
spec:
  parentRefs: [{ group: '', kind: Service, name: routed }]
  rules: [{ backendRefs: [{ name: routed, port: 80 }] }]
---
apiVersion: nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: only-client, namespace: shop }
spec:
  targetRefs: [{ kind: Service, group: '', name: routed }]
  action: ALLOW
  rules:
    - from: [{ source: { principals: ['cluster.local/ns/shop/sa/client'] } }]
      to: [{ operation: { methods: ['GET'] } }]
${service('waypoint', '10.96.0.60', GATEWAY_LABEL, 'app: waypoint', 'name: mesh, port: 15008, targetPort: 15008')}
${service('routed', ROUTED_VIP, 'app: server', 'nodemesh.dev/waypoint: waypoint', HTTP_PORT)}
${service('plain', PLAIN_VIP, 'app: other', 'app: plain', HTTP_PORT)}
${pod('client', 1, HOSTS.client, 'app: client')}
${pod('server', 2, HOSTS.server, 'app: server')}
${pod('waypoint', 2, HOSTS.waypoint, GATEWAY_LABEL)}
${pod('other', 2, HOSTS.other, 'app: other')}`;

export interface MeshArena {
  running(subject: SubjectName): Running;
  remove(): Promise<void>;
}

/** Brings it all up. Throws with the end of a log when it cannot. */
export async function createMeshArena(): Promise<MeshArena> {
  const prefix = `nmw${process.pid}`;
  const dir = join(tmpdir(), prefix);
  const keyDir = existsSync(MEMORY_DIR) ? join(MEMORY_DIR, prefix) : '';
  process.once('exit', () => {
    killInNamespaces(prefix);
    removeNamespaces(prefix);
    for (const folder of [dir, keyDir]) {
      if (folder !== '') rmSync(folder, { recursive: true, force: true });
    }
  });
  buildProgram();
  const mesh = new DemoMesh({
    native: loadNative(),
    prefix,
    dir,
    keyDir,
    program: PROGRAM,
    workers: 1,
  });
  try {
    return await start(mesh, dir);
  } catch (error) {
    await mesh.remove();
    throw error;
  }
}

async function start(mesh: DemoMesh, dir: string): Promise<MeshArena> {
  const [nodeA, nodeB] = mesh.topology.nodes;
  if (nodeA === undefined || nodeB === undefined) throw new Error('the bench needs two nodes');
  mesh.writeManifest('nodes.yaml', NODES);
  await mesh.startController();
  const proxies = [mesh.startNode('node-a'), mesh.startNode('node-b')];
  for (const proxy of proxies) await mesh.waitReady(proxy);
  mesh.writeManifest('objects.yaml', OBJECTS);
  const enrol = async (name: string, node: string, host: number): Promise<TopologyPod> => {
    const place = mesh.topology.addPod(name, mesh.nodeNamed(node), host);
    await mesh.announce({ ...SHOP, name, uid: uidOf(host), node, host, args: [] }, place);
    return place;
  };
  const client = await enrol('client', 'node-a', HOSTS.client);
  const server = await enrol('server', 'node-b', HOSTS.server);
  const other = await enrol('other', 'node-b', HOSTS.other);
  const outside = mesh.topology.addPod('outside', nodeA);
  const outsideServer = mesh.topology.addPod('outside-server', nodeB);
  for (const one of [server, other, outsideServer]) startServers(one, dir);
  const waypoint = await mesh.startWaypoint('node-b', HOSTS.waypoint);
  for (const proxy of proxies) await mesh.waitReady(proxy);
  // Supervisor, agent and worker live as long as the run does; what an agent starts counts with it once it has ended.
  const nodePids = proxies.flatMap((proxy) => [
    proxy.process.pid,
    ...childProcesses(proxy.process.pid),
  ]);
  const places: Partial<Record<SubjectName, Place>> = {
    nodemesh: { netns: client.netns, host: ROUTED_VIP, port: 80 },
    l4: { netns: client.netns, host: PLAIN_VIP, port: 80 },
    direct: { netns: outside.netns, host: outsideServer.ip, port: SERVER_PORT },
  };
  for (const place of Object.values(places)) await firstAnswer(place);
  return {
    running(subject) {
      const place = places[subject];
      if (place === undefined) throw new Error(`"${subject}" has no such path`);
      const pids = (): readonly number[] =>
        subject === 'direct' ? [] : subject === 'l4' ? nodePids : [...nodePids, waypoint.pid];
      return { place, pids, stop: () => {} };
    },
    remove: () => mesh.remove(),
  };
}

async function firstAnswer({ netns = '', host, port }: Place): Promise<void> {
  const probe = ['curl', '-sf', '-o', '/dev/null', '--max-time', '2', `http://${host}:${port}/`];
  await until(`${host}:${port} answers`, FIRST_ANSWER_MS, async () => {
    const { code } = await runTool(netns, probe, PROBE_MS, AbortSignal.timeout(PROBE_MS));
    return code === 0;
  });
}
