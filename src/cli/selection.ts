/** Which objects of a list have the labels that `-l` asks for. The API server decides, so it is said as to kubectl. */

import type { Cluster } from './cluster.ts';
import { nameOf, namespaceOf, type KubeItem } from './kube-shapes.ts';

/** Answers whether `NAME`, or `NAMESPACE/NAME`, of the kind at `path` is selected; without a selector all are. */
export async function selection(
  cluster: Cluster,
  path: string,
  selector: string | undefined,
): Promise<(key: string) => boolean> {
  if (selector === undefined) return () => true;
  const found = (await cluster.list(path, { labelSelector: selector })) ?? [];
  const keys = new Set(
    (found as readonly KubeItem[]).map((item) => {
      const namespace = namespaceOf(item);
      return namespace === '' ? nameOf(item) : `${namespace}/${nameOf(item)}`;
    }),
  );
  return (key) => keys.has(key);
}
