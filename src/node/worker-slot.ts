/**
 * One worker slot of the supervisor: the process that fills it, its heartbeat, and the duplicates of its
 * listeners. The slot outlives its workers, and so do the duplicates: connections that wait in their queues
 * move to another worker, or are served by the next worker of the slot where there is no other.
 *
 * States: `starting` (spawned, not heard yet) → `healthy` → `suspended` (silent for a second, its listeners
 * shut down so that the kernel moves their queues to the other workers: `net.ipv4.tcp_migrate_req`) →
 * `healthy` when it speaks again (it makes new listeners) or dead and replaced.
 */

import type { PodUid } from '../core/pod.ts';
import type { HeldListener } from './messages.ts';

/** The descriptor calls a slot needs; `linux/` provides them. */
export interface Descriptors {
  /** A duplicate of descriptor `fd` of process `pid` (pidfd_getfd). */
  duplicateFrom(pid: number, fd: number): number;
  /** shutdown(2), both directions: a listener leaves its group and its queue moves on. */
  shutdown(fd: number): void;
  close(fd: number): void;
}

export type SlotState = 'starting' | 'healthy' | 'suspended' | 'dead';

/** Listeners of one slot: pods on a node times three ports. */
const HELD_MAX = 4096;

export class WorkerSlot {
  readonly index: number;
  readonly #descriptors: Descriptors;
  readonly #held = new Map<string, HeldListener>();
  #serving: ReadonlySet<PodUid> = new Set();
  pid: number | undefined;
  state: SlotState = 'dead';
  lastHeardMs = 0;

  constructor(index: number, descriptors: Descriptors) {
    this.index = index;
    this.#descriptors = descriptors;
  }

  get serving(): ReadonlySet<PodUid> {
    return this.#serving;
  }

  /** The duplicates, with their numbers in this process. */
  get held(): readonly HeldListener[] {
    return [...this.#held.values()];
  }

  setServing(pods: readonly PodUid[]): void {
    this.#serving = new Set(pods);
  }

  /** Duplicates a listener the worker made; an older one for the same pod and port is closed. */
  hold(listener: HeldListener): void {
    if (this.pid === undefined || this.#held.size >= HELD_MAX) return;
    const key = `${listener.pod}:${listener.port}`;
    const fd = this.#descriptors.duplicateFrom(this.pid, listener.fd);
    const old = this.#held.get(key);
    this.#held.set(key, { ...listener, fd });
    if (old !== undefined) this.#descriptors.close(old.fd);
  }

  /** Closes the duplicates of a pod (all pods without an argument). */
  letGo(pod?: PodUid): void {
    for (const [key, listener] of this.#held) {
      if (pod !== undefined && listener.pod !== pod) continue;
      this.#held.delete(key);
      this.#descriptors.close(listener.fd);
    }
  }

  /**
   * Its worker is dead: the listeners of the pods that another worker `serves` leave their groups, and what waits
   * in them moves there at once instead of waiting for a process to start. The others wait for the heir: without
   * another listener in its group a queue would be reset.
   */
  giveAway(serves: (pod: PodUid) => boolean): void {
    const pods = new Set([...this.#held.values()].map(({ pod }) => pod).filter(serves));
    for (const { pod, fd } of this.#held.values()) {
      if (pods.has(pod)) this.#descriptors.shutdown(fd);
    }
    for (const pod of pods) this.letGo(pod);
  }

  /** Takes the slot's listeners out of their groups; what waits in them moves to the other workers. */
  suspend(): void {
    this.state = 'suspended';
    for (const listener of this.#held.values()) this.#descriptors.shutdown(listener.fd);
    this.letGo();
    this.#serving = new Set();
  }
}
