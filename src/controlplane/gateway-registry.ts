/**
 * Gateways and their classes, and which of them a service or pod goes through: by label, the object's own word
 * before its namespace's. Whoever declares a waypoint goes through it or nowhere: a name that leads to no usable
 * waypoint is published as one that cannot be reached (T49).
 */

import type { GatewayAddress } from '../core/workload.ts';
import { PORTS } from '../core/pod.ts';
import {
  CONTROLLER_NAME,
  WAYPOINT_CLASS,
  type Gateway,
  type GatewayClass,
  type MeshDeclaration,
} from './gateway-objects.ts';
import { selectorMatches } from './labels.ts';
import { addTo, removeFrom } from './multi-map.ts';
import type { Labels, Namespace, ObjectMeta, Pod } from './objects.ts';
import type { PodName } from './pod-registry.ts';
import type { ServiceName } from './service-registry.ts';
import { splitName, waypointName, type WaypointName } from './waypoint-scope.ts';

/** Why a declared waypoint cannot be used; each is a word of the host name it is published with. */
export type WaypointProblem = 'missing' | 'foreign-class' | 'forbidden';

export interface WaypointBinding {
  readonly waypoint: WaypointName;
  /** Undefined: it can be used. */
  readonly problem: WaypointProblem | undefined;
  /** The Gateway is ours to configure. */
  readonly ours: boolean;
}

/** On every pod that was made for a Gateway. */
export const GATEWAY_NAME_LABEL = 'gateway.networking.k8s.io/gateway-name';
const WAYPOINT_LABEL = 'nodemesh.dev/waypoint';
const ISTIO_WAYPOINT_LABEL = 'istio.io/use-waypoint';
const FOR_LABEL = 'nodemesh.dev/waypoint-for';
const ISTIO_FOR_LABEL = 'istio.io/waypoint-for';
/** Of Istio's own waypoints, which speak the same tunnel. */
const ISTIO_CLASS = 'istio-waypoint';

export class GatewayRegistry {
  readonly #gateways = new Map<WaypointName, Gateway>();
  readonly #classes = new Map<string, GatewayClass>();
  readonly #meshes = new Map<string, MeshDeclaration>();
  readonly #istioLabels: boolean;
  readonly #services = new Map<WaypointName, Set<ServiceName>>();
  readonly #pods = new Map<WaypointName, Set<PodName>>();
  readonly #waypointOfService = new Map<ServiceName, WaypointName>();
  readonly #waypointOfPod = new Map<PodName, WaypointName>();

  constructor(istioLabels: boolean) {
    this.#istioLabels = istioLabels;
  }

  get(name: WaypointName): Gateway | undefined {
    return this.#gateways.get(name);
  }

  all(): Iterable<Gateway> {
    return this.#gateways.values();
  }

  classes(): Iterable<GatewayClass> {
    return this.#classes.values();
  }

  names(): Iterable<WaypointName> {
    return this.#gateways.keys();
  }

  put(gateway: Gateway): void {
    this.#gateways.set(gatewayName(gateway), gateway);
  }

  remove(name: WaypointName): void {
    this.#gateways.delete(name);
  }

  putClass(object: GatewayClass): void {
    this.#classes.set(object.meta.name, object);
  }

  removeClass(name: string): void {
    this.#classes.delete(name);
  }

  meshes(): Iterable<MeshDeclaration> {
    return this.#meshes.values();
  }

  putMesh(object: MeshDeclaration): void {
    this.#meshes.set(object.meta.name, object);
  }

  removeMesh(name: string): void {
    this.#meshes.delete(name);
  }

  /** Whether the controller makes and configures this Gateway. */
  isOurs(gateway: Gateway): boolean {
    const declared = this.#classes.get(gateway.className);
    return declared === undefined
      ? gateway.className === WAYPOINT_CLASS
      : this.isOurClass(declared);
  }

  isOurClass({ controllerName }: GatewayClass | MeshDeclaration): boolean {
    return controllerName === CONTROLLER_NAME;
  }

  /** Whether what is in this namespace goes through a waypoint if it does not say otherwise. */
  declares(namespace: Namespace | undefined): boolean {
    const [, name] = this.#labelled(namespace?.meta.labels) ?? ['', 'none'];
    return name !== 'none';
  }

  /** Whether the pod is a process of one of our waypoints: then it speaks the tunnel itself. */
  isWaypointPod(pod: Pod): boolean {
    const label = pod.meta.labels.get(GATEWAY_NAME_LABEL);
    if (label === undefined || label !== pod.serviceAccount || pod.hostNetwork) return false;
    const gateway = this.#gateways.get(waypointName(pod.meta.namespace, label));
    return gateway !== undefined && this.isOurs(gateway);
  }

  /** What a service goes through; remembered, so that a change of the Gateway finds it. */
  bindService(
    name: ServiceName,
    meta: ObjectMeta,
    namespace: Namespace | undefined,
  ): WaypointBinding | undefined {
    const own = this.#gateways.get(waypointName(meta.namespace, meta.name));
    // The waypoint's own service is how it is reached.
    const itself = own !== undefined && this.isOurs(own);
    const declared = itself ? undefined : this.#declared(meta, namespace);
    remember(this.#services, this.#waypointOfService, name, declared?.waypoint);
    if (declared === undefined || !this.#serves(declared.waypoint, 'service')) return undefined;
    return this.#resolve(declared.waypoint, meta.namespace, namespace);
  }

  /** What connections to a pod's own address go through. */
  bindPod(name: PodName, pod: Pod, namespace: Namespace | undefined): WaypointBinding | undefined {
    const apart = pod.hostNetwork || this.isWaypointPod(pod);
    const declared = apart ? undefined : this.#declared(pod.meta, namespace);
    remember(this.#pods, this.#waypointOfPod, name, declared?.waypoint);
    // The pod's own label means the pod; its namespace's means what the waypoint is for.
    if (declared === undefined) return undefined;
    if (!declared.own && !this.#serves(declared.waypoint, 'workload')) return undefined;
    return this.#resolve(declared.waypoint, pod.meta.namespace, namespace);
  }

  forgetService(name: ServiceName): void {
    remember(this.#services, this.#waypointOfService, name, undefined);
  }

  forgetPod(name: PodName): void {
    remember(this.#pods, this.#waypointOfPod, name, undefined);
  }

  servicesOf(waypoint: WaypointName): Iterable<ServiceName> {
    return this.#services.get(waypoint) ?? [];
  }

  podsOf(waypoint: WaypointName): Iterable<PodName> {
    return this.#pods.get(waypoint) ?? [];
  }

  #labelled(labels: Labels | undefined): readonly [key: string, name: string] | undefined {
    const keys = this.#istioLabels ? [WAYPOINT_LABEL, ISTIO_WAYPOINT_LABEL] : [WAYPOINT_LABEL];
    for (const key of keys) {
      const name = labels?.get(key) ?? '';
      if (name !== '') return [key, name];
    }
    return undefined;
  }

  #declared(
    meta: ObjectMeta,
    namespace: Namespace | undefined,
  ): { readonly waypoint: WaypointName; readonly own: boolean } | undefined {
    const own = this.#labelled(meta.labels);
    const [key, name] = own ?? this.#labelled(namespace?.meta.labels) ?? ['', 'none'];
    if (name === 'none') return undefined;
    const labels = own === undefined ? namespace?.meta.labels : meta.labels;
    const elsewhere = labels?.get(`${key}-namespace`) ?? '';
    const home = elsewhere === '' ? meta.namespace : elsewhere;
    return { waypoint: waypointName(home, name), own: own !== undefined };
  }

  #resolve(
    waypoint: WaypointName,
    clientNamespace: string,
    namespace: Namespace | undefined,
  ): WaypointBinding {
    const gateway = this.#gateways.get(waypoint);
    if (gateway === undefined) return { waypoint, problem: 'missing', ours: false };
    const ours = this.isOurs(gateway);
    const istio = this.#istioLabels && gateway.className === ISTIO_CLASS;
    if (!ours && !istio) return { waypoint, problem: 'foreign-class', ours };
    const allowed =
      gateway.meta.namespace === clientNamespace || allows(gateway, clientNamespace, namespace);
    return { waypoint, problem: allowed ? undefined : 'forbidden', ours };
  }

  /** A Gateway that does not exist serves what is asked of it: so it is missed. */
  #serves(waypoint: WaypointName, what: 'service' | 'workload'): boolean {
    const labels = this.#gateways.get(waypoint)?.meta.labels;
    const istio = this.#istioLabels ? labels?.get(ISTIO_FOR_LABEL) : undefined;
    const purpose = labels?.get(FOR_LABEL) ?? istio ?? 'service';
    return purpose === 'all' || purpose === what;
  }
}

/** How clients find it: by the host name of its service; of one that cannot be used, by a name that is no host. */
export function waypointAddress(
  { waypoint, problem }: WaypointBinding,
  clusterDomain: string,
): GatewayAddress {
  const [namespace, name] = splitName(waypoint);
  // RFC 6761 section 6.4: nothing is ever called so.
  const suffix = problem === undefined ? `svc.${clusterDomain}` : `${problem}-waypoint.invalid`;
  const hostname = `${name}.${namespace}.${suffix}`;
  return { target: { kind: 'hostname', namespace, hostname }, hbonePort: PORTS.hbone };
}

export function gatewayName({ meta }: Gateway): WaypointName {
  return waypointName(meta.namespace, meta.name);
}

/** By any of its listeners. */
function allows(gateway: Gateway, name: string, namespace: Namespace | undefined): boolean {
  // Every namespace of a cluster carries its own name as a label.
  const labels = new Map([...(namespace?.meta.labels ?? []), [NAMESPACE_NAME_LABEL, name]]);
  return gateway.listeners.some(({ allowed }) => {
    if (typeof allowed === 'string') return allowed === 'All';
    return selectorMatches(allowed, labels);
  });
}

const NAMESPACE_NAME_LABEL = 'kubernetes.io/metadata.name';

function remember<T>(
  users: Map<WaypointName, Set<T>>,
  waypointOf: Map<T, WaypointName>,
  user: T,
  waypoint: WaypointName | undefined,
): void {
  const before = waypointOf.get(user);
  if (before === waypoint) return;
  if (before !== undefined) removeFrom(users, before, user);
  if (waypoint === undefined) {
    waypointOf.delete(user);
  } else {
    waypointOf.set(user, waypoint);
    addTo(users, waypoint, user);
  }
}
