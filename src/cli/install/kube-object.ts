/** A Kubernetes object as plain data, and the metadata that all of ours share. */

/** Fields beyond these are the kind's own. The API server checks them: the cluster tests apply all with strict validation. */
export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: KubeMetadata;
  readonly [field: string]: unknown;
}

export interface KubeMetadata {
  readonly name: string;
  readonly namespace?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

export const NAMESPACE = 'nodemesh-system';
export const CONTROLLER = 'nodemesh-controller';
export const NODE = 'nodemesh-node';

/** What part of the mesh an object belongs to; `mesh` for what several parts share. */
export type Component = 'controller' | 'node' | 'mesh';

/** Stable for the life of an installation: what selectors may use. */
export function selectorLabels(component: Component): Record<string, string> {
  return {
    'app.kubernetes.io/name': 'nodemesh',
    'app.kubernetes.io/instance': 'nodemesh',
    'app.kubernetes.io/component': component,
  };
}

/** The labels every object of ours carries. */
export function commonLabels(component: Component, version: string): Record<string, string> {
  return {
    ...selectorLabels(component),
    'app.kubernetes.io/version': version,
    'app.kubernetes.io/part-of': 'nodemesh',
    'app.kubernetes.io/managed-by': 'nodemesh',
  };
}

/** Metadata of a cluster-wide object, or with `namespaced` of one in our namespace. */
export function metadata(
  name: string,
  component: Component,
  version: string,
  namespaced: 'namespaced' | 'cluster' = 'namespaced',
): KubeMetadata {
  const labels = commonLabels(component, version);
  return namespaced === 'cluster' ? { name, labels } : { name, namespace: NAMESPACE, labels };
}
