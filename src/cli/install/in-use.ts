/** Who uses the mesh: objects with labels of ours, and waypoints. */

import { WAYPOINT_CLASS } from '../../controlplane/gateway-objects.ts';
import type { Cluster } from '../cluster.ts';
import { labelOf, nameOf, namespaceOf, type KubeItem } from '../kube-shapes.ts';

export const MESH_LABEL = 'nodemesh.dev/mesh';
export const WAYPOINT_LABEL = 'nodemesh.dev/waypoint';
export const GATEWAY_GROUP = '/apis/gateway.networking.k8s.io/v1';

export interface UsingObject {
  /** As a person says it, e.g. `pod shop/web`. */
  readonly name: string;
  readonly path: string;
  /** In the mesh, not only labelled (`disabled` opts out; a waypoint's name alone enrols nobody). */
  readonly enrolled: boolean;
}

export interface InUse {
  readonly namespaces: readonly UsingObject[];
  readonly pods: readonly UsingObject[];
  readonly services: readonly UsingObject[];
  /** Gateways of our class; what the controller made for them goes with them. */
  readonly waypoints: readonly UsingObject[];
}

function describe(kind: string, base: string): (item: KubeItem) => UsingObject {
  return (item) => {
    const namespace = namespaceOf(item);
    const name = nameOf(item);
    const enrolled = labelOf(item, MESH_LABEL) === 'enabled';
    if (namespace === '') return { name, path: `${base}/${kind}s/${name}`, enrolled };
    const path = `${base}/namespaces/${namespace}/${kind}s/${name}`;
    return { name: `${kind} ${namespace}/${name}`, path, enrolled };
  };
}

export async function findInUse(cluster: Cluster): Promise<InUse> {
  const list = async (path: string, labelSelector?: string): Promise<readonly KubeItem[]> => {
    const query = labelSelector === undefined ? {} : { labelSelector };
    return ((await cluster.list(path, query)) ?? []) as readonly KubeItem[];
  };
  const [enrolled, routed, pods, services, gateways] = await Promise.all([
    list('/api/v1/namespaces', MESH_LABEL),
    list('/api/v1/namespaces', WAYPOINT_LABEL),
    list('/api/v1/pods', MESH_LABEL),
    list('/api/v1/services', WAYPOINT_LABEL),
    list(`${GATEWAY_GROUP}/gateways`),
  ]);
  const namespaces = new Map([...enrolled, ...routed].map((item) => [nameOf(item), item]));
  const ours = gateways.filter(({ spec }) => spec?.['gatewayClassName'] === WAYPOINT_CLASS);
  return {
    namespaces: [...namespaces.values()].map(describe('namespace', '/api/v1')),
    pods: pods.map(describe('pod', '/api/v1')),
    services: services.map(describe('service', '/api/v1')),
    waypoints: ours.map((item) => ({
      ...describe('gateway', GATEWAY_GROUP)(item),
      name: `waypoint ${namespaceOf(item)}/${nameOf(item)}`,
    })),
  };
}

/** Those without whom the mesh could go unnoticed. */
export function enrolledNames({ namespaces, pods, waypoints }: InUse): string[] {
  const enrolled = [...namespaces, ...pods].filter((object) => object.enrolled);
  return [...enrolled, ...waypoints].map(({ name }) => name);
}
