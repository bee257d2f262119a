/** libc through `koffi`, for a Node without `node:ffi`; the package is loaded only when it is chosen. */

import { createRequire } from 'node:module';

import type { NativeBackend, NativeCalls, NativeSignatures } from './native.ts';

const KOFFI_TYPES = { int: 'int', long: 'int64_t', bytes: 'uint8_t *' } as const;

export function loadKoffi(signatures: NativeSignatures): NativeBackend {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const library = koffi.load(null);
  const calls: Record<string, (...args: never[]) => number> = {};
  for (const [name, signature] of Object.entries(signatures)) {
    const parameters = signature.parameters.map((type) => KOFFI_TYPES[type]);
    const bound = library.func(name, KOFFI_TYPES[signature.result], parameters);
    calls[name] =
      signature.result === 'int'
        ? (...args) => bound(...args) as number
        : (...args) => Number(bound(...args) as number | bigint);
  }
  return {
    name: 'koffi',
    calls: calls as unknown as NativeCalls,
    errno: () => koffi.errno(),
    addressOf: (buffer) => koffi.address(buffer),
  };
}
