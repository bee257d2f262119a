/** libc through `node:ffi` (Node 26.1 and later; experimental there, and quiet here). */

import type { NativeBackend, NativeCalls, NativeSignatures, NativeType } from './native.ts';

type Ffi = typeof import('node:ffi');

const FFI_TYPES = { int: 'i32', long: 'i64', bytes: 'buffer' } as const;

export function loadFfi(signatures: NativeSignatures): NativeBackend {
  const ffi = loadQuietly();
  // A null path resolves symbols among what Node itself is linked to: the running libc, glibc or musl.
  const library = new ffi.DynamicLibrary(null);
  const calls: Record<string, (...args: never[]) => number> = {};
  for (const [name, signature] of Object.entries(signatures)) {
    const bound = library.getFunction(name, {
      arguments: signature.parameters.map((type: NativeType) => FFI_TYPES[type]),
      return: FFI_TYPES[signature.result],
    }) as (...args: never[]) => number | bigint;
    calls[name] =
      signature.result === 'int' ? (bound as () => number) : (...args) => Number(bound(...args));
  }
  const location = library.getFunction('__errno_location', { arguments: [], return: 'pointer' });
  const errnoPointer = location();
  return {
    name: 'node:ffi',
    calls: calls as unknown as NativeCalls,
    errno: () => ffi.getInt32(errnoPointer),
    addressOf: (buffer) => ffi.getRawPointer(buffer),
  };
}

/**
 * Loading prints an ExperimentalWarning without a code, and Node has no switch for this one alone: it is
 * dropped while the module loads, and only it.
 */
function loadQuietly(): Ffi {
  // oxlint-disable-next-line typescript/unbound-method -- put back as it was, and called with its `this`
  const emitWarning = process.emitWarning;
  const filtered = (warning: string | Error, ...rest: unknown[]): void => {
    const text = warning instanceof Error ? warning.message : warning;
    if (!text.startsWith('FFI is an experimental feature')) {
      Reflect.apply(emitWarning, process, [warning, ...rest]);
    }
  };
  process.emitWarning = filtered;
  try {
    const ffi = process.getBuiltinModule('node:ffi') as Ffi | undefined;
    if (ffi === undefined) throw new Error(`Node ${process.version} has no node:ffi`);
    return ffi;
  } finally {
    process.emitWarning = emitWarning;
  }
}
