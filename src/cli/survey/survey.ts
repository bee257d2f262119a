/**
 * What commands know of a mesh: Kubernetes objects and what its own processes say, read once and in parallel. What could
 * not be found out is a gap with its reason, never a silent zero. Who is to be in the mesh is decided by the same
 * functions that the controller runs.
 */

import { MeshError } from '../../base/errors.ts';
import type { Cluster } from '../cluster.ts';
import { NAMESPACE } from '../install/kube-object.ts';
import type { KubeItem } from '../kube-shapes.ts';
import { surveyController, type ControllerSurvey } from './controller.ts';
import { surveyEnrolment, type EnrolmentSurvey } from './enrolment.ts';
import { surveyNodeProxies, type NodeProxySurvey } from './node-proxies.ts';
import { surveyEvents, type MeshEvent } from './events.ts';

/** Something that could not be found out. */
export interface Gap {
  readonly what: string;
  readonly reason: string;
}

export interface Survey {
  readonly nowMs: number;
  readonly context: string;
  /** Undefined when nothing is installed. */
  readonly namespace: KubeItem | undefined;
  readonly controller: ControllerSurvey;
  readonly nodeProxies: NodeProxySurvey;
  readonly enrolment: EnrolmentSurvey;
  /** Newest first. */
  readonly events: readonly MeshEvent[];
  readonly gaps: readonly Gap[];
}

/** Notes what goes wrong as a gap and goes on with `fallback`. */
export type Attempt = <T>(what: string, act: () => Promise<T>, fallback: T) => Promise<T>;

function createAttempt(gaps: Gap[]): Attempt {
  return async (what, act, fallback) => {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof MeshError) && !(error instanceof SyntaxError)) throw error;
      gaps.push({ what, reason: error.message });
      return fallback;
    }
  };
}

/** Rejects only when the API server does not answer at all or knows nobody of us. */
export async function surveyMesh(cluster: Cluster, nowMs: number): Promise<Survey> {
  // The first question is not forgiven: if it fails, so would all.
  const namespace = (await cluster.get(`/api/v1/namespaces/${NAMESPACE}`)) as KubeItem | undefined;
  const gaps: Gap[] = [];
  const attempt = createAttempt(gaps);
  const [controller, nodeProxies, events] = await Promise.all([
    surveyController(cluster, attempt),
    surveyNodeProxies(cluster, attempt, nowMs),
    surveyEvents(cluster, attempt),
  ]);
  const enrolment = await surveyEnrolment(cluster, attempt, controller, nodeProxies);
  const { context } = cluster;
  return { nowMs, context, namespace, controller, nodeProxies, enrolment, events, gaps };
}
