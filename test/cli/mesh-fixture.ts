/** A small mesh as the API server and the mesh's own processes show it: two nodes, namespace `shop` with three pods. */

import type { PodRef } from '../../src/cli/cluster.ts';
import { createFakeCluster, type FakeCluster } from './fake-cluster.ts';

export const NOW = Date.parse('2026-06-01T12:00:00Z');
const NS = 'nodemesh-system';

export interface MeshFacts {
  /** Nodes whose proxy cannot be asked. */
  readonly silentNodes?: readonly string[];
  readonly controllerSilent?: boolean;
  readonly controllersReady?: number;
  /** Seconds since node-b lost its configuration stream. */
  readonly configAgeS?: number;
  /** What is left of the certificates. */
  readonly expiryMs?: number;
  /** Why the capture of shop/cart failed. */
  readonly failure?: string;
  readonly configProblem?: string;
}

function labels(component: string): Record<string, string> {
  return {
    'app.kubernetes.io/name': 'nodemesh',
    'app.kubernetes.io/component': component,
    'app.kubernetes.io/version': '1.2.3',
  };
}

type Item = Record<string, unknown>;

function pod(namespace: string, name: string, node: string, more: Item = {}, ready = true): Item {
  const { labels: own = {}, spec = {} } = more as { labels?: object; spec?: object };
  return {
    metadata: {
      namespace,
      name,
      uid: uidOf(name),
      labels: own,
      creationTimestamp: new Date(NOW - 300_000).toISOString(),
    },
    spec: { nodeName: node, serviceAccountName: name.split('-')[0], ...spec },
    status: {
      phase: 'Running',
      podIP: '10.244.1.7',
      podIPs: [{ ip: '10.244.1.7' }],
      conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }],
      containerStatuses: [{ restartCount: 0, state: {} }],
    },
  };
}

/** A UID that is one. */
export function uidOf(name: string): string {
  const hex = Buffer.from(name.padEnd(16)).toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function answers(
  list: readonly (readonly [from: string, path: string, body: unknown, pid?: number])[],
): unknown {
  return {
    answers: list.map(([from, path, body, pid]) => ({ from, pid, path, status: 200, body })),
  };
}

function nodeAnswers(node: string, facts: MeshFacts): unknown {
  const served =
    node === 'node-a' ? [uidOf('web-1')] : facts.failure === undefined ? [uidOf('cart-1')] : [];
  const wanted = node === 'node-a' ? [uidOf('web-1')] : [uidOf('cart-1')];
  const account = node === 'node-a' ? 'web' : 'cart';
  const age = node === 'node-b' ? (facts.configAgeS ?? 0) : 0;
  const notAfter = new Date(NOW + (facts.expiryMs ?? 20 * 3_600_000)).toISOString();
  const identity = `spiffe://cluster.local/ns/shop/sa/${account}`;
  const ready = {
    blockers: [],
    captured: wanted,
    served,
    agentPid: 11,
    workers: [{ pid: 21 }, { pid: 22 }],
  };
  const metrics = [
    `nodemesh_config_age_seconds ${age}`,
    'nodemesh_resident_memory_bytes{process="worker-0"} 60000000',
    'nodemesh_resident_memory_bytes{process="agent"} 70000000',
    'nodemesh_cpu_cores{process="worker-0"} 0.21',
    'nodemesh_cpu_cores{process="agent"} 0.04',
    'nodemesh_eventloop_lag_seconds{process="worker-0"} 0.012',
  ].join('\n');
  return answers([
    ['port', '/healthz/ready', ready],
    ['port', '/metrics?prefix=nodemesh_', metrics],
    ['agent', '/config_dump/certificates', { certificates: [{ identity, notAfter }] }, 11],
    // A predecessor that drains: its sockets are in the same folder.
    ['agent', '/config_dump/certificates', { certificates: [{ identity, notAfter }] }, 5],
    ['worker', '/config_dump/connections', { connections: { open: 3 } }, 21],
    ['worker', '/config_dump/connections', { connections: { open: 4 } }, 22],
    ['worker', '/config_dump/connections', { connections: { open: 100 } }, 6],
  ]);
}

function controllerAnswers(facts: MeshFacts): unknown {
  const captured = { state: 'captured', reason: '' };
  const failed = { state: 'failed', reason: facts.failure };
  const cart = facts.failure === undefined ? captured : failed;
  const status = {
    nodes: ['node-a', 'node-b'],
    pods: [
      { podUid: uidOf('web-1'), phase: 'enrolled', report: captured },
      {
        podUid: uidOf('cart-1'),
        phase: facts.failure === undefined ? 'enrolled' : 'attaching',
        report: cart,
      },
    ],
    conditions:
      facts.configProblem === undefined
        ? []
        : [
            {
              key: 'AuthorizationPolicy/shop/only-web',
              reason: 'L7Ignored',
              message: facts.configProblem,
            },
          ],
  };
  return answers([['controller', '/config_dump/status', { status }]]);
}

export function createMesh(facts: MeshFacts = {}): FakeCluster {
  const ready = facts.controllersReady ?? 2;
  const enrolled = { 'nodemesh.dev/mesh': 'enabled' };
  const objects: Record<string, Item> = {
    [`/api/v1/namespaces/${NS}`]: {
      metadata: { name: NS, labels: { 'pod-security.kubernetes.io/enforce': 'privileged' } },
    },
    '/api/v1/namespaces/shop': {
      metadata: { name: 'shop', labels: { ...enrolled, 'nodemesh.dev/waypoint': 'wp' } },
    },
    '/api/v1/namespaces/default': { metadata: { name: 'default', labels: {} } },
    [`/apis/apps/v1/namespaces/${NS}/deployments/nodemesh-controller`]: {
      metadata: { name: 'nodemesh-controller', labels: labels('controller'), generation: 1 },
      spec: {
        replicas: 2,
        template: { spec: { containers: [{ image: 'nodemesh:1.2.3', env: [] }] } },
      },
      status: { observedGeneration: 1, readyReplicas: ready, updatedReplicas: 2 },
    },
    [`/apis/apps/v1/namespaces/${NS}/daemonsets/nodemesh-node`]: {
      metadata: { name: 'nodemesh-node', labels: labels('node'), generation: 1 },
      spec: {
        template: {
          spec: {
            hostPID: true,
            containers: [
              {
                name: 'node',
                image: 'nodemesh:1.2.3',
                args: ['node'],
                volumeMounts: [{ name: 'run' }, { name: 'token' }],
              },
            ],
            volumes: [{ name: 'run' }, { name: 'token' }, { name: 'root' }],
          },
        },
      },
      status: {
        desiredNumberScheduled: 2,
        numberReady: 2,
        updatedNumberScheduled: 2,
        observedGeneration: 1,
      },
    },
    '/apis/coordination.k8s.io/v1/namespaces/nodemesh-system/leases/nodemesh-controller': {
      spec: { holderIdentity: 'nodemesh-controller-0' },
    },
    '/apis/events.k8s.io/v1/namespaces/nodemesh-system/events/one': {
      metadata: { name: 'one', namespace: NS },
      eventTime: new Date(NOW - 180_000).toISOString(),
      regarding: { kind: 'DaemonSet', namespace: NS, name: 'nodemesh-node' },
      reason: 'FailedCreate',
      note: 'exceeded quota:\ncritical-pods',
    },
    '/apis/events.k8s.io/v1/namespaces/nodemesh-system/events/over': {
      metadata: { name: 'over', namespace: NS },
      eventTime: new Date(NOW - 60_000).toISOString(),
      regarding: { kind: 'Pod', namespace: NS, name: 'nodemesh-node-b' },
      reason: 'Unhealthy',
      note: 'Readiness probe failed',
    },
  };
  for (const index of [0, 1]) {
    const name = `nodemesh-controller-${index}`;
    const more = { labels: labels('controller') };
    objects[`/api/v1/namespaces/${NS}/pods/${name}`] = pod(NS, name, 'node-a', more, index < ready);
  }
  for (const node of ['a', 'b']) {
    const name = `nodemesh-node-${node}`;
    objects[`/api/v1/namespaces/${NS}/pods/${name}`] = pod(NS, name, `node-${node}`, {
      labels: labels('node'),
    });
  }
  objects['/api/v1/namespaces/shop/pods/web-1'] = pod('shop', 'web-1', 'node-a');
  objects['/api/v1/namespaces/shop/pods/cart-1'] = pod('shop', 'cart-1', 'node-b');
  objects['/api/v1/namespaces/shop/pods/agent-1'] = pod('shop', 'agent-1', 'node-b', {
    spec: { hostNetwork: true },
  });
  return createFakeCluster({
    objects,
    admin({ name }: PodRef) {
      if (name.startsWith('nodemesh-controller')) {
        return facts.controllerSilent === true ? undefined : controllerAnswers(facts);
      }
      const node = `node-${name.at(-1)}`;
      return facts.silentNodes?.includes(node) === true ? undefined : nodeAnswers(node, facts);
    },
  });
}
