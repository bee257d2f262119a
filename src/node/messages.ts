/**
 * The words between the supervisor and its children, as JSON over Node's IPC channel. Small and few: what is
 * large or frequent (configuration, counters) goes between agent and workers on their own socket.
 */

import type { PodUid } from '../core/pod.ts';

/** A listening socket the supervisor keeps a duplicate of; `fd` is its number in the sending process. */
export interface HeldListener {
  readonly pod: PodUid;
  readonly port: number;
  /** Of the network namespace it listens in: a sandbox made anew has another. */
  readonly netnsInode: number;
  readonly fd: number;
}

export type ToSupervisor =
  /** Sent every `HEARTBEAT_MS` by agent and workers: the event loop turns. */
  | { readonly kind: 'heartbeat' }
  /** A worker made a listener; the supervisor duplicates it. */
  | { readonly kind: 'listening'; readonly listener: HeldListener }
  /** A worker closed its listeners of a pod; the duplicates go too. */
  | { readonly kind: 'unlistened'; readonly pod: PodUid }
  /** Pods all of whose ports this worker serves now. Complete list, sent on change. */
  | { readonly kind: 'serving'; readonly pods: readonly PodUid[] }
  /** The agent's view: pods that should be served, and what keeps it from being ready. */
  | {
      readonly kind: 'agent-state';
      readonly captured: readonly PodUid[];
      readonly blockers: readonly string[];
    }
  /** A worker that was told to drain has no connection left, or its deadline passed. */
  | { readonly kind: 'drained' };

export type ToChild =
  /** First message to a worker: the listeners its slot already has, as numbers in the supervisor. */
  | {
      readonly kind: 'start';
      readonly slot: number;
      readonly supervisorPid: number;
      readonly held: readonly HeldListener[];
    }
  /** The worker stalled and its listeners were shut down: make new ones. */
  | { readonly kind: 'relisten' }
  /** A successor serves this pod now: close its listeners, keep its connections. */
  | { readonly kind: 'release'; readonly pod: PodUid }
  /** The successor went away before it was complete: listen again for every pod that was released. */
  | { readonly kind: 'reclaim' }
  /** Stop accepting; send `drained` when the last connection has ended or the deadline passed. */
  | { readonly kind: 'drain'; readonly deadlineMs: number }
  /** To the agent: a successor captures pods from now on; go on feeding the workers only. */
  | { readonly kind: 'retire' };

export const HEARTBEAT_MS = 250;
