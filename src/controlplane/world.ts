/**
 * The index: objects in, what the nodes must know out, incrementally.
 *
 * - `apply` files one object and marks what depends on it; it never walks the cluster.
 * - `collect` works the marks off in small steps, so that its caller can give the loop back between them, and
 *   returns one publication. Changes that arrive while it runs are in that publication too.
 * - A publication is complete: a workload in it never names a policy that neither it nor an earlier one has.
 * - Nothing about a pod is taken from any node but its own (T106).
 */

import type { IpAddress } from '../core/address.ts';
import type { CaptureReport, PodUid } from '../core/pod.ts';
import type { Workload } from '../core/workload.ts';
import { authorizationView } from './authorization.ts';
import {
  acknowledgedEnrolment,
  enrolmentEffect,
  foreignTunnel,
  initialEnrolment,
  NEVER_ENROLLED,
  nextEnrolment,
  wantsEnrolment,
  type Enrolment,
  type EnrolmentEffect,
  type EnrolmentPhase,
} from './enrolment.ts';
import { Marks, take } from './marks.ts';
import {
  type EndpointSlice,
  type MeshConfig,
  type ObjectChange,
  type ObjectCondition,
  type ObjectKey,
  type Pod,
  objectKey,
} from './objects.ts';
import {
  CONVERTED_PREFIX,
  convertedPolicy,
  STATIC_STRICT_KEY,
  staticStrictPolicy,
} from './peer-authentication.ts';
import {
  claimsAddresses,
  isTerminal,
  type PodChange,
  type PodName,
  type PodRecord,
  type PodRegistry,
} from './pod-registry.ts';
import {
  createPublication,
  setLocalPod,
  type Publication,
  type Settlement,
} from './publication.ts';
import { PublishedPolicies } from './published-policies.ts';
import { slicePorts, sliceService, type ServiceName, type SliceName } from './service-registry.ts';
import { serviceObjectKey, serviceView } from './service-view.ts';
import {
  endpointWorkload,
  endpointWorkloadUid,
  localPodView,
  nodeSettingsView,
  podWorkload,
  podWorkloadUid,
} from './workload-view.ts';
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
  readonly #marks = new Marks();
  readonly #state: WorldState;
  readonly #published = new PublishedPolicies();
  /** The policy that each AuthorizationPolicy was last published as. */
  readonly #authorizationKeys = new Map<ObjectKey, string>();
  /** Nodes that have connected: they get settings even without a Node object. */
  readonly #connected = new Set<string>();
  readonly #conditions = new Map<ObjectKey, ObjectCondition>();
  readonly #istioLabels: boolean;
  /** Each counts once: what comes later under a UID was not captured before. */
  readonly #restored: Set<PodUid>;
  #enrolmentVersion = 0;
  #pending: Publication = createPublication();
  /** Something is in `#pending` that no mark stands for. */
  #pendingUsed = true;

  constructor(options: WorldOptions = {}) {
    this.#istioLabels = options.istioLabels ?? false;
    this.#restored = new Set(options.restored);
    const departures: Departures = {
      podEnded: (change) => this.#podEnded(change),
      sliceChanged: (before) => this.#removeEndpoints(before, this.config.clusterId),
      serviceRemoved: (service) => {
        const key = serviceObjectKey(service, this.config.clusterDomain);
        this.#open().services.set(key, undefined);
      },
      configChanged: (before, declared) => {
        this.#checkTrustDomain(declared);
        this.#forgetNames(before);
      },
    };
    this.#state = new WorldState(this.#marks, departures, options.trustDomain ?? 'cluster.local');
    this.#published.set(STATIC_STRICT_KEY, staticStrictPolicy(), this.#pending);
  }

  get config(): MeshConfig {
    return this.#state.config;
  }

  get pods(): PodRegistry {
    return this.#state.pods;
  }

  /** Grows whenever some pod takes a step in or out of the mesh. */
  get enrolmentVersion(): number {
    return this.#enrolmentVersion;
  }

  get hasChanges(): boolean {
    return this.#pendingUsed || !this.#marks.isEmpty;
  }

  apply(change: ObjectChange): void {
    this.#state.apply(change);
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
      this.#marks.pods.add(record.name);
    }
  }

  /** A node that has connected gets its settings even when no Node object describes it. */
  connect(node: string): void {
    if (this.#connected.has(node)) return;
    this.#connected.add(node);
    this.#marks.nodes.add(node);
  }

  disconnect(node: string): void {
    if (this.#connected.delete(node)) this.#marks.nodes.add(node);
  }

  /** Those whom a settlement concerned have acknowledged, or had their time. */
  settle(settlement: Settlement): void {
    if (settlement.kind === 'policy') {
      this.#published.settle(settlement.key, this.#open());
      return;
    }
    const record = this.pods.byUid(settlement.podUid);
    if (record?.enrolment === undefined || record.epoch !== settlement.epoch) return;
    this.#setEnrolment(record, acknowledgedEnrolment(record.enrolment));
    this.#marks.pods.add(record.name);
  }

  conditions(): Iterable<ObjectCondition> {
    return this.#conditions.values();
  }

  *statuses(): Iterable<PodStatus> {
    for (const { pod, enrolment, report } of this.pods.all()) {
      const { namespace, name } = pod.meta;
      const phase = enrolment?.phase ?? 'plain';
      yield { namespace, name, podUid: pod.uid, node: pod.node, phase, report };
    }
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
    const marks = this.#marks;
    const out = this.#open();
    const step = function* <T>(set: Set<T>, view: (item: T) => void): Generator<undefined> {
      for (const item of take(set)) {
        view(item);
        yield;
      }
    };
    while (!marks.isEmpty) {
      yield* marks.runWalks();
      yield* step(marks.authorizations, (key) => this.#viewAuthorization(key, out));
      yield* step(marks.peers, (key) => this.#viewPeer(key, out));
      yield* step(marks.services, (name) => this.#viewService(name, out));
      yield* step(marks.slices, (name) => this.#viewSlice(name, out));
      yield* step(marks.pods, (name) => this.#viewPod(name, out));
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

  #viewAuthorization(key: ObjectKey, out: Publication): void {
    const object = this.#state.policies.authorization(key);
    const view = object && authorizationView(object, this.#istioLabels);
    const policy = view?.policy;
    const before = this.#authorizationKeys.get(key);
    if (before !== undefined && before !== policy?.key) {
      this.#published.set(before, undefined, out);
      this.#authorizationKeys.delete(key);
    }
    if (policy !== undefined) {
      this.#published.set(policy.key, policy, out);
      this.#authorizationKeys.set(key, policy.key);
    }
    if (view?.condition === undefined) this.#conditions.delete(key);
    else this.#conditions.set(key, view.condition);
  }

  #viewPeer(key: ObjectKey, out: Publication): void {
    const object = this.#state.policies.peer(key);
    const [, namespace = '', name = ''] = key.split('/');
    const inherited = this.#state.policies.inheritedMode(namespace);
    const policy = object && convertedPolicy(object, inherited);
    this.#published.set(`${namespace}/${CONVERTED_PREFIX}${name}`, policy, out);
  }

  #viewService(name: ServiceName, out: Publication): void {
    const object = this.#state.services.get(name);
    if (object === undefined) return;
    const key = serviceObjectKey(object, this.config.clusterDomain);
    const namespace = this.#state.namespaces.get(object.meta.namespace);
    out.services.set(key, serviceView(object, namespace, this.config));
  }

  #viewSlice(name: SliceName, out: Publication): void {
    const { services, pods } = this.#state;
    const slice = services.slice(name);
    const service = slice && services.get(sliceService(slice));
    if (slice === undefined) return;
    const carried = service !== undefined && service.type !== 'ExternalName';
    const served = carried ? { service, ports: slicePorts(service, slice) } : undefined;
    for (const ip of addressesOf(slice.endpoints)) {
      const uid = endpointWorkloadUid(this.config.clusterId, slice, ip);
      const ownedByPod = pods.owner(ip) !== undefined;
      const workload = ownedByPod ? undefined : endpointWorkload(slice, ip, served, this.config);
      out.workloads.set(uid, workload);
    }
  }

  #viewPod(name: PodName, out: Publication): void {
    const record = this.pods.get(name);
    if (record === undefined) return;
    const { pod } = record;
    const effect = this.#evaluate(record, out);
    const local = isTerminal(pod) ? undefined : localPodView(pod, effect, this.config);
    setLocalPod(out, pod.node, pod.uid, local);
    const uid = podWorkloadUid(this.config.clusterId, pod.meta.namespace, pod.meta.name);
    out.workloads.set(uid, this.#viewWorkload(record, effect));
  }

  #viewWorkload(record: PodRecord, effect: EnrolmentEffect): Workload | undefined {
    const { pod } = record;
    const { policies, services, nodes } = this.#state;
    if (isTerminal(pod)) return undefined;
    const addresses = claimsAddresses(pod)
      ? pod.addresses.filter((ip) => this.pods.owner(ip) === record)
      : pod.addresses;
    if (addresses.length === 0) return undefined;
    const facts = {
      pod,
      addresses,
      effect,
      served: services.servedBy(pod, claimsAddresses(pod) ? addresses : []),
      selectingKeys: policies.selectingKeys(pod),
      strictKey: policies.strictKey(pod),
      filtered: policies.isFiltered(pod),
      node: nodes.get(pod.node),
    };
    return podWorkload(facts, this.config);
  }

  /** Moves the pod's enrolment as far as it goes now, and asks for the acknowledgement it then needs. */
  #evaluate(record: PodRecord, out: Publication): EnrolmentEffect {
    const { pod } = record;
    const namespace = this.#state.namespaces.get(pod.meta.namespace);
    const wanted = !isTerminal(pod) && wantsEnrolment(pod, namespace, this.#istioLabels);
    if (record.enrolment === undefined) {
      this.#setEnrolment(record, initialEnrolment(pod, wanted, this.#restored.delete(pod.uid)));
    }
    for (let now = record.enrolment; now !== undefined; now = record.enrolment) {
      const next = nextEnrolment(now, pod, wanted, record.report?.state === 'captured');
      if (next === now) break;
      this.#setEnrolment(record, next);
    }
    const effect = enrolmentEffect(record.enrolment ?? { phase: 'plain', wasPlain: true });
    if (effect.waitsFor !== 'nobody' && record.askedEpoch !== record.epoch) {
      const node = effect.waitsFor === 'own-node' ? pod.node : undefined;
      out.settlements.push({ kind: 'pod', podUid: pod.uid, epoch: record.epoch, node });
      record.askedEpoch = record.epoch;
    }
    return effect;
  }

  #setEnrolment(record: PodRecord, enrolment: Enrolment): void {
    record.enrolment = enrolment;
    // Never the same twice, not even for a pod that comes back under its UID.
    record.epoch = ++this.#enrolmentVersion;
  }

  #viewNode(node: string, out: Publication): void {
    const object = this.#state.nodes.get(node);
    const known = object !== undefined || this.#connected.has(node);
    out.nodeSettings.set(node, known ? nodeSettingsView(node, object, this.config) : undefined);
  }

  /** A pod that is gone, was replaced or changed its node leaves what was published under its old key. */
  #podEnded({ before, after, ended }: PodChange): void {
    if (before === undefined) return;
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

  #checkTrustDomain(declared: MeshConfig): void {
    const key = objectKey(declared);
    const served = this.config.trustDomain;
    this.#conditions.delete(key);
    if (declared.trustDomain === '' || declared.trustDomain === served) return;
    const message = `trustDomain "${declared.trustDomain}" is not in effect: the CA serves "${served}"`;
    this.#conditions.set(key, { key, reason: 'TrustDomainMismatch', message });
  }

  /** Names contain the cluster's id and domain; when those change, the old names go. */
  #forgetNames(before: MeshConfig): void {
    for (const node of this.#connected) this.#marks.nodes.add(node);
    const { clusterId, clusterDomain } = this.#state.config;
    if (before.clusterId === clusterId && before.clusterDomain === clusterDomain) return;
    const { pods, services } = this.#state;
    const out = this.#open();
    for (const { pod } of pods.all()) {
      const uid = podWorkloadUid(before.clusterId, pod.meta.namespace, pod.meta.name);
      out.workloads.set(uid, undefined);
    }
    for (const name of services.names()) {
      const service = services.get(name);
      if (service === undefined) continue;
      out.services.set(serviceObjectKey(service, before.clusterDomain), undefined);
    }
    for (const name of services.sliceNames()) {
      const slice = services.slice(name);
      if (slice !== undefined) this.#removeEndpoints(slice, before.clusterId);
    }
  }
}

function* addressesOf(endpoints: EndpointSlice['endpoints']): Iterable<IpAddress> {
  for (const { addresses } of endpoints) yield* addresses;
}

function sameReport(a: CaptureReport | undefined, b: CaptureReport | undefined): boolean {
  return a?.state === b?.state && a?.reason === b?.reason;
}
