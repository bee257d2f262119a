/** What the owner of a service should read about its waypoint, in its status and as an Event. */

import type { WaypointBinding, WaypointProblem } from './gateway-registry.ts';
import type { ObjectCondition, ObjectKey, StatedCondition } from './objects.ts';

const WAYPOINT_PROBLEMS: Readonly<Record<WaypointProblem, readonly [string, string]>> = {
  missing: ['WaypointMissing', 'does not exist'],
  'foreign-class': ['WaypointForeignClass', 'is of a class that is no waypoint of this mesh'],
  forbidden: ['WaypointForbidden', 'does not allow this namespace in its listeners'],
};

/**
 * Whether a waypoint serves it, not whether that is ready: the Gateway says so, and once for all its services. `said`:
 * what `waypointCondition` has found for it.
 */
export function boundCondition(
  binding: WaypointBinding | undefined,
  said: ObjectCondition | undefined,
): StatedCondition {
  if (binding === undefined) {
    const message = 'No waypoint is named for the service: nobody reads its requests';
    return { status: 'False', reason: 'NoWaypoint', message };
  }
  const { waypoint, problem } = binding;
  if (problem === undefined) {
    const message = `Requests go through Gateway "${waypoint}"`;
    return { status: 'True', reason: 'WaypointAccepted', message };
  }
  const { reason, message } = said ?? unusable(waypoint, WAYPOINT_PROBLEMS[problem]);
  return { status: 'False', reason, message };
}

function unusable(
  waypoint: string,
  [reason, what]: readonly [string, string],
): Omit<StatedCondition, 'status'> {
  return { reason, message: `Gateway "${waypoint}" ${what}: connections are refused` };
}

/** Undefined while everything is as its owner meant it. */
export function waypointCondition(
  key: ObjectKey,
  { waypoint, problem }: WaypointBinding,
  bypassed: boolean,
): ObjectCondition | undefined {
  const [reason, what] =
    problem === undefined ? ['WaypointNotReady', 'is not ready'] : WAYPOINT_PROBLEMS[problem];
  const gateway = `Gateway "${waypoint}" ${what}`;
  if (bypassed) {
    const message = `${gateway}: connections BYPASS it, as waypoint-policy preferred says`;
    return { key, reason: 'WaypointBypassed', message };
  }
  if (problem === undefined) return undefined;
  return { key, ...unusable(waypoint, [reason, what]) };
}
