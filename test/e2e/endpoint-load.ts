/**
 * A folder that declares a hundred thousand endpoints on nodes that are not ours: what that costs a node, and that
 * the mesh still works and finds one of them (G27).
 */

import { readFileSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { join } from 'node:path';

import type { Test } from 'tap';

import { childrenOf, DB, podNamed, probeFrom, proxyOn } from '../../src/demo/actions.ts';
import { httpGet, until, wait } from '../../src/demo/mesh.ts';
import { parseExposition } from '../telemetry/exposition-parser.ts';
import { createTestMesh, type TestMesh } from './harness.ts';
import { connectFrom, exchange, listenIn } from './pod-sockets.ts';
import { MIB, residentBytes } from './process-usage.ts';

const PER_SERVICE = 100;
const PER_FILE = 5000;
const NEEDLE = { host: '10.98.255.1', port: 80 };
const LAG = 'nodemesh_eventloop_lag_seconds';

type Manifest = Record<string, unknown>;

function pod(name: string, service: string, node: string, ip: string, uid: string): Manifest {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'many', uid, labels: { app: service } },
    spec: {
      nodeName: node,
      serviceAccountName: service,
      containers: [{ name: 'app', image: 'demo', ports: [{ containerPort: 8080 }] }],
    },
    status: {
      phase: 'Running',
      podIP: ip,
      podIPs: [{ ip }],
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  };
}

function service(name: string, ip: string): Manifest {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'many' },
    spec: {
      clusterIPs: [ip],
      selector: { app: name },
      ports: [{ name: 'http', port: 80, targetPort: 8080, protocol: 'TCP' }],
    },
  };
}

const uidOf = (index: number): string =>
  `00000000-0000-4000-9000-${String(index).padStart(12, '0')}`;
const list = (items: readonly Manifest[]): string =>
  JSON.stringify({ apiVersion: 'v1', kind: 'List', items });

function declare(running: TestMesh, count: number): void {
  const { mesh } = running;
  const services = Array.from({ length: Math.ceil(count / PER_SERVICE) }, (_, index) =>
    service(`many-${index}`, `10.98.${Math.floor(index / 250)}.${(index % 250) + 1}`),
  );
  services.push(service('needle', NEEDLE.host));
  const namespace = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'many' } };
  mesh.writeManifest('many-services.json', list([namespace, ...services]));
  for (let from = 0; from < count; from += PER_FILE) {
    const pods = Array.from({ length: Math.min(PER_FILE, count - from) }, (_, offset) => {
      const index = from + offset;
      const ip = `10.${128 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`;
      const owner = `many-${Math.floor(index / PER_SERVICE)}`;
      // Spread over services, so that neighbours in a file are not neighbours in a service.
      return pod(`many-${index}`, owner, `node-x${index % 1000}`, ip, uidOf(index));
    });
    mesh.writeManifest(`many-${String(from / PER_FILE).padStart(3, '0')}.json`, list(pods));
  }
}

interface Usage {
  readonly agent: number;
  readonly workers: readonly number[];
}

function usage(running: TestMesh, node: string): Usage {
  const proxy = proxyOn(running, node);
  const agent = childrenOf(proxy, 'agent').reduce((sum, pid) => sum + residentBytes(pid), 0);
  return { agent, workers: childrenOf(proxy, 'worker').map(residentBytes) };
}

/** The longest delay of each process's loop since it last looked. */
async function lags(running: TestMesh, node: string): Promise<Map<string, number>> {
  const { hub } = running.mesh.topology;
  const { ip } = running.mesh.nodeNamed(node);
  const answer = await httpGet(running.native, hub.netns, ip, 15_020, '/metrics');
  const seen = new Map<string, number>();
  if (answer?.status !== 200) return seen;
  for (const family of parseExposition(answer.body, 'prometheus').values()) {
    for (const sample of family.samples) {
      if (sample.name === LAG) seen.set([...sample.labels.values()].join(), sample.value * 1000);
    }
  }
  return seen;
}

const mib = (bytes: number): string => (bytes / MIB).toFixed(0);

export interface EndpointLimits {
  /** Agent and workers of one node. */
  readonly nodeMibMax: number;
  readonly settleMs: number;
}

export async function testEndpoints(t: Test, count: number, limits: EndpointLimits): Promise<void> {
  const running = await createTestMesh(t);
  const { mesh } = running;
  const nodes = ['node-a', 'node-b'] as const;
  const needle = mesh.topology.addPod('needle', mesh.nodeNamed('node-a'), 30);
  const server = await listenIn(running.native, needle, 8080, (socket) => socket.end('found'));
  t.teardown(() => server.close());
  const before = nodes.map((node) => usage(running, node));

  // What the start of the processes cost their loops is not asked here; they tell of it a second later.
  await wait(3000);
  const longest = new Map<string, number>();
  const watching = new AbortController();
  const watch = (async (): Promise<void> => {
    while (!watching.signal.aborted) {
      for (const node of nodes) {
        for (const [name, ms] of await lags(running, node)) {
          const key = `${node} ${name}`;
          longest.set(key, Math.max(longest.get(key) ?? 0, ms));
        }
      }
      await wait(400);
    }
  })();

  // Elsewhere the controller has a machine of its own; here it must not be what the loops of a node wait for.
  const controller = mesh.controller?.pid;
  if (controller === undefined) throw new Error('the controller does not run');
  setPriority(controller, constants.priority.PRIORITY_LOW);
  const started = performance.now();
  declare(running, count);
  const web = podNamed(running, 'web').place;
  // The last file: when this one is served, all are.
  mesh.writeManifest(
    'needle.json',
    JSON.stringify(pod('needle', 'needle', 'node-x5', needle.ip, uidOf(999_999_999))),
  );
  const find = async (): Promise<string> => {
    const { received } = await exchange(connectFrom(running.native, web, NEEDLE), '');
    return String(received);
  };
  const ms = await until(
    'the needle is found',
    limits.settleMs,
    async () => (await find()) === 'found',
  );
  const declared = readFileSync(join(running.dir, 'log', 'controller.log'), 'utf8');
  t.notMatch(declared, /"rejected":[1-9]/, 'every object was taken');
  await wait(3000);

  const failed: string[] = [];
  for (let index = 0; index < 30; index++) {
    const probes = [
      probeFrom(running, 'web', DB),
      probeFrom(running, 'web', { ...DB, host: podNamed(running, 'db').place.ip }),
    ];
    for (const { ok, text } of await Promise.all(probes)) if (!ok) failed.push(text);
    if ((await find()) !== 'found') failed.push('the needle');
  }
  t.same(failed, [], 'the mesh works');
  await wait(6000);
  watching.abort();
  await watch;
  const lag = [...longest].map(([name, value]) => `${name} ${value.toFixed(0)} ms`).join(', ');
  t.comment(
    `${count} endpoints: found after ${(ms / 1000).toFixed(1)} s (declared in ${((performance.now() - started) / 1000).toFixed(1)} s with the test around it); controller ${mib(residentBytes(controller))} MiB`,
  );
  for (const [index, node] of nodes.entries()) {
    const now = usage(running, node);
    const old = before[index];
    const total = now.workers.reduce((sum, bytes) => sum + bytes, now.agent);
    t.comment(
      `${node}: agent ${mib(old?.agent ?? 0)} → ${mib(now.agent)} MiB, workers ${now.workers.map((bytes, slot) => `${mib(old?.workers[slot] ?? 0)} → ${mib(bytes)}`).join(', ')} MiB, together ${mib(total)} MiB`,
    );
    t.ok(total <= limits.nodeMibMax * MIB, `${node}: ${mib(total)} MiB`);
  }
  t.comment(`longest loop blocks: ${lag}`);
  const workers = [...longest].filter(([name]) => name.includes('worker'));
  t.ok(workers.length > 0 && workers.every(([, value]) => value < 1000), 'no worker stood still');
}
