/**
 * The DaemonSet that takes the mesh off every node at the end: the node proxies' own, as it stands in the cluster, with
 * another command, so that image, tolerations and host folders are the ones that were used.
 */

import type { KubeItem } from '../kube-shapes.ts';
import { commonLabels, NAMESPACE, type KubeObject } from './kube-object.ts';

export const CLEANER = 'nodemesh-clean';

interface Named {
  readonly name: string;
}

interface PodTemplate {
  readonly metadata?: Readonly<Record<string, unknown>>;
  readonly spec?: Readonly<Record<string, unknown>> & {
    readonly containers?: readonly (Readonly<Record<string, unknown>> & {
      readonly volumeMounts?: readonly Named[];
    })[];
    readonly volumes?: readonly Named[];
  };
}

/** What only a proxy needs: it may be gone already, and would hold the cleaner back. */
const PROXY_VOLUMES = new Set(['root', 'token', 'keys']);

const LABELS = {
  'app.kubernetes.io/name': 'nodemesh',
  'app.kubernetes.io/instance': 'nodemesh',
  'app.kubernetes.io/component': 'cleaner',
};

export function cleanerOf(daemonSet: KubeItem, version: string): KubeObject {
  const { spec } = (daemonSet.spec?.['template'] ?? {}) as PodTemplate;
  const [container] = spec?.containers ?? [];
  const keep = ({ name }: Named): boolean => !PROXY_VOLUMES.has(name);
  const labels = { ...commonLabels('mesh', version), ...LABELS };
  return {
    apiVersion: 'apps/v1',
    kind: 'DaemonSet',
    metadata: { name: CLEANER, namespace: NAMESPACE, labels },
    spec: {
      selector: { matchLabels: LABELS },
      template: {
        metadata: { labels },
        spec: {
          ...spec,
          terminationGracePeriodSeconds: 5,
          containers: [
            {
              ...container,
              name: 'clean',
              args: ['clean'],
              livenessProbe: null,
              volumeMounts: container?.volumeMounts?.filter(keep),
            },
          ],
          volumes: spec?.volumes?.filter(keep),
        },
      },
    },
  };
}
