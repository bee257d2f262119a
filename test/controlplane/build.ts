/** Objects written as Kubernetes has them, and a world whose publications are kept as a node would see them. */

import { MeshError } from '../../src/base/errors.ts';
import { unwrap } from '../../src/base/result.ts';
import { parseSocketAddress, parseAddress } from '../../src/core/address.ts';
import type { HttpPolicy, RequestAuthentication } from '../../src/core/http-policy.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { LocalPod, NodeSettings, PodUid } from '../../src/core/pod.ts';
import type { Policy } from '../../src/core/policy.ts';
import type { WaypointService } from '../../src/core/route.ts';
import type { ServiceTraffic } from '../../src/core/traffic-policy.ts';
import type { Service, Workload } from '../../src/core/workload.ts';
import { parseManifest } from '../../src/controlplane/manifest/manifest.ts';
import type { MeshObject, ObjectKind } from '../../src/controlplane/objects.ts';
import type { Settlement } from '../../src/controlplane/publication.ts';
import type { Scoped } from '../../src/controlplane/waypoint-scope.ts';
import { World, type WorldOptions } from '../../src/controlplane/world.ts';
import { decide, type Decision } from '../../src/policy/decide.ts';
import { selectPolicies } from '../../src/policy/policy-set.ts';

export type Json = Record<string, unknown>;

export function read(value: Json): MeshObject {
  const result = parseManifest(value);
  if (result.status === 'object') return result.object;
  throw new MeshError('MESH_MANIFEST_INVALID', JSON.stringify(result));
}

function split(path: string): { namespace: string; name: string } {
  const [namespace = '', name = ''] = path.split('/');
  return { namespace, name };
}

export function namespace(name: string, labels: Json = {}, annotations: Json = {}): MeshObject {
  return read({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels, annotations } });
}

export interface PodShape {
  readonly uid?: string;
  readonly labels?: Json;
  readonly annotations?: Json;
  readonly sa?: string;
  readonly node?: string;
  readonly ip?: string;
  readonly ips?: readonly string[];
  readonly phase?: string;
  readonly ready?: boolean;
  readonly hostNetwork?: boolean;
  readonly created?: string;
  readonly deleted?: string;
  readonly spec?: Json;
  readonly owner?: Json;
}

export function pod(path: string, shape: PodShape = {}): MeshObject {
  const ips = shape.ips ?? (shape.ip === undefined ? [] : [shape.ip]);
  return read({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      ...split(path),
      ...(shape.uid === undefined ? {} : { uid: shape.uid }),
      labels: shape.labels ?? {},
      annotations: shape.annotations ?? {},
      ...(shape.created === undefined ? {} : { creationTimestamp: shape.created }),
      ...(shape.deleted === undefined ? {} : { deletionTimestamp: shape.deleted }),
      ...(shape.owner === undefined ? {} : { ownerReferences: [shape.owner] }),
    },
    spec: {
      nodeName: shape.node ?? 'node-a',
      serviceAccountName: shape.sa ?? 'default',
      ...(shape.hostNetwork === true ? { hostNetwork: true } : {}),
      ...shape.spec,
    },
    status: {
      ...(shape.phase === undefined ? {} : { phase: shape.phase }),
      podIPs: ips.map((ip) => ({ ip })),
      ...(shape.ready === undefined
        ? {}
        : { conditions: [{ type: 'Ready', status: shape.ready ? 'True' : 'False' }] }),
    },
  });
}

export function service(path: string, spec: Json, annotations: Json = {}): MeshObject {
  return read({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { ...split(path), annotations },
    spec,
  });
}

export function slice(path: string, serviceName: string, fields: Json): MeshObject {
  const labels = { 'kubernetes.io/service-name': serviceName };
  const metadata = { ...split(path), labels };
  return read({ apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', metadata, ...fields });
}

export function node(name: string, region: string, zone: string): MeshObject {
  const labels = {
    'topology.kubernetes.io/region': region,
    'topology.kubernetes.io/zone': zone,
  };
  return read({ apiVersion: 'v1', kind: 'Node', metadata: { name, labels } });
}

export function own(kind: string, path: string, spec: Json, metadata: Json = {}): MeshObject {
  const apiVersion = 'nodemesh.dev/v1alpha1';
  return read({ apiVersion, kind, metadata: { ...split(path), ...metadata }, spec });
}

export function gatewayApi(
  kind: string,
  path: string,
  spec: Json,
  metadata: Json = {},
): MeshObject {
  const apiVersion = 'gateway.networking.k8s.io/v1';
  const place = kind === 'GatewayClass' ? { name: path } : split(path);
  return read({ apiVersion, kind, metadata: { ...place, ...metadata }, spec });
}

/** A world and what a node that took everything would hold. */
export class Model {
  readonly world: World;
  readonly policies: Map<string, Policy> = new Map();
  readonly services: Map<string, Service> = new Map();
  readonly workloads: Map<string, Workload> = new Map();
  readonly localPods: Map<string, Map<PodUid, LocalPod>> = new Map();
  readonly nodeSettings: Map<string, NodeSettings> = new Map();
  /** By waypoint, then service. */
  readonly waypoints: Map<string, Map<string, WaypointService>> = new Map();
  readonly enrolledNamespaces: Map<string, true> = new Map();
  /** By waypoint, then service. */
  readonly traffic: Map<string, Map<string, ServiceTraffic>> = new Map();
  /** By waypoint, then policy. */
  readonly httpPolicies: Map<string, Map<string, HttpPolicy>> = new Map();
  readonly authentications: Map<string, Map<string, RequestAuthentication>> = new Map();
  /** What waits for acknowledgement. */
  settlements: Settlement[] = [];

  constructor(options: WorldOptions = {}) {
    this.world = new World(options);
  }

  put(...objects: readonly MeshObject[]): this {
    for (const object of objects) this.world.apply({ type: 'put', object });
    return this;
  }

  remove(kind: ObjectKind, path: string): this {
    const { namespace: ns, name } = path.includes('/')
      ? split(path)
      : { namespace: '', name: path };
    this.world.apply({ type: 'delete', kind, namespace: ns, name });
    return this;
  }

  captured(nodeName: string, ...uids: readonly string[]): this {
    const reports = uids.map((uid) => ({
      podUid: uid as PodUid,
      state: 'captured' as const,
      reason: '',
    }));
    this.world.report(nodeName, reports);
    return this;
  }

  /** Publishes once; returns the number of steps it took. */
  publish(): number {
    const steps = this.world.collect();
    for (let count = 0; ; count++) {
      const step = steps.next();
      if (step.done !== true) continue;
      const { policies, services, workloads, localPods, nodeSettings, settlements } = step.value;
      for (const [waypoint, bound] of step.value.waypointServices) {
        const known = this.waypoints.get(waypoint) ?? new Map<string, WaypointService>();
        this.waypoints.set(waypoint, known);
        merge(known, bound);
      }
      merge(this.enrolledNamespaces, step.value.enrolledNamespaces);
      for (const [waypoint, changes] of step.value.traffic) {
        const known = this.traffic.get(waypoint) ?? new Map<string, ServiceTraffic>();
        this.traffic.set(waypoint, known);
        merge(known, changes);
      }
      mergeScoped(this.httpPolicies, step.value.httpPolicies);
      mergeScoped(this.authentications, step.value.requestAuthentications);
      merge(this.policies, policies);
      merge(this.services, services);
      merge(this.workloads, workloads);
      merge(this.nodeSettings, nodeSettings);
      for (const [name, pods] of localPods) {
        const known = this.localPods.get(name) ?? new Map<PodUid, LocalPod>();
        this.localPods.set(name, known);
        merge(known, pods);
      }
      this.settlements.push(...settlements);
      return count;
    }
  }

  /** Everybody acknowledges what was published, once. */
  acknowledge(): this {
    const settled = this.settlements;
    this.settlements = [];
    for (const settlement of settled) this.world.settle(settlement);
    this.publish();
    return this;
  }

  /** Publishes and acknowledges until nothing moves. */
  settleAll(): this {
    this.publish();
    for (let round = 0; this.settlements.length > 0; round++) {
      if (round > 20) throw new Error('never settles');
      this.acknowledge();
    }
    return this;
  }

  workload(path: string): Workload {
    const found = this.workloads.get(`Kubernetes//Pod/${path}`);
    if (found === undefined) throw new Error(`no workload ${path}`);
    return found;
  }

  local(nodeName: string, uid: string): LocalPod | undefined {
    return this.localPods.get(nodeName)?.get(uid as PodUid);
  }

  /** What the destination's node would decide. */
  decide(path: string, source: string | undefined, port: number, from = '10.9.9.9'): Decision {
    const workload = this.workload(path);
    const all = [...this.policies.values()];
    const set = selectPolicies(
      {
        synced: true,
        version: 1,
        get: (key) => this.policies.get(key),
        globals: () => all.filter(({ scope }) => scope === 'GLOBAL'),
        inNamespace: (name) =>
          all.filter(({ scope, namespace: ns }) => scope === 'NAMESPACE' && ns === name),
      },
      workload,
    );
    const ip = workload.addresses[0] ?? '';
    const destination = unwrap(parseSocketAddress(`${ip}:${port}`));
    const facts = {
      source: source === undefined ? undefined : (`spiffe://cluster.local/${source}` as SpiffeId),
      sourceIp: unwrap(parseAddress(from)),
      destination,
    };
    return decide(facts, set);
  }
}

function mergeScoped<T>(into: Map<string, Map<string, T>>, changes: Scoped<T>): void {
  for (const [waypoint, entries] of changes) {
    const known = into.get(waypoint) ?? new Map<string, T>();
    into.set(waypoint, known);
    merge(known, entries);
  }
}

function merge<K, V>(into: Map<K, V>, changes: ReadonlyMap<K, V | undefined>): void {
  for (const [key, value] of changes) {
    if (value === undefined) into.delete(key);
    else into.set(key, value);
  }
}
