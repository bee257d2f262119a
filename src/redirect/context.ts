/** What every part of redirection needs, and the one check of a namespace that a pod is said to own. */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import { openNamespace, ownNamespaceInode, type NetworkNamespace } from '../linux/namespaces.ts';
import type { Native } from '../linux/native.ts';

export interface RedirectContext {
  readonly native: Native;
  readonly clock: Clock;
  readonly logger: Logger;
  /** The node's own network namespace, in a container `/proc/1/ns/net` of the host. Stays the caller's. */
  readonly nodeNamespace: NetworkNamespace;
}

/**
 * Opens a namespace that is to be a pod's. Throws `MESH_NAMESPACE_MISMATCH` when it is no network namespace,
 * the node's or our own (T122), or not the one with `expectedInode`.
 */
export function openPodNamespace(
  context: RedirectContext,
  path: string,
  expectedInode?: number,
): NetworkNamespace {
  const namespace = openNamespace(context.native, path);
  const reason = refusal(context, namespace.inode, expectedInode);
  if (reason === undefined) return namespace;
  namespace.close();
  throw new MeshError('MESH_NAMESPACE_MISMATCH', `Cannot use namespace "${path}": ${reason}`, {
    details: { path, inode: namespace.inode },
  });
}

/** Whether an inode is that of the node or of this process: never a pod's. */
function isNodeNamespace(context: RedirectContext, inode: number): boolean {
  return inode === context.nodeNamespace.inode || inode === ownNamespaceInode(context.native);
}

function refusal(
  context: RedirectContext,
  inode: number,
  expectedInode: number | undefined,
): string | undefined {
  if (isNodeNamespace(context, inode)) return "it is the node's, not a pod's";
  if (expectedInode === undefined || inode === expectedInode) return undefined;
  return `inode ${inode}, ${expectedInode} expected; the path leads to another pod by now`;
}
