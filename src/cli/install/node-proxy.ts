/**
 * The node proxies' DaemonSet. What its pod may do, and why:
 *
 * - `hostPID`: a pod's network namespace is entered through `/proc/PID/ns/net` of one of its processes.
 * - NET_ADMIN: redirection rules, marks, and listening with another user's addresses.
 * - SYS_ADMIN: `setns` into those namespaces, and a `/proc` of its own to set their sysctls.
 * - NET_RAW: binding to the source address of the connection it carries on.
 * - SYS_PTRACE: without it `/proc/PID/ns/net` of another user's process answers EACCES.
 *
 * Everything else is dropped and the root is read-only. It is not on the host's network, so that an upgrade's two
 * pods do not collide on their ports, and it has no right at the API at all: its token is for our audience only.
 */

import { commonLabels, metadata, NODE, selectorLabels } from './kube-object.ts';
import type { KubeObject } from './kube-object.ts';
import { controllerAddress } from './controller.ts';
import {
  imageFields,
  livenessProbe,
  METRICS_PORT,
  podAnnotations,
  READINESS_PORT,
  readinessProbe,
  schedulingFields,
} from './pod-parts.ts';
import type { InstallValues } from './values.ts';

const CAPABILITIES = ['NET_ADMIN', 'NET_RAW', 'SYS_ADMIN', 'SYS_PTRACE'] as const;
/** After the drain: time to say goodbye. */
const TERMINATION_MARGIN_S = 30;
const TOKEN_SECONDS = 3600;

function environment(values: InstallValues): readonly unknown[] {
  return [
    { name: 'NODEMESH_NODE_NAME', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
    { name: 'NODEMESH_CONTROLLER', value: controllerAddress(values) },
    { name: 'NODEMESH_KEY_DIR', value: '/var/run/nodemesh/keys' },
    { name: 'NODEMESH_WORKERS', value: String(values.node.workers) },
    { name: 'NODEMESH_DRAIN_S', value: String(values.node.drainSeconds) },
    { name: 'NODEMESH_AFTER_HANDOVER', value: 'wait' },
    // The host's first process is in the node's own network namespace; this container is in one of its own.
    { name: 'NODEMESH_NODE_NAMESPACE', value: '/proc/1/ns/net' },
    { name: 'NODEMESH_HOST_ROOT', value: '/proc/1/root' },
    { name: 'NODEMESH_CNI_CONF_DIR', value: '/host/etc/cni/net.d' },
    { name: 'NODEMESH_CNI_BIN_DIR', value: '/host/opt/cni/bin' },
    { name: 'NODEMESH_CNI_HOST_BIN_DIR', value: values.node.cniBinDir },
    { name: 'NODEMESH_LOG_LEVEL', value: values.logLevel },
    ...values.node.extraEnv,
  ];
}

const MOUNTS = [
  { name: 'run', mountPath: '/run/nodemesh' },
  { name: 'state', mountPath: '/var/lib/nodemesh' },
  { name: 'keys', mountPath: '/var/run/nodemesh/keys' },
  { name: 'root', mountPath: '/var/run/nodemesh/root', readOnly: true },
  { name: 'token', mountPath: '/var/run/nodemesh/token', readOnly: true },
  { name: 'cni-conf', mountPath: '/host/etc/cni/net.d' },
  { name: 'cni-bin', mountPath: '/host/opt/cni/bin' },
] as const;

function hostFolder(name: string, path: string): Record<string, unknown> {
  return { name, hostPath: { path, type: 'DirectoryOrCreate' } };
}

function volumes(values: InstallValues): readonly unknown[] {
  return [
    hostFolder('run', '/run/nodemesh'),
    hostFolder('state', '/var/lib/nodemesh'),
    // Keys survive a restart of the container and never touch a disk.
    { name: 'keys', emptyDir: { medium: 'Memory', sizeLimit: '16Mi' } },
    // The controller writes it at its first start; until then the kubelet holds the pod back and tries again.
    { name: 'root', configMap: { name: 'nodemesh-root' } },
    {
      name: 'token',
      projected: {
        sources: [
          {
            serviceAccountToken: {
              audience: 'nodemesh',
              expirationSeconds: TOKEN_SECONDS,
              path: 'token',
            },
          },
        ],
      },
    },
    hostFolder('cni-conf', values.node.cniConfDir),
    hostFolder('cni-bin', values.node.cniBinDir),
  ];
}

function container(values: InstallValues, version: string): Record<string, unknown> {
  return {
    name: 'node',
    ...imageFields(values, version),
    args: ['node'],
    env: environment(values),
    ports: [METRICS_PORT, READINESS_PORT],
    readinessProbe: readinessProbe(),
    livenessProbe: livenessProbe(),
    resources: values.node.resources,
    securityContext: {
      privileged: false,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      runAsUser: 0,
      runAsGroup: 0,
      runAsNonRoot: false,
      capabilities: { drop: ['ALL'], add: CAPABILITIES },
      seccompProfile: { type: 'RuntimeDefault' },
      // The runtimes' default AppArmor profile forbids mounting, and with it the /proc of its own.
      appArmorProfile: { type: 'Unconfined' },
    },
    volumeMounts: MOUNTS,
  };
}

export function nodeProxyObjects(values: InstallValues, version: string): KubeObject[] {
  const daemonSet: KubeObject = {
    apiVersion: 'apps/v1',
    kind: 'DaemonSet',
    metadata: metadata(NODE, 'node', version),
    spec: {
      selector: { matchLabels: selectorLabels('node') },
      // The successor takes over beside its predecessor, so no connection is refused (see ARCHITECTURE.md).
      updateStrategy: {
        type: 'RollingUpdate',
        rollingUpdate: { maxSurge: 1, maxUnavailable: 0 },
      },
      template: {
        metadata: {
          labels: { ...commonLabels('node', version), ...values.node.podLabels },
          annotations: podAnnotations(values.node),
        },
        spec: {
          serviceAccountName: NODE,
          automountServiceAccountToken: false,
          enableServiceLinks: false,
          hostPID: true,
          ...schedulingFields(values, values.node),
          terminationGracePeriodSeconds: values.node.drainSeconds + TERMINATION_MARGIN_S,
          containers: [container(values, version)],
          volumes: volumes(values),
        },
      },
    },
  };
  return [daemonSet];
}
