/** The type URLs that name what a discovery stream carries, and the order in which a client must get them. */

export const TYPE_URL = {
  address: 'type.googleapis.com/istio.workload.Address',
  authorization: 'type.googleapis.com/istio.security.Authorization',
  auditPolicy: 'type.googleapis.com/nodemesh.v1.AuditPolicy',
  enrolledNamespace: 'type.googleapis.com/nodemesh.v1.EnrolledNamespace',
  localPod: 'type.googleapis.com/nodemesh.v1.LocalPod',
  nodeSettings: 'type.googleapis.com/nodemesh.v1.NodeSettings',
  capturedPod: 'type.googleapis.com/nodemesh.v1.CapturedPod',
  workloadSecret: 'type.googleapis.com/nodemesh.v1.WorkloadSecret',
  trustBundle: 'type.googleapis.com/nodemesh.v1.TrustBundle',
  waypointService: 'type.googleapis.com/nodemesh.v1.WaypointService',
  httpPolicy: 'type.googleapis.com/nodemesh.v1.HttpPolicy',
  requestAuthentication: 'type.googleapis.com/nodemesh.v1.RequestAuthentication',
  trafficPolicy: 'type.googleapis.com/nodemesh.v1.TrafficPolicy',
  captureReport: 'type.googleapis.com/nodemesh.v1.CaptureReport',
  listenerReport: 'type.googleapis.com/nodemesh.v1.ListenerReport',
  trafficDelta: 'type.googleapis.com/nodemesh.v1.TrafficDelta',
  rejection: 'type.googleapis.com/nodemesh.v1.Rejection',
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
  TYPE_URL.httpPolicy,
  TYPE_URL.requestAuthentication,
  TYPE_URL.trafficPolicy,
  TYPE_URL.waypointService,
  TYPE_URL.address,
  TYPE_URL.workloadSecret,
  TYPE_URL.enrolledNamespace,
  TYPE_URL.localPod,
  TYPE_URL.capturedPod,
];

/** The last part of a type URL, as a short label: `Address`. */
export function typeLabel(typeUrl: string): string {
  return typeUrl.slice(typeUrl.lastIndexOf('.') + 1);
}
