/**
 * When a pod is in the mesh: what its labels ask for, and the order in which that comes true.
 *
 * Enrolling and un-enrolling a running pod must not lose a connection, so what is published moves in steps,
 * and each step waits until those it concerns have acknowledged the one before (bounded: see
 * acknowledgements.ts):
 *
 *   plain       un-enrolled: reached in plain text
 *   attaching   its node is told to capture it; still reached in plain text
 *   announcing  captured and published as HBONE; waits for every connected node, since a node that has not
 *               heard yet still sends plain text
 *   enrolled    STRICT applies too, where configured
 *   relaxing    no longer wanted: STRICT lifted; waits for the pod's own node, which enforces it
 *   retracting  published as plain; waits for every connected node, since a node that has not heard yet
 *               still opens tunnels; then plain, and only now its node is told to let go
 *
 * Invariants:
 * - HBONE is published only after the node reported the pod captured, and then stays until the pod is no
 *   longer wanted: a node that lost a capture (restart, failure) refuses; plain text instead would leak.
 * - The node serves the pod (`attached`) in every phase but `plain`.
 * - A pod that was never reachable in plain text (wanted before it ran) has STRICT from its first moment.
 */

import type { Labels, Namespace, Pod } from './objects.ts';
import { ROOT_NAMESPACE } from './objects.ts';

export type EnrolmentPhase =
  | 'plain'
  | 'attaching'
  | 'announcing'
  | 'enrolled'
  | 'relaxing'
  | 'retracting';

export interface Enrolment {
  readonly phase: EnrolmentPhase;
  /** Whether plain text ever reached the pod while nobody wanted it enrolled. */
  readonly wasPlain: boolean;
}

/** What one phase means for what is published. */
export interface EnrolmentEffect {
  readonly attached: boolean;
  readonly hbone: boolean;
  readonly strict: boolean;
  /** Whose acknowledgement ends the phase. */
  readonly waitsFor: 'nobody' | 'own-node' | 'all-nodes';
}

const EFFECTS: Readonly<Record<EnrolmentPhase, EnrolmentEffect>> = {
  plain: { attached: false, hbone: false, strict: false, waitsFor: 'nobody' },
  attaching: { attached: true, hbone: false, strict: false, waitsFor: 'nobody' },
  announcing: { attached: true, hbone: true, strict: false, waitsFor: 'all-nodes' },
  enrolled: { attached: true, hbone: true, strict: true, waitsFor: 'nobody' },
  relaxing: { attached: true, hbone: true, strict: false, waitsFor: 'own-node' },
  retracting: { attached: true, hbone: false, strict: false, waitsFor: 'all-nodes' },
};

export function enrolmentEffect(enrolment: Enrolment): EnrolmentEffect {
  const effect = EFFECTS[enrolment.phase];
  // Before its capture nobody enforces anything for the pod; from its capture on STRICT must be there.
  if (enrolment.phase === 'attaching' && !enrolment.wasPlain) return { ...effect, strict: true };
  return effect;
}

/**
 * Where a pod begins when it is first seen. `restored`: an earlier life of the controller had it published
 * as HBONE, which it therefore stays.
 */
export function initialEnrolment(pod: Pod, wanted: boolean, restored: boolean): Enrolment {
  if (restored) return { phase: wanted ? 'enrolled' : 'relaxing', wasPlain: true };
  return { phase: wanted ? 'attaching' : 'plain', wasPlain: hasRun(pod) };
}

/** Whether anybody can have reached it. */
function hasRun(pod: Pod): boolean {
  return pod.phase !== 'Pending' && pod.addresses.length > 0;
}

/** The step that wish and capture allow now; the same object when there is none. */
export function nextEnrolment(
  now: Enrolment,
  pod: Pod,
  wanted: boolean,
  captured: boolean,
): Enrolment {
  const to = (phase: EnrolmentPhase, wasPlain: boolean = now.wasPlain): Enrolment => ({
    phase,
    wasPlain,
  });
  switch (now.phase) {
    case 'plain':
      if (!now.wasPlain && hasRun(pod)) return to('plain', true);
      return wanted ? to('attaching') : now;
    case 'attaching':
      if (!wanted) return to('plain');
      if (!captured) return now;
      return to(now.wasPlain ? 'announcing' : 'enrolled');
    case 'announcing':
      return wanted ? now : to('retracting', true);
    case 'enrolled':
      return wanted ? now : to('relaxing', true);
    case 'relaxing':
      return wanted ? to('enrolled') : now;
    case 'retracting':
      return wanted ? to('announcing') : now;
  }
}

/** The step after everybody concerned acknowledged the phase. */
export function acknowledgedEnrolment(now: Enrolment): Enrolment {
  switch (now.phase) {
    case 'announcing':
      return { phase: 'enrolled', wasPlain: now.wasPlain };
    case 'relaxing':
      return { phase: 'retracting', wasPlain: true };
    case 'retracting':
      return { phase: 'plain', wasPlain: true };
    case 'plain':
    case 'attaching':
    case 'enrolled':
      return now;
  }
}

const MESH_LABEL = 'nodemesh.dev/mesh';
const ISTIO_LABEL = 'istio.io/dataplane-mode';
/** Namespaces whose pods carry the mesh or the cluster itself and are never captured. */
export const NEVER_ENROLLED: readonly string[] = ['kube-system', ROOT_NAMESPACE];

function wishOf(labels: Labels, istioLabels: boolean): boolean | undefined {
  const own = labels.get(MESH_LABEL);
  if (own === 'enabled') return true;
  if (own === 'disabled') return false;
  const istio = istioLabels ? labels.get(ISTIO_LABEL) : undefined;
  if (istio === 'ambient') return true;
  return istio === 'none' ? false : undefined;
}

/** What a namespace's label asks for its pods; those that carry the cluster or the mesh never are. */
export function isNamespaceEnrolled({ meta }: Namespace, istioLabels: boolean): boolean {
  return !NEVER_ENROLLED.includes(meta.name) && (wishOf(meta.labels, istioLabels) ?? false);
}

/** What the labels ask for: the pod's own word, else its namespace's. Never of what cannot have an identity of its own. */
export function wantsEnrolment(
  pod: Pod,
  namespace: Namespace | undefined,
  istioLabels: boolean,
): boolean {
  const cannot = pod.hostNetwork || pod.isStatic;
  if (cannot || NEVER_ENROLLED.includes(pod.meta.namespace)) return false;
  const own = wishOf(pod.meta.labels, istioLabels);
  return own ?? (namespace !== undefined && isNamespaceEnrolled(namespace, istioLabels));
}

/** A pod that some other HBONE data plane captured, or that speaks HBONE itself (`native`). */
export function foreignTunnel(pod: Pod): 'none' | 'captured' | 'native' {
  if (pod.hostNetwork) return 'none';
  if (pod.meta.labels.get('networking.istio.io/tunnel') === 'http') return 'native';
  const redirection = pod.meta.annotations.get('ambient.istio.io/redirection');
  return redirection === 'enabled' ? 'captured' : 'none';
}
