/**
 * Takes over the reading of a connected (or connecting) TCP or TLS socket: each read arrives as a part of a
 * reused buffer with room in front, without an allocation per read.
 *
 * - The bytes given to `onChunk` hold only during the call, unless `detach` returned true.
 * - A plain (not TLS) write may refer to them only if `detachable` is true and, should the write still be
 *   pending afterwards, `detach` is called before `onChunk` returns. libuv keeps pointing into the buffer
 *   after a partial write, and the next read, perhaps of another connection, would go out in its place.
 * - Bytes that Node had read before the takeover come first. Nothing is delivered inside a call from outside.
 * - Where Node's internals are not as expected it falls back to `'data'` events and copies.
 */

import type { Socket } from 'node:net';

import type { ReadBuffers, ReadSlot } from './buffer-pool.ts';
import { hookReads } from './read-hooks.ts';

export interface SocketReaderHandlers {
  /** `buffer[offset .. offset+length)` was read; the bytes before `offset` are free to write to. */
  onChunk(buffer: Buffer, offset: number, length: number): void;
  /** The peer sent FIN (TLS: close_notify). Nothing more is read; writing may go on. Called once. */
  onEnd(): void;
  /** The socket failed, reading or writing; `onClose` follows. */
  onError(error: Error): void;
  /** The socket is closed, both ways. Called once, last. */
  onClose(): void;
}

export interface SocketReader {
  readonly paused: boolean;
  /** Inside `onChunk`: whether `detach` would give the current buffer away. */
  readonly detachable: boolean;
  /** A TCP socket delivers nothing more; a TLS socket still what it has decrypted, up to 64 KiB. */
  pause(): void;
  resume(): void;
  /**
   * Inside `onChunk`: the caller keeps `buffer`, reading goes on in another. False for a buffer that other
   * sockets read into as well: copy. Idempotent within one `onChunk`. A detached buffer may be returned
   * with `ReadBuffers.recycle`, once.
   */
  detach(): boolean;
}

/** Reads `socket` until it closes. It must have no `'data'` or `'readable'` listener, nor get one. */
export function readSocket(
  socket: Socket,
  buffers: ReadBuffers,
  handlers: SocketReaderHandlers,
): SocketReader {
  return new Reader(socket, buffers, handlers);
}

class Reader implements SocketReader {
  readonly #socket: Socket;
  readonly #buffers: ReadBuffers;
  readonly #handlers: SocketReaderHandlers;
  #slot: ReadSlot;
  /** Bytes that Node had read before the takeover. */
  #early: Buffer | undefined;
  /** The buffer in `onChunk`: none, the slot's, or one that no read will touch again. */
  #current: 'none' | 'slot' | 'given' = 'none';
  #paused = false;
  #endSeen = false;
  #ended = false;
  #closed = false;

  constructor(socket: Socket, buffers: ReadBuffers, handlers: SocketReaderHandlers) {
    this.#socket = socket;
    this.#buffers = buffers;
    this.#handlers = handlers;
    this.#slot = buffers.shared;
    socket.on('error', (error) => handlers.onError(error));
    socket.on('end', () => this.#onEnd());
    socket.on('close', () => this.#onClose());
    if (socket.readableLength > 0) this.#early = (socket.read() as Buffer | null) ?? undefined;
    const hooked =
      buffers.hooks !== undefined &&
      hookReads(
        socket,
        buffers.hooks,
        () => this.#slot.view,
        (length) => this.#onRead(length),
      );
    if (!hooked) socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    if (socket.connecting) {
      // Resumed earlier, a socket starts reading when it connects even if it has been paused since.
      if (!hooked) socket.pause();
      socket.once('connect', () => {
        if (!this.#paused) socket.resume();
      });
    } else {
      socket.resume();
    }
    process.nextTick(() => this.#start());
  }

  get paused(): boolean {
    return this.#paused;
  }

  get detachable(): boolean {
    if (this.#current !== 'slot') return this.#current === 'given';
    return this.#slot !== this.#buffers.shared && this.#slot.users === 1;
  }

  pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    if (this.#early !== undefined || this.#endSeen) process.nextTick(() => this.#start());
    if (!this.#socket.connecting) this.#socket.resume();
  }

  detach(): boolean {
    if (!this.detachable) return false;
    if (this.#current === 'slot') {
      if (!this.#buffers.detach(this.#slot)) return false;
      this.#slot = this.#buffers.shared;
      this.#current = 'given';
    }
    return true;
  }

  /** After it Node asks for the next buffer. */
  #onRead(length: number): boolean {
    if (this.#early !== undefined) this.#flushEarly();
    const slot = this.#slot;
    this.#current = 'slot';
    this.#handlers.onChunk(slot.whole, this.#buffers.headroomBytes, length);
    this.#current = 'none';
    this.#chooseSlot(length >= this.#buffers.busyBytes && !this.#closed);
    return true;
  }

  #chooseSlot(busy: boolean): void {
    const { shared } = this.#buffers;
    if (busy === (this.#slot !== shared)) return;
    if (busy) {
      this.#slot = this.#buffers.acquire();
    } else {
      this.#buffers.release(this.#slot);
      this.#slot = shared;
    }
  }

  /** Each piece goes to a buffer of its own: the shared one may hold what was just read. */
  #onData(chunk: Buffer): void {
    const { headroomBytes, sizeBytes } = this.#buffers;
    for (let start = 0; start < chunk.byteLength; start += sizeBytes) {
      const length = Math.min(sizeBytes, chunk.byteLength - start);
      const copy = Buffer.allocUnsafe(headroomBytes + length);
      chunk.copy(copy, headroomBytes, start, start + length);
      this.#current = 'given';
      this.#handlers.onChunk(copy, headroomBytes, length);
      this.#current = 'none';
    }
  }

  #flushEarly(): void {
    const early = this.#early;
    this.#early = undefined;
    if (early !== undefined) this.#onData(early);
  }

  /** What happened before the takeover does not happen again; it is told here. */
  #start(): void {
    if (this.#paused || this.#closed) return;
    this.#flushEarly();
    if (this.#endSeen || this.#socket.readableEnded) this.#onEnd();
    if (this.#socket.closed) this.#onClose();
  }

  #onEnd(): void {
    this.#endSeen = true;
    if (this.#ended || this.#closed || (this.#paused && this.#early !== undefined)) return;
    this.#flushEarly();
    this.#ended = true;
    this.#handlers.onEnd();
  }

  #onClose(): void {
    if (this.#closed) return;
    this.#closed = true;
    // The handle is closed before this event: nothing reads into the slot any more.
    this.#chooseSlot(false);
    this.#handlers.onClose();
  }
}
