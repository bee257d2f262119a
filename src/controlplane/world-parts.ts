/** What the views of the index share: the facts, the marks, and what was published of them last. */

import type { Marks } from './marks.ts';
import type { ObjectCondition, ObjectKey } from './objects.ts';
import type { PodEnrolments } from './pod-enrolments.ts';
import type { PublishedPolicies } from './published-policies.ts';
import type { TrafficViews } from './traffic-views.ts';
import type { WaypointExemptions } from './waypoint-exemptions.ts';
import type { WaypointOnly } from './waypoint-only.ts';
import type { WaypointViews } from './waypoint-views.ts';
import type { WorldState } from './world-state.ts';

export interface WorldParts {
  readonly state: WorldState;
  readonly marks: Marks;
  readonly published: PublishedPolicies;
  readonly enrolments: PodEnrolments;
  readonly waypoints: WaypointViews;
  readonly traffic: TrafficViews;
  readonly exemptions: WaypointExemptions;
  readonly only: WaypointOnly;
  /** What owners should read about their objects. */
  readonly conditions: Map<ObjectKey, ObjectCondition>;
  /** Istio's words count too. */
  readonly istioLabels: boolean;
}
