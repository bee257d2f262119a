/** Everything the index knows of the sources, filed; and what depends on what: one change → the marks. */

import { isDeepStrictEqual } from 'node:util';

import type { RouteObject } from './gateway-objects.ts';
import { HttpPolicyViews } from './http-policy-views.ts';
import { GATEWAY_NAME_LABEL, gatewayName, GatewayRegistry } from './gateway-registry.ts';
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
  type ObjectKey,
  type ObjectChange,
  type PeerAuthentication,
  type ServiceObject,
  type TrafficPolicyObject,
  type TrafficTarget,
} from './objects.ts';
import { PodRegistry, podName, type PodChange } from './pod-registry.ts';
import { PolicyRegistry, selectedNamespace } from './policy-registry.ts';
import { parentServices, RouteRegistry } from './route-registry.ts';
import {
  sliceName,
  sliceService,
  ServiceRegistry,
  serviceName,
  type ServiceName,
  type SliceName,
} from './service-registry.ts';
import { targetKey, targetsOf, TrafficRegistry, type TargetKey } from './traffic-registry.ts';
import { splitName, waypointName, type WaypointName } from './waypoint-scope.ts';

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

const WAYPOINT_POLICY_ANNOTATION = 'nodemesh.dev/waypoint-policy';

/** The service would rather do without its waypoint than be refused while that is not ready. */
export function prefersWaypoint({ meta }: ServiceObject): boolean {
  return meta.annotations.get(WAYPOINT_POLICY_ANNOTATION) === 'preferred';
}

export class WorldState {
  readonly pods: PodRegistry = new PodRegistry();
  readonly services: ServiceRegistry = new ServiceRegistry();
  readonly policies: PolicyRegistry = new PolicyRegistry();
  readonly routes: RouteRegistry = new RouteRegistry();
  readonly gateways: GatewayRegistry;
  readonly traffic: TrafficRegistry = new TrafficRegistry();
  readonly httpPolicies: HttpPolicyViews = new HttpPolicyViews();
  readonly namespaces: Map<string, Namespace> = new Map();
  readonly nodes: Map<string, NodeObject> = new Map();
  /** As it counts: with the CA's trust domain, whatever the object says. */
  config: MeshConfig;
  readonly #marks: Marks;
  readonly #departures: Departures;

  readonly #trustDomain: string;

  constructor(marks: Marks, departures: Departures, trustDomain: string, istioLabels: boolean) {
    this.gateways = new GatewayRegistry(istioLabels);
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
        return this.#servicePut(object);
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
      case 'GatewayClass':
        this.gateways.putClass(object);
        return this.#classChanged();
      case 'XMesh':
        return this.gateways.putMesh(object);
      case 'Gateway':
        this.gateways.put(object);
        return this.#gatewayChanged(gatewayName(object));
      case 'HTTPRoute':
      case 'GRPCRoute':
      case 'TLSRoute':
      case 'TCPRoute':
        return this.#routeChanged(this.routes.put(object), object);
      case 'ReferenceGrant':
        this.routes.putGrant(object);
        return this.#grantChanged(object.meta.namespace);
      case 'TrafficPolicy':
        return this.#trafficChanged(this.traffic.put(object), object);
      case 'MeshConfig':
        return this.#configChanged(object);
      case 'RequestAuthentication':
        this.#markGoverned(key, object.meta.namespace);
        this.httpPolicies.put(object);
        this.#markGoverned(key, object.meta.namespace);
        this.#marks.httpPolicies.add(key);
        return;
      case 'PeerAuthentication':
        return this.#peerChanged(this.policies.putPeer(object), object);
      case 'AuthorizationPolicy': {
        const before = this.policies.putAuthorization(object);
        this.#marks.authorizations.add(key);
        this.#markGoverned(key, object.meta.namespace);
        this.#marks.httpPolicies.add(key);
        this.httpPolicies.put(object);
        this.#markGoverned(key, object.meta.namespace);
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
      case 'GatewayClass':
        this.gateways.removeClass(name);
        return this.#classChanged();
      case 'XMesh':
        return this.gateways.removeMesh(name);
      case 'Gateway':
        this.gateways.remove(waypointName(namespace, name));
        return this.#gatewayChanged(waypointName(namespace, name));
      case 'HTTPRoute':
      case 'GRPCRoute':
      case 'TLSRoute':
      case 'TCPRoute':
        return this.#routeChanged(this.routes.remove(key), undefined);
      case 'ReferenceGrant':
        this.routes.removeGrant(namespace, name);
        return this.#grantChanged(namespace);
      case 'TrafficPolicy':
        return this.#trafficChanged(this.traffic.remove(key), undefined);
      case 'MeshConfig':
        return this.#configChanged(defaultMeshConfig(this.#trustDomain));
      case 'RequestAuthentication':
        this.#markGoverned(key, namespace);
        this.httpPolicies.remove(key);
        this.#marks.httpPolicies.add(key);
        return;
      case 'PeerAuthentication':
        return this.#peerChanged(this.policies.removePeer(key), undefined);
      case 'AuthorizationPolicy': {
        const before = this.policies.removeAuthorization(key);
        this.#marks.authorizations.add(key);
        this.#markGoverned(key, namespace);
        this.#marks.httpPolicies.add(key);
        this.httpPolicies.remove(key);
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
    // Those who prefer a waypoint do without while it is not ready.
    const gateway = pod.meta.labels.get(GATEWAY_NAME_LABEL);
    if (gateway !== undefined) this.#markPreferring(waypointName(pod.meta.namespace, gateway));
    // Other claimants of its addresses, and slices that lead there, may have to give way or step in.
    for (const ip of new Set([...(before?.addresses ?? []), ...(after?.addresses ?? [])])) {
      for (const record of this.pods.claims(ip)) this.#marks.pods.add(record.name);
      for (const name of this.services.slicesAt(ip)) this.#marks.slices.add(name);
    }
  }

  /** What we wrote into its status ourselves changes nothing. */
  #servicePut(object: ServiceObject): void {
    const before = this.services.putService(object);
    const { waypointBound } = object;
    if (before !== undefined && isDeepStrictEqual({ ...before, waypointBound }, object)) return;
    this.#serviceChanged(before, object);
  }

  #serviceChanged(before: ServiceObject | undefined, after: ServiceObject | undefined): void {
    const service = after ?? before;
    if (service === undefined) return;
    const { namespace, name } = service.meta;
    if (before !== undefined && after === undefined) this.#departures.serviceRemoved(before);
    this.#marks.services.add(serviceName(namespace, name));
    this.#markBound(this.routes.parentsLeadingTo(serviceName(namespace, name)));
    this.#markPoliciesAt(targetKey('Service', namespace, name));
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

  #routeChanged(before: RouteObject | undefined, after: RouteObject | undefined): void {
    for (const route of [before, after]) {
      if (route === undefined) continue;
      this.#markBound(parentServices(route));
      if (route.kind !== 'HTTPRoute' && route.kind !== 'GRPCRoute') continue;
      this.#markPoliciesAt(targetKey(route.kind, route.meta.namespace, route.meta.name));
    }
  }

  #trafficChanged(
    before: TrafficPolicyObject | undefined,
    after: TrafficPolicyObject | undefined,
  ): void {
    for (const object of [before, after]) {
      if (object === undefined) continue;
      this.#marks.trafficPolicies.add(objectKey(object));
      for (const target of targetsOf(object)) this.#markPoliciesAt(target);
      for (const target of object.targets) this.#markTraffic(target, object.meta.namespace);
    }
  }

  /** Everybody whose requests a policy with this target bears on. */
  #markTraffic({ kind, name }: TrafficTarget, namespace: string): void {
    const mark = (service: ServiceName): unknown => this.#marks.traffic.add(service);
    switch (kind) {
      case 'Service':
        mark(serviceName(namespace, name));
        return;
      case 'Namespace':
        return this.#marks.walk(this.services.names(), (service) => {
          if (service.startsWith(`${name}/`)) mark(service);
        });
      case 'Gateway':
        return this.#marks.walk(this.gateways.servicesOf(waypointName(namespace, name)), mark);
      case 'HTTPRoute':
      case 'GRPCRoute': {
        const route = this.routes.get(formatObjectKey(kind, namespace, name));
        if (route !== undefined) for (const service of parentServices(route)) mark(service);
      }
    }
  }

  /** Why a traffic policy cannot have this target; undefined: it can. */
  targetProblem({ kind, name, sectionName }: TrafficTarget, namespace: string): string | undefined {
    switch (kind) {
      case 'Namespace':
        return undefined;
      case 'Service': {
        const service = this.services.get(serviceName(namespace, name));
        if (service === undefined) return 'does not exist';
        const found = service.ports.some((port) => {
          return port.name === sectionName || String(port.port) === sectionName;
        });
        return found || sectionName === '' ? undefined : `has no port "${sectionName}"`;
      }
      case 'Gateway': {
        const gateway = this.gateways.get(waypointName(namespace, name));
        return gateway === undefined ? 'does not exist' : undefined;
      }
      case 'HTTPRoute':
      case 'GRPCRoute': {
        const route = this.routes.get(formatObjectKey(kind, namespace, name));
        if (route === undefined) return 'does not exist';
        const found = route.rules.some((rule) => rule.name === sectionName);
        return found || sectionName === '' ? undefined : `has no rule "${sectionName}"`;
      }
    }
  }

  #markPoliciesAt(target: TargetKey): void {
    for (const key of this.traffic.keysAt(target)) this.#marks.trafficPolicies.add(key);
  }

  #grantChanged(namespace: string): void {
    this.#markBound(this.routes.parentsCrossingInto(namespace));
  }

  #markBound(services: Iterable<ServiceName>): void {
    for (const name of services) this.#marks.bound.add(name);
  }

  #classChanged(): void {
    for (const name of this.gateways.names()) this.#gatewayChanged(name);
  }

  /** Who goes through it, and who its processes are, may have changed. */
  #gatewayChanged(waypoint: WaypointName): void {
    const [namespace, name] = splitName(waypoint);
    this.#marks.services.add(serviceName(namespace, name));
    this.#markPoliciesAt(targetKey('Gateway', namespace, name));
    for (const key of this.httpPolicies.ofGateway(waypoint)) this.#marks.httpPolicies.add(key);
    this.#marks.walk(this.gateways.servicesOf(waypoint), (user) => this.#marks.services.add(user));
    this.#marks.walk(this.gateways.podsOf(waypoint), (user) => this.#marks.pods.add(user));
    this.#marks.walk(this.pods.withAccountAnywhere(namespace, name), (record) =>
      this.#marks.pods.add(record.name),
    );
  }

  /** Services whose ports a policy opens to their waypoint alone. */
  #markGoverned(key: ObjectKey, namespace: string): void {
    for (const { kind, name } of this.httpPolicies.targetsOf(key)) {
      if (kind === 'Service') {
        this.#marks.services.add(serviceName(namespace, name));
      } else {
        const users = this.gateways.servicesOf(waypointName(namespace, name));
        this.#marks.walk(users, (user) => this.#marks.services.add(user));
      }
    }
  }

  /** Pods that the service leads to. */
  markBehind(name: ServiceName): void {
    const selector = this.services.get(name)?.selector;
    this.#markSelected(splitName(name)[0], selector);
    for (const slice of this.services.slicesOf(name)) this.#markSlice(this.services.slice(slice));
  }

  #markPreferring(waypoint: WaypointName): void {
    this.#marks.walk(this.gateways.servicesOf(waypoint), (name) => {
      const service = this.services.get(name);
      if (service !== undefined && prefersWaypoint(service)) this.#marks.services.add(name);
    });
  }

  #namespaceChanged(namespace: string): void {
    this.#marks.namespaces.add(namespace);
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
