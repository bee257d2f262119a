/**
 * Network sysctls of a namespace. `/proc/sys/net` shows the network namespace of the thread that opens it, so
 * entering is enough. In a container `/proc/sys` is mounted read-only (EROFS, tried in an unprivileged
 * containerd container): then a proc of our own is made with `fsopen` and used through its descriptor, attached
 * nowhere, without a mount namespace (kernel 5.2; needs SYS_ADMIN).
 */

import { closeSync, readFileSync, writeFileSync } from 'node:fs';

import { MeshError } from '../base/errors.ts';
import {
  FSCONFIG_CMD_CREATE,
  FSMOUNT_CLOEXEC,
  FSOPEN_CLOEXEC,
  SYS_FSCONFIG,
  SYS_FSMOUNT,
  SYS_FSOPEN,
} from './constants.ts';
import { runInNamespace, type NetworkNamespace } from './namespaces.ts';
import { checked, type Native } from './native.ts';

const NAME = /^net(\.[a-z0-9_]+)+$/;

/** `net.ipv4.tcp_migrate_req` → `net/ipv4/tcp_migrate_req`. Names come from our own code only. */
function pathOf(name: string): string {
  if (!NAME.test(name)) throw new TypeError(`not a network sysctl: ${name}`);
  return name.replaceAll('.', '/');
}

function failed(action: string, name: string, cause: unknown): MeshError {
  const errno = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown';
  return new MeshError('MESH_SYSCALL_FAILED', `Cannot ${action} sysctl "${name}": ${errno}`, {
    cause,
    details: { call: action, errno, name },
  });
}

/** The value of a sysctl in a namespace, trimmed. */
export function readSysctl(native: Native, namespace: NetworkNamespace, name: string): string {
  const path = `/proc/sys/${pathOf(name)}`;
  try {
    return runInNamespace(native, namespace, () => readFileSync(path, 'utf8')).trim();
  } catch (error) {
    throw error instanceof MeshError ? error : failed('read', name, error);
  }
}

/** Sets a sysctl in a namespace. */
export function writeSysctl(
  native: Native,
  namespace: NetworkNamespace,
  name: string,
  value: string,
): void {
  const path = pathOf(name);
  try {
    runInNamespace(native, namespace, () => writeFileSync(`/proc/sys/${path}`, value));
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (error instanceof MeshError) throw error;
    if (code !== 'EROFS' && code !== 'EACCES') throw failed('write', name, error);
    writeThroughOwnProc(native, namespace, name, value);
  }
}

/** The second way of `writeSysctl`, for a read-only `/proc/sys`. */
export function writeThroughOwnProc(
  native: Native,
  namespace: NetworkNamespace,
  name: string,
  value: string,
): void {
  const mount = mountOwnProc(native);
  try {
    const path = `/proc/self/fd/${mount}/sys/${pathOf(name)}`;
    runInNamespace(native, namespace, () => writeFileSync(path, value));
  } catch (error) {
    throw error instanceof MeshError ? error : failed('write', name, error);
  } finally {
    closeSync(mount);
  }
}

/** Descriptor of a proc file system that is mounted nowhere and vanishes when closed. */
function mountOwnProc(native: Native): number {
  const { calls } = native;
  const kind = Buffer.from('proc\0');
  const opened = calls.syscall(SYS_FSOPEN, native.addressOf(kind), FSOPEN_CLOEXEC, 0n, 0n, 0n);
  const context = checked(native, opened, 'fsopen', 'proc');
  try {
    const created = calls.syscall(SYS_FSCONFIG, BigInt(context), FSCONFIG_CMD_CREATE, 0n, 0n, 0n);
    checked(native, created, 'fsconfig', 'proc');
    const mounted = calls.syscall(SYS_FSMOUNT, BigInt(context), FSMOUNT_CLOEXEC, 0n, 0n, 0n);
    return checked(native, mounted, 'fsmount', 'proc');
  } finally {
    closeSync(context);
  }
}
