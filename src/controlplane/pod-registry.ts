/**
 * All pods, filed by everything they are looked up by: name, UID, address, labels, and node with service
 * account. One put or remove touches only that pod's own entries.
 *
 * - A record is one pod by UID: a pod that comes back under its name with another UID, or on another node,
 *   is a new record and inherits nothing (T10).
 * - An address belongs to the newest live pod that claims it; older claims wait behind it.
 */

import type { IpAddress } from '../core/address.ts';
import type { CaptureReport, PodUid } from '../core/pod.ts';
import type { Enrolment } from './enrolment.ts';
import { createLabelIndex, type LabelIndex } from './labels.ts';
import type { Pod } from './objects.ts';

/** `namespace/name` of a pod. */
export type PodName = string & { readonly __brand: 'PodName' };

export function podName(namespace: string, name: string): PodName {
  return `${namespace}/${name}` as PodName;
}

export interface PodRecord {
  pod: Pod;
  readonly name: PodName;
  /** Grows with every new record: breaks ties of age. */
  readonly sequence: number;
  /** Undefined until first evaluated. */
  enrolment: Enrolment | undefined;
  /** Changes with every change of `enrolment`: tells a late acknowledgement from the current one. */
  epoch: number;
  /** The last epoch for which an acknowledgement was asked. */
  askedEpoch: number;
  /** The last report of the pod's own node. */
  report: CaptureReport | undefined;
}

/** Succeeded and Failed pods run nothing and own nothing. */
export function isTerminal(pod: Pod): boolean {
  return pod.phase === 'Succeeded' || pod.phase === 'Failed';
}

export interface PodChange {
  readonly before: Pod | undefined;
  readonly after: Pod | undefined;
  /** The record that ended with this change. */
  readonly ended: PodRecord | undefined;
}

function newerFirst(a: PodRecord, b: PodRecord): number {
  return b.pod.meta.createdMs - a.pod.meta.createdMs || b.sequence - a.sequence;
}

export class PodRegistry {
  readonly byLabels: LabelIndex<PodRecord> = createLabelIndex();
  readonly #byName = new Map<PodName, PodRecord>();
  readonly #byUid = new Map<PodUid, PodRecord>();
  /** The usual single claim is the record itself: 100,000 one-element lists cost more than the pods. */
  readonly #byAddress = new Map<IpAddress, PodRecord | PodRecord[]>();
  /** Node → `namespace/account` → records. */
  readonly #byNode = new Map<string, Map<string, Set<PodRecord>>>();
  #nextSequence = 0;

  get size(): number {
    return this.#byName.size;
  }

  get(name: PodName): PodRecord | undefined {
    return this.#byName.get(name);
  }

  byUid(uid: PodUid): PodRecord | undefined {
    return this.#byUid.get(uid);
  }

  all(): Iterable<PodRecord> {
    return this.#byName.values();
  }

  /** The pod an address leads to. */
  owner(ip: IpAddress): PodRecord | undefined {
    const claims = this.#byAddress.get(ip);
    return Array.isArray(claims) ? claims[0] : claims;
  }

  /** Everybody who claims an address, its owner first. */
  claims(ip: IpAddress): readonly PodRecord[] {
    const claims = this.#byAddress.get(ip);
    if (claims === undefined) return [];
    return Array.isArray(claims) ? claims : [claims];
  }

  *onNode(node: string): Iterable<PodRecord> {
    for (const records of this.#byNode.get(node)?.values() ?? []) yield* records;
  }

  withAccount(node: string, namespace: string, serviceAccount: string): Iterable<PodRecord> {
    return this.#byNode.get(node)?.get(podName(namespace, serviceAccount)) ?? [];
  }

  /** On whatever node, or on none yet. */
  *withAccountAnywhere(namespace: string, serviceAccount: string): Iterable<PodRecord> {
    for (const record of this.byLabels.inNamespace(namespace)) {
      if (record.pod.serviceAccount === serviceAccount) yield record;
    }
  }

  put(pod: Pod): PodChange {
    const name = podName(pod.meta.namespace, pod.meta.name);
    const old = this.#byName.get(name);
    if (old !== undefined) this.#unfile(old);
    const same = old?.pod.uid === pod.uid && (old.pod.node === pod.node || old.pod.node === '');
    const before = old?.pod;
    const record = old !== undefined && same ? old : this.#createRecord(name, pod);
    record.pod = pod;
    this.#file(record);
    return { before, after: pod, ended: record === old ? undefined : old };
  }

  remove(name: PodName): PodChange {
    const old = this.#byName.get(name);
    if (old !== undefined) this.#unfile(old);
    return { before: old?.pod, after: undefined, ended: old };
  }

  #createRecord(name: PodName, pod: Pod): PodRecord {
    const sequence = this.#nextSequence++;
    const fresh = { enrolment: undefined, epoch: 0, askedEpoch: -1, report: undefined };
    return { pod, name, sequence, ...fresh };
  }

  #file(record: PodRecord): void {
    const { pod } = record;
    this.#byName.set(record.name, record);
    this.#byUid.set(pod.uid, record);
    this.byLabels.add({ namespace: pod.meta.namespace, labels: pod.meta.labels }, record);
    if (claimsAddresses(pod)) for (const ip of pod.addresses) this.#claim(ip, record);
    if (pod.node === '') return;
    let accounts = this.#byNode.get(pod.node);
    if (accounts === undefined) this.#byNode.set(pod.node, (accounts = new Map()));
    const account = podName(pod.meta.namespace, pod.serviceAccount);
    const records = accounts.get(account);
    if (records === undefined) accounts.set(account, new Set([record]));
    else records.add(record);
  }

  #unfile(record: PodRecord): void {
    const { pod } = record;
    this.#byName.delete(record.name);
    // Two names with one UID are a mistake of the source; the later entry is not the earlier one's to take.
    if (this.#byUid.get(pod.uid) === record) this.#byUid.delete(pod.uid);
    this.byLabels.remove({ namespace: pod.meta.namespace, labels: pod.meta.labels }, record);
    for (const ip of pod.addresses) this.#release(ip, record);
    const accounts = this.#byNode.get(pod.node);
    const account = podName(pod.meta.namespace, pod.serviceAccount);
    const records = accounts?.get(account);
    if (records?.delete(record) === true && records.size === 0) accounts?.delete(account);
    if (accounts?.size === 0) this.#byNode.delete(pod.node);
  }

  #claim(ip: IpAddress, record: PodRecord): void {
    const claims = this.#byAddress.get(ip);
    if (claims === undefined) this.#byAddress.set(ip, record);
    else {
      const all = Array.isArray(claims) ? claims : [claims];
      this.#byAddress.set(ip, [...all, record].toSorted(newerFirst));
    }
  }

  #release(ip: IpAddress, record: PodRecord): void {
    const claims = this.#byAddress.get(ip);
    if (claims === record) this.#byAddress.delete(ip);
    if (!Array.isArray(claims)) return;
    const left = claims.filter((claim) => claim !== record);
    const [only] = left;
    if (left.length > 1) this.#byAddress.set(ip, left);
    else if (only !== undefined) this.#byAddress.set(ip, only);
    else this.#byAddress.delete(ip);
  }
}

/** hostNetwork pods share their node's addresses, and terminal pods gave theirs back. */
export function claimsAddresses(pod: Pod): boolean {
  return !pod.hostNetwork && !isTerminal(pod);
}
