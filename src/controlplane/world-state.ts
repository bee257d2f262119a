/** Everything the index knows of the sources, filed; and what depends on what: one change → the marks. */

import type { Marks } from './marks.ts';
import { selectorMatches } from './labels.ts';
import {
  DEFAULT_MESH_CONFIG,
  formatObjectKey,
  MESH_CONFIG_NAME,
  objectKey,
  ROOT_NAMESPACE,
  type EndpointSlice,
  type LabelSelector,
  type MeshConfig,
  type MeshObject,
  type Namespace,
  type NodeObject,
  type ObjectChange,
  type PeerAuthentication,
  type ServiceObject,
} from './objects.ts';
import { PodRegistry, podName, type PodChange } from './pod-registry.ts';
import { PolicyRegistry, selectedNamespace } from './policy-registry.ts';
import {
  sliceName,
  sliceService,
  ServiceRegistry,
  serviceName,
  type SliceName,
} from './service-registry.ts';

export function defaultMeshConfig(trustDomain: string): MeshConfig {
  const meta = {
    name: MESH_CONFIG_NAME,
    namespace: ROOT_NAMESPACE,
    labels: new Map(),
    annotations: new Map(),
    createdMs: 0,
  };
  return { kind: 'MeshConfig', meta, ...DEFAULT_MESH_CONFIG, trustDomain };
}

/** What disappears with a change and cannot be derived afterwards. */
export interface Departures {
  podEnded(change: PodChange): void;
  sliceChanged(before: EndpointSlice, after: EndpointSlice | undefined): void;
  serviceRemoved(service: ServiceObject): void;
  /** `declared` is the object as it was written. */
  configChanged(before: MeshConfig, declared: MeshConfig): void;
}

export class WorldState {
  readonly pods: PodRegistry = new PodRegistry();
  readonly services: ServiceRegistry = new ServiceRegistry();
  readonly policies: PolicyRegistry = new PolicyRegistry();
  readonly namespaces: Map<string, Namespace> = new Map();
  readonly nodes: Map<string, NodeObject> = new Map();
  /** As it counts: with the CA's trust domain, whatever the object says. */
  config: MeshConfig;
  readonly #marks: Marks;
  readonly #departures: Departures;

  readonly #trustDomain: string;

  constructor(marks: Marks, departures: Departures, trustDomain: string) {
    this.#trustDomain = trustDomain;
    this.config = defaultMeshConfig(trustDomain);
    this.#marks = marks;
    this.#departures = departures;
  }

  apply(change: ObjectChange): void {
    if (change.type === 'put') this.#put(change.object);
    else this.#remove(change);
  }

  #put(object: MeshObject): void {
    const key = objectKey(object);
    switch (object.kind) {
      case 'Pod':
        return this.#podChanged(this.pods.put(object));
      case 'Service':
        return this.#serviceChanged(this.services.putService(object), object);
      case 'EndpointSlice':
        return this.#sliceChanged(this.services.putSlice(object), object);
      case 'Namespace':
        this.namespaces.set(object.meta.name, object);
        return this.#namespaceChanged(object.meta.name);
      case 'Node':
        this.nodes.set(object.meta.name, object);
        return this.#nodeChanged(object.meta.name);
      case 'NetworkPolicy':
        return this.#selectedChanged(this.policies.putFilter(object), object);
      case 'MeshConfig':
        return this.#configChanged(object);
      case 'PeerAuthentication':
        return this.#peerChanged(this.policies.putPeer(object), object);
      case 'AuthorizationPolicy': {
        const before = this.policies.putAuthorization(object);
        this.#marks.authorizations.add(key);
        if (before !== undefined) this.#markSelected(selectedNamespace(before), before.selector);
        return this.#markSelected(selectedNamespace(object), object.selector);
      }
    }
  }

  #remove({ kind, namespace, name }: Extract<ObjectChange, { type: 'delete' }>): void {
    const key = formatObjectKey(kind, namespace, name);
    switch (kind) {
      case 'Pod':
        return this.#podChanged(this.pods.remove(podName(namespace, name)));
      case 'Service':
        return this.#serviceChanged(
          this.services.removeService(serviceName(namespace, name)),
          undefined,
        );
      case 'EndpointSlice':
        return this.#sliceChanged(
          this.services.removeSlice(`${namespace}/${name}` as SliceName),
          undefined,
        );
      case 'Namespace':
        this.namespaces.delete(name);
        return this.#namespaceChanged(name);
      case 'Node':
        this.nodes.delete(name);
        return this.#nodeChanged(name);
      case 'NetworkPolicy':
        return this.#selectedChanged(this.policies.removeFilter(key), undefined);
      case 'MeshConfig':
        return this.#configChanged(defaultMeshConfig(this.#trustDomain));
      case 'PeerAuthentication':
        return this.#peerChanged(this.policies.removePeer(key), undefined);
      case 'AuthorizationPolicy': {
        const before = this.policies.removeAuthorization(key);
        this.#marks.authorizations.add(key);
        if (before !== undefined) this.#markSelected(selectedNamespace(before), before.selector);
      }
    }
  }

  #podChanged(change: PodChange): void {
    const { before, after } = change;
    const pod = after ?? before;
    if (pod === undefined) return;
    this.#departures.podEnded(change);
    this.#marks.pods.add(podName(pod.meta.namespace, pod.meta.name));
    // Other claimants of its addresses, and slices that lead there, may have to give way or step in.
    for (const ip of new Set([...(before?.addresses ?? []), ...(after?.addresses ?? [])])) {
      for (const record of this.pods.claims(ip)) this.#marks.pods.add(record.name);
      for (const name of this.services.slicesAt(ip)) this.#marks.slices.add(name);
    }
  }

  #serviceChanged(before: ServiceObject | undefined, after: ServiceObject | undefined): void {
    const service = after ?? before;
    if (service === undefined) return;
    const { namespace, name } = service.meta;
    if (before !== undefined && after === undefined) this.#departures.serviceRemoved(before);
    this.#marks.services.add(serviceName(namespace, name));
    for (const object of [before, after]) {
      if (object?.selector !== undefined) this.#markSelected(namespace, object.selector);
    }
    for (const slice of this.services.slicesOf(serviceName(namespace, name))) {
      this.#markSlice(this.services.slice(slice));
    }
  }

  #markSlice(slice: EndpointSlice | undefined): void {
    if (slice === undefined) return;
    this.#marks.slices.add(sliceName(slice));
    for (const { addresses } of slice.endpoints) {
      for (const ip of addresses) {
        const owner = this.pods.owner(ip);
        if (owner !== undefined) this.#marks.pods.add(owner.name);
      }
    }
  }

  #sliceChanged(before: EndpointSlice | undefined, after: EndpointSlice | undefined): void {
    if (before !== undefined) this.#departures.sliceChanged(before, after);
    for (const slice of [before, after]) {
      this.#markSlice(slice);
      if (slice === undefined) continue;
      // The first slice of a service takes its selector's place, and the last one gives it back.
      const service = this.services.get(sliceService(slice));
      const count = [...this.services.slicesOf(sliceService(slice))].length;
      const tips = (before === undefined && count === 1) || (after === undefined && count === 0);
      const moves = before !== undefined && after !== undefined && before.service !== after.service;
      if (service?.selector !== undefined && (tips || moves)) {
        this.#markSelected(slice.meta.namespace, service.selector);
      }
    }
  }

  #namespaceChanged(namespace: string): void {
    this.#markPodsIn(namespace);
    this.#marks.walk(this.services.names(), (name) => {
      if (name.startsWith(`${namespace}/`)) this.#marks.services.add(name);
    });
  }

  #nodeChanged(node: string): void {
    this.#marks.nodes.add(node);
    this.#marks.walk(this.pods.onNode(node), (record) => this.#marks.pods.add(record.name));
  }

  #selectedChanged(
    before: { meta: { namespace: string }; selector: LabelSelector } | undefined,
    after: { meta: { namespace: string }; selector: LabelSelector } | undefined,
  ): void {
    for (const object of [before, after]) {
      if (object !== undefined) this.#markSelected(object.meta.namespace, object.selector);
    }
  }

  #peerChanged(
    before: PeerAuthentication | undefined,
    after: PeerAuthentication | undefined,
  ): void {
    for (const object of [before, after]) {
      if (object === undefined) continue;
      const { namespace } = object.meta;
      this.#marks.peers.add(objectKey(object));
      if (object.selector !== undefined) this.#markSelected(namespace, object.selector);
      else this.#modeChanged(namespace);
    }
  }

  /** The mode that others inherit from this namespace may have changed. */
  #modeChanged(namespace: string): void {
    for (const peer of this.policies.peersInheritingFrom(namespace)) {
      this.#marks.peers.add(objectKey(peer));
    }
    this.#markPodsIn(namespace === ROOT_NAMESPACE ? '' : namespace);
  }

  #configChanged(config: MeshConfig): void {
    const before = this.config;
    this.config = { ...config, trustDomain: this.#trustDomain };
    this.#departures.configChanged(before, config);
    this.policies.setMeshMode(config.mtlsMode);
    this.#modeChanged(ROOT_NAMESPACE);
    this.#marks.walk(this.services.names(), (name) => this.#marks.services.add(name));
    this.#marks.walk(this.services.sliceNames(), (name) => this.#marks.slices.add(name));
    for (const node of this.nodes.keys()) this.#marks.nodes.add(node);
  }

  #markPodsIn(namespace: string): void {
    this.#marks.walk(this.pods.byLabels.inNamespace(namespace), (record) =>
      this.#marks.pods.add(record.name),
    );
  }

  #markSelected(namespace: string, selector: LabelSelector | undefined): void {
    if (selector === undefined) return;
    this.#marks.walk(this.pods.byLabels.candidates(namespace, selector), ({ pod, name }) => {
      if (selectorMatches(selector, pod.meta.labels)) this.#marks.pods.add(name);
    });
  }
}
