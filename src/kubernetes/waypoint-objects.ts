/**
 * What a waypoint's Gateway becomes in a cluster: ServiceAccount, Service, Deployment, disruption budget, and an
 * autoscaler that alone says how many. Pure. Everything carries the Gateway's name, so that service account and
 * Gateway are found by each other, and is owned by it, so that it goes with it. Passes Pod Security's `restricted`.
 */

import type { Gateway } from '../controlplane/gateway-objects.ts';
import { GATEWAY_NAME_LABEL } from '../controlplane/gateway-registry.ts';
import { PORTS } from '../core/pod.ts';
import { ROOT_CONFIG_MAP } from './root-config-map.ts';

export interface WaypointDeploymentValues {
  /** Of this version of nodemesh. */
  readonly image: string;
  /** HOST:PORT of the controller. */
  readonly controller: string;
  /** The name that it proves. */
  readonly controllerName: string;
  readonly trustDomain: string;
  readonly logLevel: string;
}

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: Readonly<Record<string, unknown>> & {
    readonly name: string;
    readonly namespace: string;
  };
  readonly [field: string]: unknown;
}

const MIN_ANNOTATION = 'nodemesh.dev/waypoint-replicas-min';
const MAX_ANNOTATION = 'nodemesh.dev/waypoint-replicas-max';
/** Two, so that a node can be drained, or a process die, and requests still pass. */
const REPLICAS_MIN_DEFAULT = 2;
const REPLICAS_MAX_DEFAULT = 10;
const REPLICAS_LIMIT = 1_000;
const CPU_PERCENT = 80;
const DRAIN_S = 60;
/** After the drain: time to say goodbye. */
const TERMINATION_MARGIN_S = 15;
const TOKEN_SECONDS = 3_600;

export function waypointObjects(
  gateway: Gateway,
  values: WaypointDeploymentValues,
): KubernetesObject[] {
  const metadata = metadataOf(gateway);
  const selector = { matchLabels: { [GATEWAY_NAME_LABEL]: gateway.meta.name } };
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata },
    service(gateway, metadata),
    deployment(gateway, metadata, values),
    {
      apiVersion: 'policy/v1',
      kind: 'PodDisruptionBudget',
      metadata,
      spec: { maxUnavailable: 1, selector },
    },
    autoscaler(gateway, metadata),
  ];
}

/** The roots by which the waypoints of one namespace know the controller; owned by all of them. */
export function rootConfigMap(
  gateways: readonly Gateway[],
  pem: string,
): KubernetesObject | undefined {
  const [first] = gateways;
  if (first === undefined) return undefined;
  return {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: {
      name: ROOT_CONFIG_MAP,
      namespace: first.meta.namespace,
      labels: { 'app.kubernetes.io/part-of': 'nodemesh' },
      ownerReferences: gateways.map((gateway) => ({ ...ownerOf(gateway), controller: false })),
    },
    data: { 'root-cert.pem': pem },
  };
}

function ownerOf({ meta, uid }: Gateway): Record<string, unknown> {
  return {
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'Gateway',
    name: meta.name,
    uid,
    controller: true,
    blockOwnerDeletion: false,
  };
}

function labelsOf(gateway: Gateway): Record<string, string> {
  return {
    ...Object.fromEntries(gateway.infrastructureLabels),
    'app.kubernetes.io/name': gateway.meta.name,
    'app.kubernetes.io/part-of': 'nodemesh',
    'app.kubernetes.io/component': 'waypoint',
    'app.kubernetes.io/managed-by': 'nodemesh-controller',
    [GATEWAY_NAME_LABEL]: gateway.meta.name,
  };
}

function metadataOf(gateway: Gateway): KubernetesObject['metadata'] {
  return {
    name: gateway.meta.name,
    namespace: gateway.meta.namespace,
    labels: labelsOf(gateway),
    annotations: Object.fromEntries(gateway.infrastructureAnnotations),
    ownerReferences: [ownerOf(gateway)],
  };
}

function service(gateway: Gateway, metadata: KubernetesObject['metadata']): KubernetesObject {
  const port = (name: string, number: number): Record<string, unknown> => ({
    name,
    port: number,
    targetPort: number,
    protocol: 'TCP',
  });
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata,
    spec: {
      type: 'ClusterIP',
      selector: { [GATEWAY_NAME_LABEL]: gateway.meta.name },
      // Client nodes prefer a waypoint near them; it prefers endpoints near itself.
      trafficDistribution: 'PreferClose',
      ports: [
        { ...port('mesh', PORTS.hbone), appProtocol: 'hbone' },
        port('status', PORTS.readiness),
      ],
    },
  };
}

function environment(values: WaypointDeploymentValues): unknown[] {
  const field = (name: string, fieldPath: string): Record<string, unknown> => ({
    name,
    valueFrom: { fieldRef: { fieldPath } },
  });
  return [
    field('NODEMESH_POD_NAME', 'metadata.name'),
    field('NODEMESH_POD_NAMESPACE', 'metadata.namespace'),
    field('NODEMESH_SERVICE_ACCOUNT', 'spec.serviceAccountName'),
    { name: 'NODEMESH_CONTROLLER', value: values.controller },
    { name: 'NODEMESH_CONTROLLER_NAME', value: values.controllerName },
    { name: 'NODEMESH_TRUST_DOMAIN', value: values.trustDomain },
    { name: 'NODEMESH_DRAIN_S', value: String(DRAIN_S) },
    { name: 'NODEMESH_LOG_LEVEL', value: values.logLevel },
  ];
}

function probe(path: string, periodSeconds: number, failureThreshold: number): unknown {
  return {
    httpGet: { path, port: PORTS.readiness },
    periodSeconds,
    timeoutSeconds: 2,
    failureThreshold,
  };
}

function spreadOver(topologyKey: string, gateway: Gateway): Record<string, unknown> {
  return {
    maxSkew: 1,
    topologyKey,
    whenUnsatisfiable: 'ScheduleAnyway',
    labelSelector: { matchLabels: { [GATEWAY_NAME_LABEL]: gateway.meta.name } },
  };
}

function deployment(
  gateway: Gateway,
  metadata: KubernetesObject['metadata'],
  values: WaypointDeploymentValues,
): KubernetesObject {
  const container = {
    name: 'waypoint',
    image: values.image,
    imagePullPolicy: 'IfNotPresent',
    args: ['waypoint'],
    env: environment(values),
    ports: [
      { name: 'mesh', containerPort: PORTS.hbone, protocol: 'TCP' },
      { name: 'metrics', containerPort: PORTS.metrics, protocol: 'TCP' },
      { name: 'status', containerPort: PORTS.readiness, protocol: 'TCP' },
    ],
    readinessProbe: probe('/healthz/ready', 1, 2),
    livenessProbe: probe('/healthz/live', 10, 6),
    resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { memory: '1Gi' } },
    securityContext: {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    },
    volumeMounts: [
      { name: 'run', mountPath: '/run/nodemesh' },
      { name: 'root', mountPath: '/var/run/nodemesh/root', readOnly: true },
      { name: 'token', mountPath: '/var/run/nodemesh/token', readOnly: true },
      { name: 'rate-store', mountPath: '/var/run/nodemesh/rate-store', readOnly: true },
    ],
  };
  const token = { audience: 'nodemesh', expirationSeconds: TOKEN_SECONDS, path: 'token' };
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata,
    // Without `replicas`: their number is the autoscaler's.
    spec: {
      selector: { matchLabels: { [GATEWAY_NAME_LABEL]: gateway.meta.name } },
      // The new one serves before the old one drains.
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      template: {
        metadata: {
          labels: {
            ...labelsOf(gateway),
            // It speaks the tunnel itself; nobody's node proxy is to capture it, ours or Istio's.
            'nodemesh.dev/mesh': 'disabled',
            'istio.io/dataplane-mode': 'none',
          },
          annotations: {
            'prometheus.io/scrape': 'true',
            'prometheus.io/port': String(PORTS.metrics),
            'prometheus.io/path': '/metrics',
            ...Object.fromEntries(gateway.infrastructureAnnotations),
          },
        },
        spec: {
          serviceAccountName: gateway.meta.name,
          automountServiceAccountToken: false,
          enableServiceLinks: false,
          nodeSelector: { 'kubernetes.io/os': 'linux' },
          topologySpreadConstraints: [
            spreadOver('kubernetes.io/hostname', gateway),
            spreadOver('topology.kubernetes.io/zone', gateway),
          ],
          securityContext: {
            runAsNonRoot: true,
            runAsUser: 65_532,
            runAsGroup: 65_532,
            fsGroup: 65_532,
            seccompProfile: { type: 'RuntimeDefault' },
          },
          terminationGracePeriodSeconds: DRAIN_S + TERMINATION_MARGIN_S,
          containers: [container],
          volumes: [
            { name: 'run', emptyDir: { medium: 'Memory', sizeLimit: '16Mi' } },
            { name: 'root', configMap: { name: ROOT_CONFIG_MAP } },
            { name: 'token', projected: { sources: [{ serviceAccountToken: token }] } },
            // Key `url`, made by whoever wants shared rate limits in this namespace.
            { name: 'rate-store', secret: { secretName: 'nodemesh-rate-store', optional: true } },
          ],
        },
      },
    },
  };
}

/** From the Gateway's annotations; what is no number of replicas is not taken. */
function replicas(gateway: Gateway): readonly [min: number, max: number] {
  const read = (annotation: string, fallback: number): number => {
    const text = gateway.meta.annotations.get(annotation) ?? '';
    const number = /^\d{1,4}$/.test(text) ? Number(text) : fallback;
    return number >= 1 && number <= REPLICAS_LIMIT ? number : fallback;
  };
  const min = read(MIN_ANNOTATION, REPLICAS_MIN_DEFAULT);
  return [min, Math.max(min, read(MAX_ANNOTATION, Math.max(min, REPLICAS_MAX_DEFAULT)))];
}

function autoscaler(gateway: Gateway, metadata: KubernetesObject['metadata']): KubernetesObject {
  const [minReplicas, maxReplicas] = replicas(gateway);
  const target = { type: 'Utilization', averageUtilization: CPU_PERCENT };
  return {
    apiVersion: 'autoscaling/v2',
    kind: 'HorizontalPodAutoscaler',
    metadata,
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: gateway.meta.name },
      minReplicas,
      maxReplicas,
      metrics: [{ type: 'Resource', resource: { name: 'cpu', target } }],
    },
  };
}
