/**
 * Network namespaces: opened by path, verified, entered and left. Invariants:
 *
 * - the thread is in a foreign namespace only inside `runInNamespace`, which is synchronous;
 * - if the way back fails the process aborts, since every later socket would land in someone's pod.
 */

import { closeSync, fstatSync, openSync, statfsSync } from 'node:fs';

import { MeshError } from '../base/errors.ts';
import { CLONE_NEWNET, NSFS_MAGIC, NS_GET_NSTYPE } from './constants.ts';
import { checked, type Native } from './native.ts';

/** An open network namespace: it stays alive, empty of processes if need be, until closed. */
export interface NetworkNamespace {
  readonly path: string;
  /** -1 once closed. */
  readonly fd: number;
  /** Names the namespace on this machine; the kernel reuses it after the namespace is gone. */
  readonly inode: number;
  /** Idempotent. */
  close(): void;
}

/**
 * Opens the network namespace at `path` (`/proc/PID/ns/net`, `/run/netns/NAME`). Refuses what is not one:
 * `MESH_NAMESPACE_MISMATCH`; a path that cannot be opened: `MESH_SYSCALL_FAILED`.
 */
export function openNamespace(native: Native, path: string): NetworkNamespace {
  const fd = openPath(path);
  try {
    // Checked on the descriptor, not the path, so that a swapped path changes nothing afterwards.
    // The type first: an ioctl on somebody's device or pipe would mean something else there.
    const isNsfs = statfsSync(`/proc/self/fd/${fd}`).type === NSFS_MAGIC;
    if (!isNsfs || native.calls.ioctl(fd, NS_GET_NSTYPE, 0n) !== CLONE_NEWNET) {
      throw new MeshError('MESH_NAMESPACE_MISMATCH', `"${path}" is not a network namespace`);
    }
    const inode = fstatSync(fd).ino;
    let open = true;
    return {
      path,
      inode,
      // After closing the number may already belong to another file.
      get fd() {
        return open ? fd : -1;
      },
      close() {
        if (open) closeSync(fd);
        open = false;
      },
    };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function openPath(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (error) {
    const errno = error instanceof Error && 'code' in error ? String(error.code) : 'unknown';
    const hint = errno === 'EACCES' ? '; SYS_PTRACE is needed for other processes' : '';
    throw new MeshError('MESH_SYSCALL_FAILED', `Cannot open "${path}": ${errno}${hint}`, {
      cause: error,
      details: { call: 'open', errno, path },
    });
  }
}

/** The inode of this process's own network namespace. */
export function ownNamespaceInode(native: Native): number {
  return fstatSync(native.ownNamespaceFd).ino;
}

/**
 * Runs `fn` with the calling thread inside `namespace`; returns what it returns. `fn` must be synchronous
 * and must not use Node's own socket creators: they act a tick later, in the wrong namespace. Starting a child
 * process is fine, Node forks before `spawn` returns. Entering and leaving costs about 8 µs.
 */
export function runInNamespace<T>(native: Native, namespace: NetworkNamespace, fn: () => T): T {
  const back = native.currentNamespaceFd;
  const entered = native.calls.setns(namespace.fd, CLONE_NEWNET);
  checked(native, entered, 'setns', `into "${namespace.path}"`);
  native.currentNamespaceFd = namespace.fd;
  let result: T;
  try {
    result = fn();
  } finally {
    if (native.calls.setns(back, CLONE_NEWNET) < 0) process.abort();
    native.currentNamespaceFd = back;
  }
  if (result instanceof Promise) {
    throw new TypeError('runInNamespace was given an asynchronous function');
  }
  return result;
}
