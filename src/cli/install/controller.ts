/** The controller's objects: Deployment, Service, disruption budget. It passes Pod Security's `restricted`. */

import {
  commonLabels,
  CONTROLLER,
  metadata,
  NAMESPACE,
  selectorLabels,
  type KubeObject,
} from './kube-object.ts';
import {
  imageFields,
  imageReference,
  livenessProbe,
  METRICS_PORT,
  podAnnotations,
  READINESS_PORT,
  readinessProbe,
  schedulingFields,
} from './pod-parts.ts';
import type { InstallValues } from './values.ts';

export const CONTROLLER_PORT = 15012;
const STATE_DIR = '/var/lib/nodemesh-controller';

/**
 * For the controller's Node: a small young generation, since what it reads lives long or not at all. With 10,000 pods it
 * saves some 40 MB (measured).
 */
export const CONTROLLER_FLAGS: readonly string[] = ['--disable-sigusr1', '--max-semi-space-size=4'];
/** The image keeps freed pages, which is right for relaying bytes and wrong here. */
export const CONTROLLER_MALLOC: Readonly<Record<string, string>> = {
  MALLOC_TRIM_THRESHOLD_: '131072',
  MALLOC_MMAP_THRESHOLD_: '131072',
  MALLOC_TOP_PAD_: '131072',
};

/** HOST:PORT at which node proxies and waypoints find it: the fixed address, or the DNS name. */
export function controllerAddress(values: InstallValues): string {
  const { clusterIP } = values.controller;
  const host = clusterIP === '' ? `${CONTROLLER}.${NAMESPACE}.svc` : clusterIP;
  return `${host.includes(':') ? `[${host}]` : host}:${CONTROLLER_PORT}`;
}

function environment(values: InstallValues, version: string): readonly unknown[] {
  const ownNames = [`${CONTROLLER}.${NAMESPACE}.svc`, values.controller.clusterIP];
  return [
    { name: 'NODEMESH_SOURCE', value: 'kubernetes' },
    { name: 'NODEMESH_POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
    { name: 'NODEMESH_STATE_DIR', value: STATE_DIR },
    { name: 'NODEMESH_TRUST_DOMAIN', value: values.trustDomain },
    { name: 'NODEMESH_CONTROLLER_NAMES', value: ownNames.filter(Boolean).join(',') },
    { name: 'NODEMESH_ISTIO_LABELS', value: String(values.istioLabels) },
    { name: 'NODEMESH_WAYPOINT_IMAGE', value: imageReference(values.image, version) },
    { name: 'NODEMESH_WAYPOINT_CONTROLLER', value: controllerAddress(values) },
    { name: 'NODEMESH_LOG_LEVEL', value: values.logLevel },
    ...Object.entries(CONTROLLER_MALLOC).map(([name, value]) => ({ name, value })),
    ...values.controller.extraEnv,
  ];
}

function container(values: InstallValues, version: string): Record<string, unknown> {
  return {
    name: 'controller',
    ...imageFields(values, version),
    command: ['/usr/local/bin/node', ...CONTROLLER_FLAGS, '/app/dist/bin/nodemesh.js'],
    args: ['controller'],
    env: environment(values, version),
    ports: [
      { name: 'discovery', containerPort: CONTROLLER_PORT, protocol: 'TCP' },
      METRICS_PORT,
      READINESS_PORT,
    ],
    readinessProbe: readinessProbe(),
    livenessProbe: livenessProbe(),
    // Reading a large cluster for the first time may take its while.
    startupProbe: { ...livenessProbe(), periodSeconds: 2, failureThreshold: 60 },
    resources: values.controller.resources,
    securityContext: {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    },
    volumeMounts: [{ name: 'state', mountPath: STATE_DIR }],
  };
}

function spreadOver(topologyKey: string): Record<string, unknown> {
  return {
    maxSkew: 1,
    topologyKey,
    whenUnsatisfiable: 'ScheduleAnyway',
    labelSelector: { matchLabels: selectorLabels('controller') },
  };
}

function deployment(values: InstallValues, version: string): KubeObject {
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: metadata(CONTROLLER, 'controller', version),
    spec: {
      replicas: values.controller.replicas,
      selector: { matchLabels: selectorLabels('controller') },
      // The new one serves before the old one goes.
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      template: {
        metadata: {
          labels: { ...commonLabels('controller', version), ...values.controller.podLabels },
          annotations: podAnnotations(values.controller),
        },
        spec: {
          serviceAccountName: CONTROLLER,
          enableServiceLinks: false,
          ...schedulingFields(values, values.controller),
          topologySpreadConstraints: [
            spreadOver('kubernetes.io/hostname'),
            spreadOver('topology.kubernetes.io/zone'),
          ],
          securityContext: {
            runAsNonRoot: true,
            runAsUser: 65532,
            runAsGroup: 65532,
            fsGroup: 65532,
            seccompProfile: { type: 'RuntimeDefault' },
          },
          terminationGracePeriodSeconds: 30,
          containers: [container(values, version)],
          volumes: [{ name: 'state', emptyDir: { sizeLimit: '64Mi' } }],
        },
      },
    },
  };
}

function service(values: InstallValues, version: string): KubeObject {
  const { clusterIP } = values.controller;
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: metadata(CONTROLLER, 'controller', version),
    spec: {
      ...(clusterIP === '' ? {} : { clusterIP }),
      selector: selectorLabels('controller'),
      ports: [
        { name: 'discovery', port: CONTROLLER_PORT, targetPort: 'discovery', protocol: 'TCP' },
        { name: 'metrics', port: 15020, targetPort: 'metrics', protocol: 'TCP' },
      ],
    },
  };
}

/** At most one is taken down at a time; with a single replica a node can still be drained. */
function disruptionBudget(version: string): KubeObject {
  return {
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata: metadata(CONTROLLER, 'controller', version),
    spec: { maxUnavailable: 1, selector: { matchLabels: selectorLabels('controller') } },
  };
}

export function controllerObjects(values: InstallValues, version: string): KubeObject[] {
  return [service(values, version), deployment(values, version), disruptionBudget(version)];
}
