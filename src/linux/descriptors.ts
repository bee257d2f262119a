/** File descriptors: of Node's sockets, of other processes, duplicated, shut down, closed. */

import { closeSync, writeSync } from 'node:fs';
import type { Server, Socket } from 'node:net';

import { MeshError } from '../base/errors.ts';
import { F_DUPFD_CLOEXEC, SHUT_RDWR, SYS_PIDFD_GETFD, SYS_PIDFD_OPEN } from './constants.ts';
import { checked, type Native } from './native.ts';

/**
 * The descriptor of a Node socket or server, which stays Node's: never close it. Throws
 * `MESH_CONNECTION_CLOSED` when Node has closed it already.
 */
export function descriptorOf(socket: Socket | Server): number {
  // Node has no public name for it; this one has been there since Node 0.
  const handle: unknown = Reflect.get(socket, '_handle');
  const fd: unknown =
    typeof handle === 'object' && handle !== null && 'fd' in handle ? handle.fd : undefined;
  // libuv answers -1 for a handle that is closed or has no descriptor yet.
  if (typeof fd !== 'number' || fd < 0) {
    throw new MeshError('MESH_CONNECTION_CLOSED', 'Cannot take the descriptor of a closed socket');
  }
  return fd;
}

/**
 * Writes to a connected Node socket at once, past its queue, which must be empty; returns how many bytes the kernel
 * took. 0 also when it took none, whatever the reason: written through the socket, they tell.
 */
export function writeToSocket(socket: Socket, bytes: Buffer): number {
  try {
    return writeSync(descriptorOf(socket), bytes, 0, bytes.byteLength, null);
  } catch {
    return 0;
  }
}

/**
 * A duplicate of descriptor `fd` of process `pid`: the same open socket, which lives on here when that process
 * dies. The caller owns it. Needs the rights of a debugger over that process (same user, or SYS_PTRACE).
 */
export function duplicateFrom(native: Native, pid: number, fd: number): number {
  const opened = native.calls.syscall(SYS_PIDFD_OPEN, BigInt(pid), 0n, 0n, 0n, 0n);
  const pidfd = checked(native, opened, 'pidfd_open', `of process ${pid}`);
  try {
    const taken = native.calls.syscall(SYS_PIDFD_GETFD, BigInt(pidfd), BigInt(fd), 0n, 0n, 0n);
    return checked(native, taken, 'pidfd_getfd', `descriptor ${fd} of process ${pid}`);
  } finally {
    closeSync(pidfd);
  }
}

/** A duplicate of a descriptor of this process. The caller owns it. */
export function duplicateDescriptor(native: Native, fd: number): number {
  const result = native.calls.fcntl(fd, F_DUPFD_CLOEXEC, 0n);
  return checked(native, result, 'duplicate', `descriptor ${fd}`);
}

/**
 * Ends the socket behind every duplicate of `fd`. A listener stops listening; with `tcp_migrate_req` its waiting
 * connections move to another listener of the SO_REUSEPORT group.
 */
export function shutdownDescriptor(native: Native, fd: number): void {
  checked(native, native.calls.shutdown(fd, SHUT_RDWR), 'shutdown', `descriptor ${fd}`);
}

/** Closes a descriptor that this code made and Node does not own. */
export function closeDescriptor(native: Native, fd: number): void {
  checked(native, native.calls.close(fd), 'close', `descriptor ${fd}`);
}
