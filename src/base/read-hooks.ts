/**
 * Where Node keeps the parts of its `onread` option, so that reads of any socket can be pointed at our own
 * buffers.
 *
 * Facts, tried on Node 24.21 and 26.10: the documented option is not taken for accepted sockets (the server
 * makes them), and `tls.connect` ignores it together with `socket`. All it does is set three symbols on the
 * socket and call `handle.useUserBuffer(buffer)`, and that works at any time: accepted, connecting, made from
 * a descriptor, TLS on either side. TLS delivers each record (16 KiB) on its own, with its own ticks after it.
 */

import { Socket } from 'node:net';

/** Symbols of properties of a `net.Socket`. */
export interface ReadHooks {
  /** The buffer that the next read fills. */
  readonly buffer: symbol;
  /** A function that returns the next buffer; called after every `callback`. */
  readonly generate: symbol;
  /** Called with the number of bytes read; returning false stops reading. */
  readonly callback: symbol;
}

interface UserBufferHandle {
  useUserBuffer(buffer: Buffer): void;
}

type HookedSocket = Socket &
  Record<symbol, unknown> & { readonly _handle?: Partial<UserBufferHandle> | null };

/** Asks a socket that is never opened. Undefined when this Node is not as expected. */
export function findReadHooks(): ReadHooks | undefined {
  const generateBuffer = (): Buffer => Buffer.alloc(0);
  const callback = (): boolean => true;
  const probe = new Socket({ onread: { buffer: generateBuffer, callback } });
  probe.on('error', () => {});
  const values = probe as HookedSocket;
  const symbols = Object.getOwnPropertySymbols(probe);
  const hooks = {
    // With a function for a buffer Node marks the place of the buffer itself with `true`.
    buffer: symbols.find((key) => key.description === 'kBuffer' && values[key] === true),
    generate: symbols.find((key) => values[key] === generateBuffer),
    callback: symbols.find((key) => values[key] === callback),
  };
  probe.destroy();
  const { buffer, generate, callback: called } = hooks;
  if (buffer === undefined || generate === undefined || called === undefined) return undefined;
  return { buffer, generate, callback: called };
}

/**
 * From now on `socket` reads into what `generate` returns and tells `callback`. False, with nothing
 * changed, when this socket has no handle that can do so.
 */
export function hookReads(
  socket: Socket,
  hooks: ReadHooks,
  generate: () => Buffer,
  callback: (byteCount: number) => boolean,
): boolean {
  const hooked = socket as HookedSocket;
  const { _handle: handle } = hooked;
  if (handle ? typeof handle.useUserBuffer !== 'function' : !socket.connecting) return false;
  const buffer = generate();
  hooked[hooks.buffer] = buffer;
  hooked[hooks.generate] = generate;
  hooked[hooks.callback] = callback;
  // A socket that has no handle yet calls it itself when it makes one.
  handle?.useUserBuffer?.(buffer);
  return true;
}
