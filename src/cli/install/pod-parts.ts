/** What the pods of controller and node proxies have in common. */

import type { ImageValues, InstallValues, PodValues } from './values.ts';

/** `REPOSITORY@DIGEST`, or `REPOSITORY:TAG` with the version as default tag. */
export function imageReference(image: ImageValues, version: string): string {
  if (image.digest !== '') return `${image.repository}@${image.digest}`;
  return `${image.repository}:${image.tag === '' ? version : image.tag}`;
}

export function imageFields(values: InstallValues, version: string): Record<string, unknown> {
  return {
    image: imageReference(values.image, version),
    imagePullPolicy: values.image.pullPolicy,
  };
}

/** Fields of a pod spec that values set; those that are empty are left out, as the Helm chart does. */
export function schedulingFields(values: InstallValues, pod: PodValues): Record<string, unknown> {
  return {
    ...(values.imagePullSecrets.length === 0 ? {} : { imagePullSecrets: values.imagePullSecrets }),
    priorityClassName: pod.priorityClassName,
    ...(Object.keys(pod.nodeSelector).length === 0 ? {} : { nodeSelector: pod.nodeSelector }),
    ...(pod.tolerations.length === 0 ? {} : { tolerations: pod.tolerations }),
    ...(Object.keys(pod.affinity).length === 0 ? {} : { affinity: pod.affinity }),
  };
}

/** Annotations that plain Prometheus looks for, and the user's. */
export function podAnnotations(pod: PodValues): Record<string, string> {
  return {
    'prometheus.io/scrape': 'true',
    'prometheus.io/port': '15020',
    'prometheus.io/path': '/metrics',
    ...pod.podAnnotations,
  };
}

export const METRICS_PORT = { name: 'metrics', containerPort: 15020, protocol: 'TCP' } as const;
export const READINESS_PORT = {
  name: 'readiness',
  containerPort: 15021,
  protocol: 'TCP',
} as const;

/** Ready as soon as nothing blocks; asked again so soon that a roll-out does not wait for the probe. */
export function readinessProbe(): Record<string, unknown> {
  return {
    httpGet: { path: '/healthz/ready', port: 'readiness' },
    periodSeconds: 2,
    timeoutSeconds: 2,
    failureThreshold: 3,
  };
}

/** Whether the process still answers at all: it never depends on anything outside the pod. */
export function livenessProbe(): Record<string, unknown> {
  return {
    httpGet: { path: '/healthz/live', port: 'readiness' },
    periodSeconds: 10,
    timeoutSeconds: 5,
    failureThreshold: 6,
  };
}
