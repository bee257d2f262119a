/**
 * How several controllers lead pods into the mesh together. Each node has one home at a time: the controller its
 * proxy is connected to. Only the home moves the node's pods from phase to phase (enrolment.ts); it stores each
 * step before it publishes it, and the others publish what is stored. So:
 *
 * - a step is decided by one, whatever the number of controllers; a stale home's write is refused;
 * - a controller that starts finds every pod where it was left, and never takes one out of the tunnel;
 * - a phase that waits for all nodes waits for those of the other controllers too: each says up to which version
 *   of the stored steps its nodes have acknowledged.
 *
 * Waits are bounded, as all of enrolment's are. A home that is gone is replaced by the leader.
 */

import type { PodUid } from '../core/pod.ts';
import type { EnrolmentPhase } from './enrolment.ts';

/** Pods of one node in a phase that must outlive the process: not `plain`, not `attaching`. */
export type NodePhases = ReadonlyMap<PodUid, EnrolmentPhase>;

export interface SharedNode {
  readonly node: string;
  readonly phases: NodePhases;
  /** Whether this controller is the node's home now. */
  readonly isHome: boolean;
}

export interface EnrolmentSharing {
  /**
   * Begins; `onNode` gets what is stored of every node before it resolves, and every later change by others.
   * `onMoved` gets versions to be acknowledged with `acknowledge` once our nodes have what was told.
   */
  start(onNode: (shared: SharedNode) => void, onMoved: (version: number) => void): Promise<void>;
  /** The node's proxy is connected here: this is its home. Answered through `onNode`. */
  claim(node: string): void;
  /**
   * Stores where the node's pods are; only its home's word counts. Resolves when it is stored, or when it takes
   * longer than a bound and goes on behind; never rejects.
   */
  store(node: string, phases: NodePhases): Promise<void>;
  /** Whether what was last stored of the node is acknowledged by the nodes of every other live controller. */
  isSettled(node: string): boolean;
  /** Our nodes have acknowledged everything up to this version. */
  acknowledge(version: number): void;
}
