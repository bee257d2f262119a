/**
 * Where each pod is on its way in or out of the mesh: moves it as labels, reports and acknowledgements allow
 * (enrolment.ts), or, where another controller is its node's home, follows that one (enrolment-sharing.ts).
 */

import type { PodUid } from '../core/pod.ts';
import {
  acknowledgedEnrolment,
  enrolmentEffect,
  initialEnrolment,
  nextEnrolment,
  type Enrolment,
  type EnrolmentEffect,
  type EnrolmentPhase,
} from './enrolment.ts';
import type { NodePhases } from './enrolment-sharing.ts';
import type { Pod } from './objects.ts';
import type { PodName, PodRecord, PodRegistry } from './pod-registry.ts';
import type { Settlement } from './publication.ts';

export class PodEnrolments {
  readonly #pods: PodRegistry;
  readonly #mark: (name: PodName) => void;
  /** Pods that an earlier life published as HBONE. Each counts once: later ones under a UID were not captured. */
  readonly #restored: Set<PodUid>;
  /** Of pods that the source has not told yet. */
  readonly #restoredPhases = new Map<PodUid, EnrolmentPhase>();
  /** Nodes whose pods another controller leads into the mesh, and where it has them. */
  readonly #followed = new Map<string, NodePhases>();
  /** Nodes of ours with a pod whose phase is to be stored; true: before anything else happens. */
  readonly #toStore = new Map<string, boolean>();
  #version = 0;

  constructor(pods: PodRegistry, restored: Iterable<PodUid>, mark: (name: PodName) => void) {
    this.#pods = pods;
    this.#restored = new Set(restored);
    this.#mark = mark;
  }

  /** Grows whenever some pod takes a step. */
  get version(): number {
    return this.#version;
  }

  /** Moves a pod as far as it goes now, and asks for the acknowledgement it then needs. */
  evaluate(record: PodRecord, wanted: boolean, settlements: Settlement[]): EnrolmentEffect {
    const { pod } = record;
    const followed = this.#followed.get(pod.node);
    if (followed !== undefined) return this.#follow(record, wanted, followed.get(pod.uid));
    const start = record.enrolment ?? this.#initial(pod, wanted);
    if (record.enrolment === undefined) this.#set(record, start);
    let now = start;
    for (;;) {
      const next = nextEnrolment(now, pod, wanted, record.report?.state === 'captured');
      if (next === now) break;
      this.#set(record, next);
      now = next;
    }
    const effect = enrolmentEffect(now);
    if (effect.waitsFor !== 'nobody' && record.askedEpoch !== record.epoch) {
      const node = effect.waitsFor === 'own-node' ? pod.node : undefined;
      settlements.push({ kind: 'pod', podUid: pod.uid, epoch: record.epoch, node });
      record.askedEpoch = record.epoch;
    }
    return effect;
  }

  /** Those whom the phase of this epoch waited for have acknowledged, or had their time. */
  settle(podUid: PodUid, epoch: number): void {
    const record = this.#pods.byUid(podUid);
    if (record?.enrolment === undefined || record.epoch !== epoch) return;
    this.#set(record, acknowledgedEnrolment(record.enrolment));
    this.#mark(record.name);
  }

  /** The pod is gone, or on another node. */
  ended({ pod: { node }, enrolment }: PodRecord): void {
    if (enrolment === undefined || !isStored(enrolment.phase) || this.#followed.has(node)) return;
    // No hurry: a UID that is stored too long means nothing to anybody.
    if (!this.#toStore.has(node)) this.#toStore.set(node, false);
  }

  /** Another controller is the node's home: its pods are where that one has them. */
  follow(node: string, phases: NodePhases): void {
    this.#followed.set(node, phases);
    this.#toStore.delete(node);
    for (const { name } of this.#pods.onNode(node)) this.#mark(name);
  }

  /** This controller is the node's home; its pods go on from where `phases` has them. */
  lead(node: string, phases: NodePhases): void {
    this.#followed.delete(node);
    for (const record of this.#pods.onNode(node)) {
      this.#mark(record.name);
      const phase = phases.get(record.pod.uid);
      if (phase !== undefined && record.enrolment?.phase !== phase) {
        this.#set(record, { phase, wasPlain: true });
      }
    }
    // Those that the source has not told yet are met when it does.
    for (const [uid, phase] of phases) {
      if (this.#pods.byUid(uid) === undefined) this.#restoredPhases.set(uid, phase);
    }
  }

  /** Nodes whose stored phases are out of date; each once. True: nothing may be published before. */
  takeToStore(): ReadonlyMap<string, boolean> {
    const taken = new Map(this.#toStore);
    this.#toStore.clear();
    return taken;
  }

  /** What is to be stored of a node. */
  phasesOf(node: string): NodePhases {
    const phases = new Map<PodUid, EnrolmentPhase>();
    for (const { pod, enrolment } of this.#pods.onNode(node)) {
      if (enrolment !== undefined && isStored(enrolment.phase)) {
        phases.set(pod.uid, enrolment.phase);
      }
    }
    return phases;
  }

  /** Asks nobody for anything: what a phase waits for is its home's to wait for. */
  #follow(record: PodRecord, wanted: boolean, stored: EnrolmentPhase | undefined): EnrolmentEffect {
    const now = record.enrolment ?? initialEnrolment(record.pod, wanted, false);
    const next: Enrolment =
      stored === undefined
        ? { phase: wanted ? 'attaching' : 'plain', wasPlain: now.wasPlain }
        : { phase: stored, wasPlain: true };
    // As in `nextEnrolment`: one that runs unwanted was reached in plain text.
    const unwanted = nextEnrolment(next, record.pod, wanted, false);
    const after = next.phase === 'plain' ? { ...next, wasPlain: unwanted.wasPlain } : next;
    if (record.enrolment?.phase !== after.phase || record.enrolment.wasPlain !== after.wasPlain) {
      this.#set(record, after);
    }
    return enrolmentEffect(after);
  }

  #initial(pod: Pod, wanted: boolean): Enrolment {
    const phase = this.#restoredPhases.get(pod.uid);
    if (phase === undefined) return initialEnrolment(pod, wanted, this.#restored.delete(pod.uid));
    this.#restoredPhases.delete(pod.uid);
    return { phase, wasPlain: true };
  }

  #set(record: PodRecord, enrolment: Enrolment): void {
    const { node } = record.pod;
    const isNews = isStored(enrolment.phase) || isStored(record.enrolment?.phase ?? 'plain');
    if (isNews && !this.#followed.has(node)) this.#toStore.set(node, true);
    record.enrolment = enrolment;
    // Never the same twice, not even for a pod that comes back under its UID.
    record.epoch = ++this.#version;
  }
}

/** Whether a phase must outlive the process that reached it. */
function isStored(phase: EnrolmentPhase): boolean {
  return phase !== 'plain' && phase !== 'attaching';
}
