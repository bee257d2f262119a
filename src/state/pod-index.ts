/** The pods of this node: those scheduled to it, and those captured on it, by UID, address and workload. */

import type { IpAddress } from '../core/address.ts';
import type { CapturedPod, LocalPod, PodUid } from '../core/pod.ts';
import type { CapturedChange, PodBatch, PodView } from './contract.ts';

export class PodIndex implements PodView {
  readonly #local = new Map<PodUid, LocalPod>();
  readonly #captured = new Map<PodUid, CapturedPod>();
  readonly #byIp = new Map<IpAddress, Set<CapturedPod>>();
  readonly #byWorkload = new Map<string, CapturedPod>();

  local(podUid: PodUid): LocalPod | undefined {
    return this.#local.get(podUid);
  }

  localPods(): Iterable<LocalPod> {
    return this.#local.values();
  }

  captured(podUid: PodUid): CapturedPod | undefined {
    return this.#captured.get(podUid);
  }

  capturedPods(): Iterable<CapturedPod> {
    return this.#captured.values();
  }

  /** While a pod's end and its successor's start overlap, an address may be claimed twice. */
  capturedByIp(ip: IpAddress): CapturedPod | undefined {
    const claims = this.#byIp.get(ip);
    if (claims === undefined || claims.size !== 1) return undefined;
    const [only] = claims;
    return only;
  }

  capturedByWorkload(workloadUid: string): CapturedPod | undefined {
    return this.#byWorkload.get(workloadUid);
  }

  applyLocal(batch: PodBatch<LocalPod>): void {
    for (const podUid of batch.removed ?? []) this.#local.delete(podUid);
    for (const pod of batch.pods ?? []) this.#local.set(pod.podUid, pod);
  }

  applyCaptured(batch: PodBatch<CapturedPod>): CapturedChange {
    const upserts = new Map((batch.pods ?? []).map((captured) => [captured.pod.podUid, captured]));
    const removed: CapturedPod[] = [];
    for (const podUid of batch.removed ?? []) {
      const gone = upserts.has(podUid) ? undefined : this.#release(podUid);
      if (gone !== undefined) removed.push(gone);
    }
    for (const [podUid, captured] of upserts) {
      this.#release(podUid);
      this.#captured.set(podUid, captured);
      this.#byWorkload.set(captured.pod.workloadUid, captured);
      for (const ip of captured.pod.addresses) {
        const claims = this.#byIp.get(ip) ?? new Set();
        this.#byIp.set(ip, claims.add(captured));
      }
    }
    return { added: [...upserts.values()], removed };
  }

  #release(podUid: PodUid): CapturedPod | undefined {
    const captured = this.#captured.get(podUid);
    if (captured === undefined) return undefined;
    this.#captured.delete(podUid);
    const { workloadUid, addresses } = captured.pod;
    if (this.#byWorkload.get(workloadUid) === captured) this.#byWorkload.delete(workloadUid);
    for (const ip of addresses) {
      const claims = this.#byIp.get(ip);
      if (claims?.delete(captured) === true && claims.size === 0) this.#byIp.delete(ip);
    }
    return captured;
  }
}
