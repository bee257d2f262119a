/**
 * The one door to libc. Two backends, `node:ffi` and `koffi`, bind the same table of functions; nothing
 * else in the product calls native code. A `Native` belongs to the thread that loaded it: it remembers
 * that thread's own network namespace, and every namespace change goes through it.
 */

import { openSync } from 'node:fs';
import { constants } from 'node:os';

import { MeshError } from '../base/errors.ts';
import { loadFfi } from './native-ffi.ts';
import { loadKoffi } from './native-koffi.ts';

/** How a C parameter is passed: `int` is 32 bits, `long` 64 bits as a bigint, `bytes` a pointer into a Buffer. */
export type NativeType = 'int' | 'long' | 'bytes';

export interface NativeSignature {
  readonly result: 'int' | 'long';
  readonly parameters: readonly NativeType[];
}

/**
 * The libc functions in use; each answers -1 (`if_nametoindex`: 0) and sets errno when it failed. Variadic
 * ones (`ioctl`, `fcntl`, `prctl`, `syscall`) take integers only, which the x86-64 and arm64 Linux calling
 * conventions pass like fixed parameters.
 */
export interface NativeCalls {
  bind(fd: number, address: Buffer, size: number): number;
  close(fd: number): number;
  fcntl(fd: number, command: number, value: bigint): number;
  getrlimit(resource: number, limits: Buffer): number;
  getsockopt(fd: number, level: number, name: number, value: Buffer, size: Buffer): number;
  if_nametoindex(name: Buffer): number;
  ioctl(fd: number, request: bigint, value: bigint): number;
  listen(fd: number, backlog: number): number;
  prctl(option: number, a: bigint, b: bigint, c: bigint, d: bigint): number;
  recv(fd: number, into: Buffer, size: bigint, flags: number): number;
  setns(fd: number, kind: number): number;
  setrlimit(resource: number, limits: Buffer): number;
  setsockopt(fd: number, level: number, name: number, value: Buffer, size: number): number;
  shutdown(fd: number, how: number): number;
  socket(domain: number, type: number, protocol: number): number;
  syscall(number: bigint, a: bigint, b: bigint, c: bigint, d: bigint, e: bigint): number;
}

export type NativeSignatures = Readonly<Record<keyof NativeCalls, NativeSignature>>;

const SIGNATURES: NativeSignatures = {
  bind: { result: 'int', parameters: ['int', 'bytes', 'int'] },
  close: { result: 'int', parameters: ['int'] },
  fcntl: { result: 'int', parameters: ['int', 'int', 'long'] },
  getrlimit: { result: 'int', parameters: ['int', 'bytes'] },
  getsockopt: { result: 'int', parameters: ['int', 'int', 'int', 'bytes', 'bytes'] },
  if_nametoindex: { result: 'int', parameters: ['bytes'] },
  ioctl: { result: 'int', parameters: ['int', 'long', 'long'] },
  listen: { result: 'int', parameters: ['int', 'int'] },
  prctl: { result: 'int', parameters: ['int', 'long', 'long', 'long', 'long'] },
  recv: { result: 'long', parameters: ['int', 'bytes', 'long', 'int'] },
  setns: { result: 'int', parameters: ['int', 'int'] },
  setrlimit: { result: 'int', parameters: ['int', 'bytes'] },
  setsockopt: { result: 'int', parameters: ['int', 'int', 'int', 'bytes', 'int'] },
  shutdown: { result: 'int', parameters: ['int', 'int'] },
  socket: { result: 'int', parameters: ['int', 'int', 'int'] },
  syscall: { result: 'long', parameters: ['long', 'long', 'long', 'long', 'long', 'long'] },
};

/** What a backend provides. `errno` is valid only directly after a call that failed. */
export interface NativeBackend {
  readonly name: NativeBackendName;
  readonly calls: NativeCalls;
  errno(): number;
  /** The address of a buffer's bytes, valid while the buffer is referenced. */
  addressOf(buffer: Buffer): bigint;
}

export type NativeBackendName = 'node:ffi' | 'koffi';

/** In the order of preference. */
export const NATIVE_BACKENDS: readonly NativeBackendName[] = ['node:ffi', 'koffi'];

export interface Native extends NativeBackend {
  /** Descriptor of the loading thread's own network namespace; owned by the process, never closed. */
  readonly ownNamespaceFd: number;
  /** Descriptor of the namespace this thread is in now. Changed by `runInNamespace` only. */
  currentNamespaceFd: number;
  /** A C `int` for the kernel to read, never to write: the few that are used are made once. */
  readonly int: (value: number) => Buffer;
}

/**
 * Binds libc for the calling thread. Without `backend` takes `node:ffi` where this Node has it, else `koffi`.
 * Throws `MESH_PLATFORM_UNSUPPORTED` when neither can be loaded.
 */
export function loadNative(backend?: NativeBackendName): Native {
  const wanted = backend === undefined ? NATIVE_BACKENDS : [backend];
  const reasons: string[] = [];
  for (const name of wanted) {
    try {
      const loaded = name === 'node:ffi' ? loadFfi(SIGNATURES) : loadKoffi(SIGNATURES);
      // `thread-self`: in a Node worker thread `/proc/self` is the main thread.
      const ownNamespaceFd = openSync('/proc/thread-self/ns/net', 'r');
      const ints = new Map<number, Buffer>();
      const int = (value: number): Buffer => {
        let bytes = ints.get(value);
        if (bytes === undefined) ints.set(value, (bytes = nativeInt(value)));
        return bytes;
      };
      return { ...loaded, ownNamespaceFd, currentNamespaceFd: ownNamespaceFd, int };
    } catch (error) {
      reasons.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  throw new MeshError(
    'MESH_PLATFORM_UNSUPPORTED',
    `Cannot call libc: ${reasons.join('; ')}; Linux with Node 26.1 or the package "koffi" is needed`,
    { details: { reasons } },
  );
}

const ERRNO_NAMES: ReadonlyMap<number, string> = new Map(
  // EAGAIN and EWOULDBLOCK, ENOTSUP and EOPNOTSUPP share a number: the first name stays.
  Object.entries(constants.errno)
    .toReversed()
    .map(([name, number]) => [number, name]),
);

export function errnoName(errno: number): string {
  return ERRNO_NAMES.get(errno) ?? `errno ${errno}`;
}

/** The error of a failed call; must be made directly after it. `what` names the object acted on. */
export function syscallError(native: NativeBackend, call: string, what: string): MeshError {
  const errno = errnoName(native.errno());
  return new MeshError('MESH_SYSCALL_FAILED', `Cannot ${call} ${what}: ${errno}`, {
    retryable: errno === 'EAGAIN' || errno === 'EINTR' || errno === 'EMFILE',
    details: { call, errno },
  });
}

/** Returns `result` or throws the error of the call that made it. */
export function checked(native: NativeBackend, result: number, call: string, what: string): number {
  if (result < 0) throw syscallError(native, call, what);
  return result;
}

/** A C `int` in the machine's byte order. */
export function nativeInt(value: number): Buffer {
  return Buffer.from(new Int32Array([value]).buffer);
}

/** The errno name a `MESH_SYSCALL_FAILED` carries, or an empty string. */
export function errnoOf(error: unknown): string {
  const errno = error instanceof MeshError ? error.details['errno'] : undefined;
  return typeof errno === 'string' ? errno : '';
}
