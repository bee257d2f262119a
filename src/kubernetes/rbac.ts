/**
 * What the controller may do with the API server, as data: the installation renders these rules, and a kind
 * that is forbidden is named with the verb that is missing. No wildcards; nothing is listed that is not used.
 */

export interface PolicyRule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
  readonly resourceNames?: readonly string[];
  /** Why it is needed, for readers of the rendered role. */
  readonly why: string;
}

const READ = ['list', 'watch'] as const;
const STATUS = ['patch'] as const;
/** Server-side apply, and looking whose it is first. */
const APPLY = ['get', 'create', 'patch'] as const;

/** Kinds of our own group; each has a status the controller writes. */
export const OWN_RESOURCES: readonly string[] = [
  'meshconfigs',
  'peerauthentications',
  'authorizationpolicies',
  'requestauthentications',
  'trafficpolicies',
];

/** Gateway API kinds the controller reads where they are installed. */
export const GATEWAY_RESOURCES: readonly string[] = [
  'gatewayclasses',
  'gateways',
  'httproutes',
  'grpcroutes',
  'tcproutes',
  'tlsroutes',
  'referencegrants',
];

/** ClusterRole `nodemesh-controller`, bound to the ServiceAccount of that name. */
export const CONTROLLER_CLUSTER_RULES: readonly PolicyRule[] = [
  {
    apiGroups: [''],
    resources: ['namespaces', 'pods', 'services', 'nodes'],
    verbs: READ,
    why: 'what the mesh is made of',
  },
  {
    apiGroups: ['discovery.k8s.io'],
    resources: ['endpointslices'],
    verbs: READ,
    why: 'endpoints that are no pods of ours, readiness, named ports',
  },
  {
    apiGroups: ['networking.k8s.io'],
    resources: ['networkpolicies'],
    verbs: READ,
    why: 'a pod that one selects is not reached past it on the same node',
  },
  {
    apiGroups: ['cilium.io'],
    resources: ['ciliumnetworkpolicies', 'ciliumclusterwidenetworkpolicies'],
    verbs: READ,
    why: 'as NetworkPolicy',
  },
  {
    apiGroups: ['crd.projectcalico.org', 'projectcalico.org'],
    resources: ['networkpolicies', 'globalnetworkpolicies'],
    verbs: READ,
    why: 'as NetworkPolicy',
  },
  {
    apiGroups: ['policy.networking.k8s.io'],
    resources: ['adminnetworkpolicies', 'baselineadminnetworkpolicies', 'clusternetworkpolicies'],
    verbs: READ,
    why: 'as NetworkPolicy',
  },
  {
    apiGroups: ['crd.antrea.io'],
    resources: ['networkpolicies', 'clusternetworkpolicies'],
    verbs: READ,
    why: 'as NetworkPolicy',
  },
  {
    apiGroups: ['nodemesh.dev'],
    resources: OWN_RESOURCES,
    verbs: READ,
    why: 'configuration and policies',
  },
  {
    apiGroups: ['nodemesh.dev'],
    resources: OWN_RESOURCES.map((resource) => `${resource}/status`),
    verbs: STATUS,
    why: 'conditions on what the user owns',
  },
  {
    apiGroups: ['gateway.networking.k8s.io'],
    resources: GATEWAY_RESOURCES,
    verbs: ['get', ...READ],
    why: 'routes and waypoints',
  },
  {
    apiGroups: ['gateway.networking.x-k8s.io'],
    resources: ['xbackendtrafficpolicies', 'xmeshes'],
    verbs: ['get', ...READ],
    why: 'budgets and sessions, and the mesh as an object, where the experimental channel is installed',
  },
  {
    apiGroups: ['gateway.networking.x-k8s.io'],
    resources: ['xbackendtrafficpolicies/status', 'xmeshes/status'],
    verbs: STATUS,
    why: 'conditions, and the features of the mesh',
  },
  {
    apiGroups: [''],
    resources: ['services/status'],
    verbs: STATUS,
    why: 'whether a waypoint serves the service',
  },
  {
    apiGroups: [''],
    resources: ['services', 'serviceaccounts', 'configmaps'],
    verbs: APPLY,
    why: 'what a waypoint needs, and the roots in its namespace',
  },
  {
    apiGroups: ['apps'],
    resources: ['deployments'],
    verbs: APPLY,
    why: 'waypoints',
  },
  {
    apiGroups: ['policy'],
    resources: ['poddisruptionbudgets'],
    verbs: APPLY,
    why: 'waypoints',
  },
  {
    apiGroups: ['autoscaling'],
    resources: ['horizontalpodautoscalers'],
    verbs: APPLY,
    why: 'waypoints',
  },
  {
    apiGroups: ['gateway.networking.k8s.io'],
    resources: GATEWAY_RESOURCES.filter((resource) => resource !== 'referencegrants').map(
      (resource) => `${resource}/status`,
    ),
    verbs: STATUS,
    why: 'status of routes and gateways',
  },
  {
    apiGroups: ['authentication.k8s.io'],
    resources: ['tokenreviews'],
    verbs: ['create'],
    why: 'who a node proxy or waypoint is',
  },
  {
    apiGroups: ['events.k8s.io'],
    resources: ['events'],
    verbs: ['create', 'patch'],
    why: 'Events on pods and policies',
  },
];

/** Role `nodemesh-controller` in the controller's own namespace. */
export const CONTROLLER_NAMESPACE_RULES: readonly PolicyRule[] = [
  {
    apiGroups: [''],
    resources: ['secrets'],
    resourceNames: ['nodemesh-ca'],
    verbs: ['get', 'list', 'watch', 'update'],
    why: 'the key of the certificate authority',
  },
  {
    apiGroups: [''],
    resources: ['secrets'],
    resourceNames: ['cacerts'],
    verbs: ['get', 'list', 'watch'],
    why: 'a certificate authority that the operator plugs in',
  },
  {
    apiGroups: [''],
    resources: ['secrets'],
    verbs: ['create'],
    why: 'makes nodemesh-ca at the very first start; creation cannot be limited by name',
  },
  {
    apiGroups: [''],
    resources: ['configmaps'],
    verbs: ['get', 'list', 'watch', 'create', 'update', 'delete'],
    why: 'the published roots, the mark that a CA exists, what is captured on each node',
  },
  {
    apiGroups: [''],
    resources: ['pods'],
    verbs: ['get'],
    why: 'the node of a node proxy whose token does not say it',
  },
  {
    apiGroups: ['coordination.k8s.io'],
    resources: ['leases'],
    verbs: ['get', 'list', 'watch', 'create', 'update', 'patch', 'delete'],
    why: 'leader election, and which replicas live',
  },
];
