/**
 * Which network namespace belongs to which pod. Two sources: what the CNI script said at ADD, and the pod's own
 * processes, found through `/proc/PID/cgroup`. Never addresses: a pod with NET_ADMIN can fake those.
 *
 * - every namespace given out was opened and verified just before: a network namespace, not the node's, its
 *   inode as remembered (a path leads elsewhere once its process or sandbox is gone);
 * - what the CNI said is kept in one small file, without secrets, so that a restarted agent knows it.
 */

import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';

import { MeshError } from '../base/errors.ts';
import type { PodUid } from '../core/pod.ts';
import { podUidOfCgroup, startTimeOfStat } from './cgroup.ts';
import type { CniRequest } from './cni-request.ts';
import { openPodNamespace, type RedirectContext } from './context.ts';
import { readRegistry, writeRegistry, type RegistryEntry } from './registry.ts';

/** A verified namespace of a pod: what `CapturedPod` needs. */
export interface PodNamespace {
  readonly netnsPath: string;
  readonly netnsInode: number;
}

export interface PodNamespaces {
  /** The pod's namespace, from what the CNI said or else from its processes; `undefined` when it has none now. */
  find(podUid: PodUid): Promise<PodNamespace | undefined>;
  /** The same for many pods with one look at the processes. */
  findAll(podUids: ReadonlySet<PodUid>): Promise<ReadonlyMap<PodUid, PodNamespace>>;
  /**
   * Takes what a CNI ADD says. Rejects with `MESH_NAMESPACE_MISMATCH` for a namespace that cannot be a pod's
   * or that another pod has (T122), with `MESH_LIMIT_EXCEEDED` past `PODS_MAX`.
   */
  learn(request: CniRequest): Promise<PodNamespace>;
  /**
   * After a CNI DEL of the sandbox: an older sandbox's DEL does not forget a newer one. Whether it was the one
   * remembered.
   */
  forget(podUid: PodUid, containerId: string): Promise<boolean>;
  /** Drops what is remembered of pods that are no longer on this node. */
  keepOnly(podUids: ReadonlySet<PodUid>): Promise<void>;
}

/** Pods one node may have; the kubelet's default is 110. */
export const PODS_MAX = 4_096;
/** Processes looked at in one search. */
export const PROCESSES_MAX = 131_072;

export interface PodNamespacesOptions {
  /** Folder for the registry file; made by the caller, private to us. */
  readonly stateDir: string;
  /** Where the host's file system is seen, before the paths that the CNI names. Default: it is our own. */
  readonly hostRoot?: string;
  /** Where proc is mounted with the host's processes. Default `/proc`. */
  readonly procDir?: string;
}

/** Reads the registry. An unreadable one is logged and started anew: the processes tell the same. */
export async function openPodNamespaces(
  context: RedirectContext,
  options: PodNamespacesOptions,
): Promise<PodNamespaces> {
  const { logger } = context;
  const { procDir = '/proc', hostRoot = '' } = options;
  const file = join(options.stateDir, 'pod-namespaces.json');
  const entries = new Map<PodUid, RegistryEntry>();
  const stored = await readRegistry(file);
  if (!stored.ok) logger.warn('the registry of namespaces is lost', { error: stored.error });
  else for (const entry of stored.value) entries.set(entry.podUid, entry);

  let last: Promise<unknown> = Promise.resolve();
  /** One write after the other; a failed one is the caller's to report. */
  const save = (): Promise<void> => {
    const turn = last.then(() => writeRegistry(file, [...entries.values()]));
    last = turn.catch(() => undefined);
    return turn;
  };
  const remembered = (podUid: PodUid): PodNamespace | undefined => {
    const entry = entries.get(podUid);
    if (entry === undefined || !isStill(context, entry)) return undefined;
    return { netnsPath: entry.netnsPath, netnsInode: entry.netnsInode };
  };
  const findAll = async (
    podUids: ReadonlySet<PodUid>,
  ): Promise<ReadonlyMap<PodUid, PodNamespace>> => {
    const found = new Map<PodUid, PodNamespace>();
    const missing = new Set<PodUid>();
    for (const podUid of podUids) {
      const known = remembered(podUid);
      if (known === undefined) missing.add(podUid);
      else found.set(podUid, known);
    }
    if (missing.size === 0) return found;
    for (const [uid, namespace] of await searchProcesses(context, procDir, missing)) {
      found.set(uid, namespace);
    }
    return found;
  };

  return {
    findAll,
    find: async (podUid) => (await findAll(new Set([podUid]))).get(podUid),
    async learn(request) {
      const { podUid, containerId } = request;
      const netnsPath = `${hostRoot}${withoutLink(request.netnsPath, hostRoot)}`;
      if (!entries.has(podUid) && entries.size >= PODS_MAX) {
        const message = `Cannot remember more than ${PODS_MAX} pods; are CNI DEL requests lost`;
        throw new MeshError('MESH_LIMIT_EXCEEDED', message);
      }
      const namespace = openPodNamespace(context, netnsPath);
      const netnsInode = namespace.inode;
      namespace.close();
      for (const entry of entries.values()) {
        if (entry.netnsInode !== netnsInode || entry.podUid === podUid) continue;
        if (!isStill(context, entry)) continue;
        const message = `Cannot use namespace "${netnsPath}": pod "${entry.podUid}" has it`;
        throw new MeshError('MESH_NAMESPACE_MISMATCH', message);
      }
      entries.set(podUid, { podUid, containerId, netnsPath, netnsInode });
      await save();
      return { netnsPath, netnsInode };
    },
    async forget(podUid, containerId) {
      if (entries.get(podUid)?.containerId !== containerId) return false;
      entries.delete(podUid);
      await save();
      return true;
    },
    async keepOnly(podUids) {
      const gone = [...entries.keys()].filter((podUid) => !podUids.has(podUid));
      for (const podUid of gone) entries.delete(podUid);
      if (gone.length > 0) await save();
    },
  };
}

/**
 * Seen through `/proc/PID/root`, an absolute link leads into our own root instead of the host's (tried): container
 * runtimes say `/var/run/netns/…`, where `/var/run` is a link to `/run` (FHS 3.0).
 */
function withoutLink(path: string, hostRoot: string): string {
  return hostRoot === '' ? path : path.replace(/^\/var\/run\//, '/run/');
}

/** Whether a remembered path still leads to the remembered namespace. */
function isStill(context: RedirectContext, entry: RegistryEntry): boolean {
  try {
    openPodNamespace(context, entry.netnsPath, entry.netnsInode).close();
    return true;
  } catch {
    return false;
  }
}

interface Candidate {
  readonly startTime: number;
  /** Absent when the process is in the node's own namespace: a hostNetwork pod. */
  readonly namespace: PodNamespace | undefined;
}

/**
 * Looks through all processes. Of a pod's processes the oldest one counts, the runtime's own sandbox process:
 * later ones are the pod's and may have made namespaces of their own.
 */
async function searchProcesses(
  context: RedirectContext,
  procDir: string,
  wanted: ReadonlySet<PodUid>,
): Promise<ReadonlyMap<PodUid, PodNamespace>> {
  const oldest = new Map<PodUid, Candidate>();
  const pids = (await readdir(procDir)).filter((name) => /^\d{1,10}$/.test(name));
  for (const pid of pids.slice(0, PROCESSES_MAX)) {
    const dir = join(procDir, pid);
    const podUid = podUidOfCgroup(await readOrEmpty(join(dir, 'cgroup')));
    if (podUid === undefined || !wanted.has(podUid)) continue;
    const startTime = startTimeOfStat(await readOrEmpty(join(dir, 'stat')));
    if (startTime === undefined) continue;
    const known = oldest.get(podUid);
    if (known !== undefined && known.startTime <= startTime) continue;
    const candidate = candidateOf(context, join(dir, 'ns/net'), startTime);
    if (candidate !== undefined) oldest.set(podUid, candidate);
  }
  const found = new Map<PodUid, PodNamespace>();
  for (const [podUid, { namespace }] of oldest) {
    if (namespace !== undefined) found.set(podUid, namespace);
  }
  return found;
}

/** A process may end at any moment: what cannot be read is nobody's. */
function readOrEmpty(path: string): Promise<string> {
  return readFile(path, 'latin1').catch(() => '');
}

function candidateOf(
  context: RedirectContext,
  netnsPath: string,
  startTime: number,
): Candidate | undefined {
  try {
    const namespace = openPodNamespace(context, netnsPath);
    namespace.close();
    return { startTime, namespace: { netnsPath, netnsInode: namespace.inode } };
  } catch (error) {
    const code = error instanceof MeshError ? error.code : undefined;
    if (code === 'MESH_NAMESPACE_MISMATCH') return { startTime, namespace: undefined };
    // The process has ended in between.
    if (code === 'MESH_SYSCALL_FAILED') return undefined;
    throw error;
  }
}
