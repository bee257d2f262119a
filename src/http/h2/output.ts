/**
 * The write side of a session's socket: gathers what is written in one turn of the loop, and all that comes while a write
 * is under way, into one buffer and so into one write. Never more than one write is under way, hence what
 * is queued is that write and the gathered bytes.
 *
 * Facts, tried on Node 26.10:
 * - A TLS socket encrypts, and thereby copies, inside `write` when nothing is pending on it, and always reports
 *   the write's end from the check phase. So within one turn of the loop the first write goes out at once and
 *   the rest gathers by itself until the turn's end.
 * - A plain write that the kernel took only in part leaves libuv pointing into the given buffer: plain sockets
 *   get buffers that nobody else writes to until `writableLength` is 0 again.
 */

import type { Transport } from './transport.ts';

/** Gathered bytes at which DATA has to wait; frames already begun may exceed it by one frame. */
export const GATHER_HIGH_BYTES: number = 256 * 1024;
const GATHER_START_BYTES = 2048;
/** Below this copying is cheaper than a write of its own. */
const DIRECT_MIN_BYTES = 4096;

export class Output {
  readonly #socket: Transport;
  /** A write has ended and `blocked` is false. */
  readonly #onWritable: () => void;
  #buffer: Buffer = Buffer.alloc(0);
  #length = 0;
  #controlFrames = 0;
  #flushScheduled = false;
  #closed = false;
  #ending = false;

  constructor(socket: Transport, onWritable: () => void) {
    this.#socket = socket;
    this.#onWritable = onWritable;
  }

  /** The buffer to write to after `reserve`; it may be another one after the next `reserve`. */
  get buffer(): Buffer {
    return this.#buffer;
  }

  /** DATA has to wait for `onWritable`. Everything else is taken always. */
  get blocked(): boolean {
    return this.#length >= GATHER_HIGH_BYTES;
  }

  get queuedBytes(): number {
    return this.#length + this.#socket.writableLength;
  }

  /** Control frames waiting behind a write that the peer does not take. */
  get controlFrames(): number {
    return this.#controlFrames;
  }

  countControl(): void {
    this.#controlFrames++;
  }

  /** Makes room for `bytes` and returns where they go. They are sent at the end of the tick. */
  reserve(bytes: number): number {
    const start = this.#length;
    const needed = start + bytes;
    if (needed > this.#buffer.length) {
      const size = Math.max(GATHER_START_BYTES, this.#buffer.length * 2, needed);
      const larger = Buffer.allocUnsafeSlow(size);
      this.#buffer.copy(larger, 0, 0, start);
      this.#buffer = larger;
    }
    this.#length = needed;
    if (!this.#flushScheduled) {
      this.#flushScheduled = true;
      // Not nextTick: that would run after each read, the rest of the turn would need a write of its own.
      setImmediate(this.#flushTick);
    }
    return start;
  }

  /** Whether `writeDirect` may be used for a frame of `bytes` now. */
  canWriteDirect(bytes: number): boolean {
    return (
      this.#socket.copies &&
      bytes >= DIRECT_MIN_BYTES &&
      this.#length === 0 &&
      this.#socket.writableLength === 0 &&
      !this.#socket.connecting &&
      !this.#closed
    );
  }

  /** Writes at once; `frame` may be reused when this returns. */
  writeDirect(frame: Buffer): void {
    this.#socket.write(frame, this.#onWritten);
  }

  /** Sends what has been gathered unless a write is under way; then its end does. */
  flush(): void {
    if (this.#length === 0 || this.#closed || this.#socket.writableLength > 0) return;
    this.#write();
  }

  /** Sends everything, then FIN. Nothing may be written afterwards. */
  end(): void {
    if (this.#closed || this.#ending) return;
    this.#ending = true;
    if (this.#length > 0) this.#write();
    this.#closed = true;
    this.#socket.end();
  }

  /** Drops everything: the socket is gone or about to be. */
  close(): void {
    this.#closed = true;
    this.#length = 0;
    this.#buffer = Buffer.alloc(0);
  }

  /** Lets go of a large buffer that an idle session does not need. */
  shrink(): void {
    if (this.#length === 0) this.#buffer = Buffer.alloc(0);
  }

  #write(): void {
    const socket = this.#socket;
    const reusable = socket.copies && socket.writableLength === 0 && !socket.connecting;
    const gathered = this.#buffer.subarray(0, this.#length);
    this.#length = 0;
    this.#controlFrames = 0;
    socket.write(gathered, this.#onWritten);
    if (!reusable && socket.writableLength > 0) this.#buffer = Buffer.alloc(0);
  }

  readonly #flushTick = (): void => {
    this.#flushScheduled = false;
    this.flush();
  };

  readonly #onWritten = (): void => {
    if (this.#closed || this.#socket.writableLength > 0) return;
    this.flush();
    if (!this.blocked) this.#onWritable();
  };
}
