/**
 * The live connections of one worker. It answers who is connected (for drains and dumps) and closes what a
 * changed policy no longer allows, within a second of the change (F11 goal), in slices so that ten thousand
 * connections do not stop the loop.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { MeshError } from '../base/errors.ts';
import { Roster } from '../base/roster.ts';
import type { PodUid } from '../core/pod.ts';
import { decisionError, type Decision } from '../policy/decide.ts';
import type { ConnectionFacts } from '../policy/match.ts';
import type { PolicyTarget } from '../policy/policy-set.ts';

/** A connection that was let in by a decision and may be let out by the next one. */
export interface GovernedConnection {
  readonly facts: ConnectionFacts;
  /** What governs its destination now; as it was last known when the pod has left the mesh. */
  target(): PolicyTarget;
  /** Ends it with a reset on both sides; the error is what its record will say. */
  close(error: MeshError): void;
}

export interface OpenConnection {
  readonly pod: PodUid;
  /** Ends it at the deadline of a drain. */
  close(error: MeshError): void;
}

export interface Connections {
  readonly count: number;
  countOf(pod: PodUid): number;
  /** Registers; the returned function is to be called when it has ended. */
  add(connection: OpenConnection): () => void;
  govern(connection: GovernedConnection): () => void;
  /** Policies or the workload changed: decides again for every governed connection. */
  recheck(decide: (connection: GovernedConnection) => Decision): void;
  /** Ends all that is left, or all of one pod. */
  closeAll(error: MeshError, pod?: PodUid): void;
  /** Called when the last connection has ended. One listener. */
  onIdle(listener: () => void): void;
}

/** A slice decides for this many; one decision costs a few microseconds. */
const SLICE = 500;

export function createConnections(clock: Clock): Connections {
  const open = new Roster<OpenConnection>();
  const governed = new Roster<GovernedConnection>();
  const counts = new Map<PodUid, number>();
  let idleListener: (() => void) | undefined;
  let round: Timer | undefined;
  /** Asked for during a round. */
  let pending: ((connection: GovernedConnection) => Decision) | undefined;

  const count = (pod: PodUid, change: number): void => {
    const next = (counts.get(pod) ?? 0) + change;
    if (next === 0) counts.delete(pod);
    else counts.set(pod, next);
  };

  return {
    get count() {
      return open.size;
    },
    countOf: (pod) => counts.get(pod) ?? 0,
    add(connection) {
      const place = open.add(connection);
      count(connection.pod, 1);
      return () => {
        if (!place.leave()) return;
        count(connection.pod, -1);
        if (open.size === 0) idleListener?.();
      };
    },
    govern(connection) {
      const place = governed.add(connection);
      return () => void place.leave();
    },
    recheck(decide) {
      // A change during a round waits for its end: starting over each time would never reach the last ones.
      if (round !== undefined) {
        pending = decide;
        return;
      }
      const queue = governed.places();
      let next = 0;
      const slice = (): void => {
        const end = Math.min(next + SLICE, queue.length);
        for (; next < end; next++) {
          const connection = queue[next]?.item;
          if (connection === undefined) continue;
          const decision = decide(connection);
          if (!decision.allowed) connection.close(decisionError(decision));
        }
        round = next < queue.length ? clock.after(0, slice) : undefined;
        if (round !== undefined || pending === undefined) return;
        const again = pending;
        pending = undefined;
        this.recheck(again);
      };
      slice();
    },
    closeAll(error, pod) {
      open.each((connection) => {
        if (pod === undefined || connection.pod === pod) connection.close(error);
      });
    },
    onIdle(listener) {
      idleListener = listener;
    },
  };
}
