/** Everything that an installation consists of, in an order in which it can be applied. */

import { accessObjects } from './access.ts';
import { controllerObjects } from './controller.ts';
import { readCustomResources } from './custom-resources.ts';
import { guardObjects } from './guards.ts';
import { commonLabels, NAMESPACE, type KubeObject } from './kube-object.ts';
import { nodeProxyObjects } from './node-proxy.ts';
import type { InstallValues } from './values.ts';

/**
 * Node proxies use host folders and capabilities, which only Pod Security's `privileged` admits. The controller
 * would pass `restricted`; Pod Security knows no smaller scope than a namespace.
 */
function namespace(version: string): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: {
      name: NAMESPACE,
      labels: {
        ...commonLabels('mesh', version),
        'pod-security.kubernetes.io/enforce': 'privileged',
        'pod-security.kubernetes.io/audit': 'privileged',
        'pod-security.kubernetes.io/warn': 'privileged',
      },
    },
  };
}

/** What comes first and outlives an upgrade: the namespace and the CRDs. */
export function baseObjects(version: string): KubeObject[] {
  return [namespace(version), ...readCustomResources()];
}

export function meshObjects(values: InstallValues, version: string): KubeObject[] {
  return [
    ...accessObjects(version),
    ...guardObjects(values, version),
    ...controllerObjects(values, version),
    ...nodeProxyObjects(values, version),
  ];
}
