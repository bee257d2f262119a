/**
 * Read buffers of one process: one shared buffer at which every idle socket points, and a bounded pool of
 * own buffers for busy ones.
 *
 * - The kernel fills a buffer and the reader's callback runs in one go, so two sockets may point at one
 *   buffer: what must never happen is that somebody still refers to bytes in it when the next read comes.
 * - Hence `detach`: only a buffer with exactly one user can be given away; all others must be copied.
 * - When the pool is at its bound, buffers get more than one user: reading goes on, with copies.
 */

import { findReadHooks, type ReadHooks } from './read-hooks.ts';

export interface ReadBuffersOptions {
  /** Largest single read, default 125 KiB; 1 KiB to 1 MiB. TLS never delivers more than 16 KiB at once. */
  readonly sizeBytes?: number;
  /** Bytes free in front of each read, default 9: an HTTP/2 frame header. */
  readonly headroomBytes?: number;
  /** Own buffers that busy sockets hold together, default 64. Detached ones do not count. */
  readonly ownMax?: number;
  /** Read through `'data'` events and copies, as when Node's internals have changed. For tests. */
  readonly fallback?: boolean;
}

/** One buffer and how many sockets point at it. Handled by base/ only. */
export interface ReadSlot {
  /** With headroom. */
  readonly whole: Buffer;
  /** What the kernel reads into: `whole` without its headroom. */
  readonly view: Buffer;
  users: number;
}

/** Owned by a process or worker; lives as long as it does. */
export interface ReadBuffers {
  readonly sizeBytes: number;
  readonly headroomBytes: number;
  /** A read of at least this many bytes makes a socket busy: its next read goes into an own buffer. */
  readonly busyBytes: number;
  readonly shared: ReadSlot;
  /** Undefined: this Node cannot read into our buffers, every read is copied. */
  readonly hooks: ReadHooks | undefined;
  /** Own buffers in existence, used or free; at most `ownMax`. */
  readonly ownCount: number;
  acquire(): ReadSlot;
  release(slot: ReadSlot): void;
  /** A whole buffer (headroom + size) for the caller's own use, outside the pool; to be recycled. */
  lend(): Buffer;
  /** Gives the buffer away; the slot must not be used or released afterwards. False: copy instead. */
  detach(slot: ReadSlot): boolean;
  /**
   * Takes back a detached buffer (the whole one) that nobody refers to any more. Optional: what is not
   * recycled is left to the garbage collector.
   */
  recycle(whole: Buffer): void;
}

/**
 * What fills two of the kernel's largest segments (64 KiB, in whole packets) as nearly as can be, also with the 185 bytes
 * that TLS and HTTP/2 add, for IPv4 and IPv6 and an MTU of 1,350 to 1,500. With 128 KiB each write left a third, nearly
 * empty one: CPU per byte of a relay over packets of 1,500 bytes 3.45 s/GB instead of 2.75 (TLS, one stream), 3.45
 * instead of 2.33 (eight), 0.80 instead of 0.66 (plain), on a busy machine, alternating. 250 KiB: 3.21, 2.63, 0.64.
 */
const SIZE_DEFAULT_BYTES = 125 * 1024;
const SIZE_MIN_BYTES = 1024;
const SIZE_MAX_BYTES = 1024 * 1024;
const HEADROOM_DEFAULT_BYTES = 9;
const OWN_MAX_DEFAULT = 64;
/** Copying less than this costs about as much as handing a buffer over. */
const BUSY_MIN_BYTES = 4096;

export function createReadBuffers(options: ReadBuffersOptions = {}): ReadBuffers {
  const sizeBytes = options.sizeBytes ?? SIZE_DEFAULT_BYTES;
  const headroomBytes = options.headroomBytes ?? HEADROOM_DEFAULT_BYTES;
  const ownMax = options.ownMax ?? OWN_MAX_DEFAULT;
  if (sizeBytes < SIZE_MIN_BYTES || sizeBytes > SIZE_MAX_BYTES || ownMax < 1) {
    throw new RangeError(`Read buffers of ${sizeBytes} bytes, ${ownMax} at most, are out of range`);
  }
  const toSlot = (whole: Buffer): ReadSlot => ({
    whole,
    view: whole.subarray(headroomBytes),
    users: 0,
  });
  // Never from Node's small-buffer pool: others would write beside the kernel in the same memory page.
  const create = (): ReadSlot => toSlot(Buffer.allocUnsafeSlow(headroomBytes + sizeBytes));
  const own: ReadSlot[] = [];
  const remove = (slot: ReadSlot): void => {
    const last = own.pop();
    if (last !== undefined && last !== slot) own[own.indexOf(slot)] = last;
  };
  const free: ReadSlot[] = [];
  let turn = 0;
  return {
    sizeBytes,
    headroomBytes,
    busyBytes: Math.min(BUSY_MIN_BYTES, sizeBytes),
    shared: create(),
    hooks: options.fallback === true ? undefined : findReadHooks(),
    get ownCount() {
      return own.length;
    },
    acquire() {
      let slot = free.pop();
      if (slot === undefined) {
        const used = own.length < ownMax ? undefined : own[turn++ % own.length];
        slot = used ?? create();
        if (used === undefined) own.push(slot);
      }
      slot.users++;
      return slot;
    },
    release(slot) {
      slot.users--;
      if (slot.users === 0) free.push(slot);
    },
    lend() {
      const slot = free.pop();
      if (slot === undefined) return create().whole;
      remove(slot);
      return slot.whole;
    },
    detach(slot) {
      if (slot.users !== 1 || !own.includes(slot)) return false;
      remove(slot);
      return true;
    },
    recycle(whole) {
      if (own.length >= ownMax || whole.byteLength !== headroomBytes + sizeBytes) return;
      const slot = toSlot(whole);
      own.push(slot);
      free.push(slot);
    },
  };
}
