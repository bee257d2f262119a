/**
 * The index: objects in, what the nodes must know out, incrementally.
 *
 * - `apply` files one object and marks what depends on it; it never walks the cluster.
 * - `collect` works the marks off in small steps, so that its caller can give the loop back between them, and
 *   returns one publication. Changes that arrive while it runs are in that publication too.
 * - A publication is complete: a workload in it never names a policy that neither it nor an earlier one has.
 * - Nothing about a pod is taken from any node but its own (T106).
 */

import type { CaptureReport, PodUid } from '../core/pod.ts';
import {
  enrolmentEffect,
  foreignTunnel,
  isNamespaceEnrolled,
  NEVER_ENROLLED,
  type EnrolmentPhase,
} from './enrolment.ts';
import { gatewayApiView } from './gateway-api-view.ts';
import type { GatewayApiView } from './gateway-status.ts';
import { Marks, take } from './marks.ts';
import {
  type EndpointSlice,
  type MeshConfig,
  type ObjectChange,
  type ObjectCondition,
  type Pod,
  type ServiceObject,
  objectKey,
} from './objects.ts';
import { STATIC_STRICT_KEY, staticStrictPolicy } from './peer-authentication.ts';
import { PodEnrolments } from './pod-enrolments.ts';
import { type PodChange, type PodRecord, type PodRegistry } from './pod-registry.ts';
import {
  createPublication,
  setLocalPod,
  type Publication,
  type Settlement,
} from './publication.ts';
import { PublishedPolicies } from './published-policies.ts';
import { serviceObjectKey } from './service-view.ts';
import { endpointWorkloadUid, nodeSettingsView, podWorkloadUid } from './workload-view.ts';
import { TrafficViews } from './traffic-views.ts';
import { WaypointExemptions } from './waypoint-exemptions.ts';
import { WaypointOnly } from './waypoint-only.ts';
import { WaypointViews } from './waypoint-views.ts';
import type { WorldParts } from './world-parts.ts';
import { addressesOf, WorldPods } from './world-pods.ts';
import { WorldPolicies } from './world-policies.ts';
import { WorldServices } from './world-services.ts';
import { WorldState, type Departures } from './world-state.ts';

export interface WorldOptions {
  /** The CA's. Default `cluster.local`. */
  readonly trustDomain?: string;
  /** `istio.io/dataplane-mode` and Istio's dry-run annotation count too. Default false. */
  readonly istioLabels?: boolean;
  /** Pods that an earlier life of the controller had published as HBONE. Default none. */
  readonly restored?: ReadonlySet<PodUid>;
}

/** One pod's way into the mesh, for status and `meshctl`. */
export interface PodStatus {
  readonly namespace: string;
  readonly name: string;
  readonly podUid: PodUid;
  readonly node: string;
  readonly phase: EnrolmentPhase;
  /** The last report of the pod's node. */
  readonly report: CaptureReport | undefined;
}

export class World {
  readonly #parts: WorldParts;
  readonly #policies: WorldPolicies;
  readonly #services: WorldServices;
  readonly #pods: WorldPods;
  /** Nodes that have connected: they get settings even without a Node object. */
  readonly #connected = new Set<string>();
  #pending: Publication = createPublication();
  /** Something is in `#pending` that no mark stands for. */
  #pendingUsed = true;

  constructor(options: WorldOptions = {}) {
    const istioLabels = options.istioLabels ?? false;
    const trustDomain = options.trustDomain ?? 'cluster.local';
    const departures: Departures = {
      podEnded: (change) => this.#podEnded(change),
      sliceChanged: (before) => this.#removeEndpoints(before, this.config.clusterId),
      serviceRemoved: (service) => this.#removeService(service, this.config.clusterDomain),
      configChanged: (before, declared) => {
        this.#checkTrustDomain(declared);
        this.#forgetNames(before);
      },
    };
    const marks = new Marks();
    const state = new WorldState(marks, departures, trustDomain, istioLabels);
    this.#parts = {
      state,
      marks,
      istioLabels,
      published: new PublishedPolicies(),
      enrolments: new PodEnrolments(state.pods, options.restored ?? [], (name) =>
        marks.pods.add(name),
      ),
      waypoints: new WaypointViews(state.routes),
      traffic: new TrafficViews(state.traffic),
      exemptions: new WaypointExemptions(trustDomain),
      only: new WaypointOnly(trustDomain),
      conditions: new Map(),
    };
    this.#policies = new WorldPolicies(this.#parts);
    this.#services = new WorldServices(this.#parts);
    this.#pods = new WorldPods(this.#parts);
    this.#parts.published.set(STATIC_STRICT_KEY, staticStrictPolicy(), this.#pending);
  }

  get config(): MeshConfig {
    return this.#parts.state.config;
  }

  get pods(): PodRegistry {
    return this.#parts.state.pods;
  }

  /** Where pods are on their way in or out of the mesh. */
  get enrolments(): PodEnrolments {
    return this.#parts.enrolments;
  }

  get hasChanges(): boolean {
    return this.#pendingUsed || !this.#parts.marks.isEmpty;
  }

  apply(change: ObjectChange): void {
    this.#parts.state.apply(change);
  }

  /**
   * Everything one node reports; a pod that is missing is one it says nothing about any more. What it says
   * about other nodes' pods is ignored.
   */
  report(node: string, reports: Iterable<CaptureReport>): void {
    const byUid = new Map<PodUid, CaptureReport>();
    for (const report of reports) byUid.set(report.podUid, report);
    for (const record of this.pods.onNode(node)) {
      const report = byUid.get(record.pod.uid);
      if (sameReport(record.report, report)) continue;
      record.report = report;
      this.#parts.marks.pods.add(record.name);
    }
  }

  /** A node that has connected gets its settings even when no Node object describes it. */
  connect(node: string): void {
    if (this.#connected.has(node)) return;
    this.#connected.add(node);
    this.#parts.marks.nodes.add(node);
  }

  disconnect(node: string): void {
    if (this.#connected.delete(node)) this.#parts.marks.nodes.add(node);
  }

  /** Those whom a settlement concerned have acknowledged, or had their time. */
  settle(settlement: Settlement): void {
    if (settlement.kind === 'policy') {
      this.#parts.published.settle(settlement.key, this.#open());
      return;
    }
    this.#parts.enrolments.settle(settlement.podUid, settlement.epoch);
  }

  conditions(): Iterable<ObjectCondition> {
    return this.#parts.conditions.values();
  }

  /** The conditions, and pods of the mesh that their node cannot capture. */
  *troubles(): Iterable<ObjectCondition> {
    yield* this.#parts.conditions.values();
    for (const { pod, report } of this.pods.all()) {
      if (report?.state !== 'failed') continue;
      const message = `Node "${pod.node}" cannot capture it: ${report.reason}`;
      yield { key: objectKey(pod), reason: 'NotCaptured', message };
    }
  }

  *statuses(): Iterable<PodStatus> {
    for (const { pod, enrolment, report } of this.pods.all()) {
      const { namespace, name } = pod.meta;
      const phase = enrolment?.phase ?? 'plain';
      yield { namespace, name, podUid: pod.uid, node: pod.node, phase, report };
    }
  }

  /** Gateway API objects of ours, and what is to be said of them. Walks all routes. */
  gatewayApi(): GatewayApiView {
    return gatewayApiView(this.#parts, (waypoint) => this.#services.isReady(waypoint));
  }

  /** Pods whose node serves them, and whether they are published as HBONE. */
  *attachedPods(): Iterable<{ readonly pod: Pod; readonly tunnelled: boolean }> {
    for (const { pod, enrolment } of this.pods.all()) {
      const effect = enrolment && enrolmentEffect(enrolment);
      if (effect?.attached === true) yield { pod, tunnelled: effect.hbone };
    }
  }

  /** Pods published as HBONE, to be restored by the next life of the controller. */
  *tunnelledPods(): Iterable<PodUid> {
    for (const { pod, enrolment } of this.pods.all()) {
      if (enrolment !== undefined && enrolmentEffect(enrolment).hbone) yield pod.uid;
    }
  }

  /** Whether the pod's node serves it now: ours, or that of another HBONE data plane which captured it. */
  isAttached({ pod, enrolment }: PodRecord): boolean {
    if (enrolment !== undefined && enrolmentEffect(enrolment).attached) return true;
    const never = NEVER_ENROLLED.includes(pod.meta.namespace);
    return !never && foreignTunnel(pod) === 'captured';
  }

  /** Yields between small steps; returns what changed. Only one may run at a time. */
  *collect(): Generator<undefined, Publication> {
    const marks = this.#parts.marks;
    const out = this.#open();
    const step = function* <T>(set: Set<T>, view: (item: T) => void): Generator<undefined> {
      for (const item of take(set)) {
        view(item);
        yield;
      }
    };
    while (!marks.isEmpty) {
      yield* marks.runWalks();
      yield* step(marks.authorizations, (key) => this.#policies.viewAuthorization(key, out));
      yield* step(marks.peers, (key) => this.#policies.viewPeer(key, out));
      yield* step(marks.services, (name) => this.#services.viewService(name, out));
      yield* step(marks.bound, (name) => this.#services.viewBound(name, out));
      yield* step(marks.httpPolicies, (key) => this.#policies.viewHttpPolicy(key, out));
      yield* step(marks.traffic, (name) => this.#services.viewTraffic(name, out));
      yield* step(marks.trafficPolicies, (key) => this.#policies.viewTrafficPolicy(key));
      yield* step(marks.slices, (name) => this.#pods.viewSlice(name, out));
      yield* step(marks.pods, (name) => this.#pods.viewPod(name, out));
      yield* step(marks.namespaces, (name) => this.#viewNamespace(name, out));
      yield* step(marks.nodes, (node) => this.#viewNode(node, out));
    }
    this.#pending = createPublication();
    this.#pendingUsed = false;
    return out;
  }

  #open(): Publication {
    this.#pendingUsed = true;
    return this.#pending;
  }

  #viewNamespace(name: string, out: Publication): void {
    const namespace = this.#parts.state.namespaces.get(name);
    const enrolled =
      namespace !== undefined && isNamespaceEnrolled(namespace, this.#parts.istioLabels);
    out.enrolledNamespaces.set(name, enrolled ? true : undefined);
  }

  #viewNode(node: string, out: Publication): void {
    const object = this.#parts.state.nodes.get(node);
    const known = object !== undefined || this.#connected.has(node);
    out.nodeSettings.set(node, known ? nodeSettingsView(node, object, this.config) : undefined);
  }

  /** A pod that is gone, was replaced or changed its node leaves what was published under its old key. */
  #podEnded({ before, after, ended }: PodChange): void {
    if (before === undefined) return;
    if (ended !== undefined) this.#parts.enrolments.ended(ended);
    const moved = after === undefined || before.uid !== after.uid || before.node !== after.node;
    if (moved) setLocalPod(this.#open(), before.node, before.uid, undefined);
    if (ended === undefined || after !== undefined) return;
    const { namespace, name } = before.meta;
    const uid = podWorkloadUid(this.config.clusterId, namespace, name);
    this.#open().workloads.set(uid, undefined);
  }

  #removeEndpoints(slice: EndpointSlice, clusterId: string): void {
    for (const ip of addressesOf(slice.endpoints)) {
      this.#open().workloads.set(endpointWorkloadUid(clusterId, slice, ip), undefined);
    }
  }

  #removeService(service: ServiceObject, clusterDomain: string): void {
    const key = serviceObjectKey(service, clusterDomain);
    const out = this.#open();
    out.services.set(key, undefined);
    this.#parts.waypoints.forget(key, out);
    this.#parts.traffic.forget(key, out.traffic);
  }

  #checkTrustDomain(declared: MeshConfig): void {
    const key = objectKey(declared);
    const served = this.config.trustDomain;
    this.#parts.conditions.delete(key);
    if (declared.trustDomain === '' || declared.trustDomain === served) return;
    const message = `trustDomain "${declared.trustDomain}" is not in effect: the CA serves "${served}"`;
    this.#parts.conditions.set(key, { key, reason: 'TrustDomainMismatch', message });
  }

  /** Names contain the cluster's id and domain; when those change, the old names go. */
  #forgetNames(before: MeshConfig): void {
    for (const node of this.#connected) this.#parts.marks.nodes.add(node);
    const { clusterId, clusterDomain } = this.#parts.state.config;
    if (before.clusterId === clusterId && before.clusterDomain === clusterDomain) return;
    const { pods, services } = this.#parts.state;
    for (const { pod } of pods.all()) {
      const uid = podWorkloadUid(before.clusterId, pod.meta.namespace, pod.meta.name);
      this.#open().workloads.set(uid, undefined);
    }
    for (const name of services.names()) {
      const service = services.get(name);
      if (service !== undefined) this.#removeService(service, before.clusterDomain);
    }
    for (const name of services.sliceNames()) {
      const slice = services.slice(name);
      if (slice !== undefined) this.#removeEndpoints(slice, before.clusterId);
    }
  }
}

function sameReport(a: CaptureReport | undefined, b: CaptureReport | undefined): boolean {
  return a?.state === b?.state && a?.reason === b?.reason;
}
