/** The type URLs that name what a discovery stream carries, and the order in which a client must get them. */

const PREFIX = 'type.googleapis.com/';

export const TYPE_URL = {
  address: `${PREFIX}istio.workload.Address`,
  authorization: `${PREFIX}istio.security.Authorization`,
  auditPolicy: `${PREFIX}nodemesh.v1.AuditPolicy`,
  localPod: `${PREFIX}nodemesh.v1.LocalPod`,
  nodeSettings: `${PREFIX}nodemesh.v1.NodeSettings`,
  capturedPod: `${PREFIX}nodemesh.v1.CapturedPod`,
  workloadSecret: `${PREFIX}nodemesh.v1.WorkloadSecret`,
  trustBundle: `${PREFIX}nodemesh.v1.TrustBundle`,
  captureReport: `${PREFIX}nodemesh.v1.CaptureReport`,
  listenerReport: `${PREFIX}nodemesh.v1.ListenerReport`,
  trafficDelta: `${PREFIX}nodemesh.v1.TrafficDelta`,
  rejection: `${PREFIX}nodemesh.v1.Rejection`,
} as const;

/**
 * Earlier ones are sent first: what restricts a pod is there before the pod, and a pod before it is captured.
 * Types that are not named here come last.
 */
export const TYPE_ORDER: readonly string[] = [
  TYPE_URL.nodeSettings,
  TYPE_URL.trustBundle,
  TYPE_URL.authorization,
  TYPE_URL.auditPolicy,
  TYPE_URL.address,
  TYPE_URL.workloadSecret,
  TYPE_URL.localPod,
  TYPE_URL.capturedPod,
];

/** The last part of a type URL, as a short label: `Address`. */
export function typeLabel(typeUrl: string): string {
  return typeUrl.slice(typeUrl.lastIndexOf('.') + 1);
}
