/** What a process may do to itself: descriptor limits, no core dumps, and whether a folder is in memory. */

import { readdirSync, statfsSync, statSync } from 'node:fs';

import { MeshError } from '../base/errors.ts';
import {
  PR_GET_DUMPABLE,
  PR_SET_DUMPABLE,
  RAMFS_MAGIC,
  RLIMIT_CORE,
  RLIMIT_NOFILE,
  TMPFS_MAGIC,
} from './constants.ts';
import { checked, type Native } from './native.ts';

export interface ResourceLimit {
  /** What is enforced; `Infinity` for none. */
  readonly soft: number;
  /** How far the soft one may be raised. */
  readonly hard: number;
}

const RLIM_INFINITY = 0xffffffffffffffffn;

function readLimit(native: Native, resource: number): BigUint64Array {
  const bytes = Buffer.alloc(16);
  checked(native, native.calls.getrlimit(resource, bytes), 'getrlimit', `of resource ${resource}`);
  return new BigUint64Array(bytes.buffer, bytes.byteOffset, 2);
}

function writeLimit(native: Native, resource: number, soft: bigint, hard: bigint): void {
  const bytes = Buffer.from(new BigUint64Array([soft, hard]).buffer);
  checked(native, native.calls.setrlimit(resource, bytes), 'setrlimit', `of resource ${resource}`);
}

/** How many descriptors this process may have open. */
export function descriptorLimit(native: Native): ResourceLimit {
  const [soft = 0n, hard = 0n] = readLimit(native, RLIMIT_NOFILE);
  const number = (value: bigint): number => (value === RLIM_INFINITY ? Infinity : Number(value));
  return { soft: number(soft), hard: number(hard) };
}

/** Raises the soft limit to the hard one; returns the limit now in force. */
export function raiseDescriptorLimit(native: Native): number {
  const [, hard = 0n] = readLimit(native, RLIMIT_NOFILE);
  writeLimit(native, RLIMIT_NOFILE, hard, hard);
  return descriptorLimit(native).soft;
}

/** How many descriptors this process has open. */
export function openDescriptorCount(): number {
  // Since Linux 6.2 the folder's size is their number (2 µs); before, it is 0 and they are listed.
  const { size } = statSync('/proc/self/fd');
  return size > 0 ? size : readdirSync('/proc/self/fd').length;
}

/** Lowers (or within the hard limit raises) the soft limit: for tests and for a configured bound. */
export function setDescriptorLimit(native: Native, soft: number): void {
  const [, hard = 0n] = readLimit(native, RLIMIT_NOFILE);
  writeLimit(native, RLIMIT_NOFILE, BigInt(soft), hard);
}

/**
 * Keeps this process's memory, which holds keys, out of core files and away from processes of the same user
 * (T125): core size 0 for good and not dumpable. `duplicateFrom` on it needs SYS_PTRACE from then on.
 */
export function forbidMemoryDumps(native: Native): void {
  writeLimit(native, RLIMIT_CORE, 0n, 0n);
  const result = native.calls.prctl(PR_SET_DUMPABLE, 0n, 0n, 0n, 0n);
  checked(native, result, 'prctl', 'PR_SET_DUMPABLE');
}

/** Whether core files and debuggers of the same user can get at this process's memory. */
export function isDumpable(native: Native): boolean {
  const result = native.calls.prctl(PR_GET_DUMPABLE, 0n, 0n, 0n, 0n);
  return checked(native, result, 'prctl', 'PR_GET_DUMPABLE') !== 0;
}

/** Whether `path` is on tmpfs or ramfs, so that what is written there reaches no disk but swap. */
export function isMemoryBacked(path: string): boolean {
  let type: number;
  try {
    type = statfsSync(path).type;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const message = `Cannot tell what file system "${path}" is on: ${reason}`;
    throw new MeshError('MESH_SYSCALL_FAILED', message, {
      cause: error,
      details: { call: 'statfs', path },
    });
  }
  return type === TMPFS_MAGIC || type >>> 0 === RAMFS_MAGIC;
}
