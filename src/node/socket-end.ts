/**
 * A plain TCP socket as one end of a relay: reads through a `SocketReader`, takes the other end's bytes, and
 * closes in the way it is told to.
 *
 * Bytes to write arrive as a view of a buffer that somebody reads into. The rule that keeps one connection's
 * bytes out of another (design 3.5) lives in `take`: what the kernel does not take at once is copied before the
 * write that waits, unless its buffer can be given away.
 *
 * Whatever can be written at once is, by write(2) itself: Node's way costs 3 µs more, and its write may keep the
 * bytes (measured; a small request and its answer pass here four times).
 */

import type { Socket } from 'node:net';

import type { ReadBuffers } from '../base/buffer-pool.ts';
import { errorFromNode, MeshError } from '../base/errors.ts';
import { readSocket, type SocketReader } from '../base/socket-reader.ts';
import { writeToSocket } from '../linux/descriptors.ts';

export interface SocketEndHandlers {
  /** As in `SocketReaderHandlers`. */
  onChunk(buffer: Buffer, offset: number, length: number): void;
  /** FIN from the peer. */
  onEnd(): void;
  /** After `take` or `collect` returned false: the kernel has that many more bytes now. */
  onTaken(bytes: number): void;
  /** Reset, or another failure, but not our own `reset` or `finish`. At most once; `onClosed` follows. */
  onFailed(error: MeshError): void;
  /** Closed, both ways. Called once, last. */
  onClosed(): void;
}

/** Where a view comes from; true means the same as in `SocketReader`. */
export interface ViewSource {
  readonly detachable: boolean;
  detach(): boolean;
}

const NOTHING = Buffer.alloc(0);
const FOREIGN: ViewSource = { detachable: false, detach: () => false };
/** Smaller pieces are not part of a bulk transfer, or its end. */
const COLLECT_MIN_BYTES = 8192;

export class SocketEnd {
  readonly #socket: Socket;
  readonly #buffers: ReadBuffers;
  readonly #handlers: SocketEndHandlers;
  readonly #name: string;
  readonly reader: SocketReader;
  /** Bytes given to the socket. */
  bytesTaken = 0;
  /** The peer's FIN was seen. */
  readEnded = false;
  closed = false;
  /** Nothing more to tell: it has failed, or is being closed from here. */
  #settled = false;
  #pending = false;
  /** Bytes of the pending writes. */
  #waitingBytes = 0;
  /** Buffers that the pending writes refer to and that only this end holds. */
  #held: Buffer[] = [];
  /** Pieces that wait for the end of the loop's turn. */
  #collected: Buffer | undefined;
  #collectedBytes = 0;
  #flushScheduled = false;

  constructor(socket: Socket, buffers: ReadBuffers, name: string, handlers: SocketEndHandlers) {
    this.#socket = socket;
    this.#buffers = buffers;
    this.#name = name;
    this.#handlers = handlers;
    // Otherwise Node answers the peer's FIN with our own.
    socket.allowHalfOpen = true;
    socket.setNoDelay(true);
    this.reader = readSocket(socket, buffers, {
      onChunk: (buffer, offset, length) => handlers.onChunk(buffer, offset, length),
      onEnd: () => {
        this.readEnded = true;
        handlers.onEnd();
      },
      onError: (error) => this.#fail(errorFromNode(error, `Connection of the ${name} failed`)),
      onClose: () => this.#onClose(),
    });
  }

  /**
   * Writes `view`. True: the kernel has it all. False: a part waits, `onTaken` will tell; the caller
   * should stop its source. `whole`, if given, is the buffer to recycle when the write has ended; the caller
   * then is the only one that may detach it.
   */
  take(view: Buffer, source: ViewSource, whole?: Buffer): boolean {
    const socket = this.#socket;
    if (socket.destroyed || socket.writableEnded) return true;
    this.bytesTaken += view.byteLength;
    const rest = this.#writeNow(view);
    if (rest === undefined) return true;
    const { detachable } = source;
    socket.write(detachable ? rest : Buffer.from(rest), this.#onWritten);
    if (socket.writableLength === 0) return true;
    this.#pending = true;
    this.#waitingBytes += view.byteLength;
    if (detachable && source.detach() && whole !== undefined) this.#held.push(whole);
    return false;
  }

  /**
   * As `take`, for a source that delivers in pieces (TLS: 16 KiB) and never gives its buffer away. Pieces of a
   * bulk transfer are copied together and written at the end of the loop's turn, or when the kernel has
   * taken what is before them. Measured: a third of the writes and wake-ups, for a copy within the
   * processor's cache. A small piece that nothing waits for goes out at once.
   */
  collect(piece: Buffer): boolean {
    if (this.#socket.destroyed || this.#socket.writableEnded) return true;
    if (this.#collected === undefined && !this.#pending && piece.byteLength < COLLECT_MIN_BYTES) {
      return this.take(piece, FOREIGN);
    }
    this.bytesTaken += piece.byteLength;
    for (let from = 0; from < piece.byteLength;) {
      const collected = this.#collected ?? this.#startCollecting();
      const copied = piece.copy(collected, this.#collectedBytes, from);
      this.#collectedBytes += copied;
      from += copied;
      if (this.#collectedBytes === collected.byteLength) this.#flush();
    }
    return false;
  }

  /** FIN after everything taken. Idempotent. */
  end(): void {
    this.#flush();
    if (!this.#socket.writableEnded) this.#socket.end();
  }

  /** RST now. What waits is dropped. */
  reset(): void {
    const socket = this.#socket;
    this.#settled = true;
    if (socket.destroyed) return;
    if (socket.connecting) {
      socket.destroy();
    } else if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0) {
      // A reset while shutdown(2) is under way fails with EINVAL in libuv, and Node then neither closes the
      // handle nor emits 'close' (tried on 24.21 and 26.10). It ends within the same turn of the loop.
      socket.once('finish', () => {
        if (!socket.destroyed) socket.resetAndDestroy();
      });
    } else {
      socket.resetAndDestroy();
    }
  }

  /**
   * The other end is gone, but had ended its side properly before: the peer still gets all that came before
   * and FIN. What it sends is dropped, and once everything is in the kernel's hands the socket is closed, so
   * that its next byte meets a reset. A reset at once would throw away what the kernel has not sent yet.
   */
  finish(): void {
    const socket = this.#socket;
    this.#settled = true;
    if (socket.destroyed) return;
    // Closing with unread bytes makes Linux send RST and drop its send queue.
    this.reader.resume();
    this.#flush();
    if (socket.writableFinished) {
      socket.destroy();
      return;
    }
    socket.once('finish', () => socket.destroy());
    this.end();
  }

  /**
   * A peer's RST goes unseen while nothing is read from it: before the end of a pause, or after its FIN,
   * when read(2) only repeats the end. An empty write fails with EPIPE then and sends nothing (tried).
   */
  probe(): void {
    const socket = this.#socket;
    if (socket.destroyed || socket.connecting || socket.writableEnded) return;
    if ((this.readEnded || this.reader.paused) && socket.writableLength === 0)
      socket.write(NOTHING);
  }

  #startCollecting(): Buffer {
    const collected = this.#buffers.lend();
    this.#collected = collected;
    this.#collectedBytes = 0;
    if (!this.#flushScheduled) setImmediate(this.#onTurnEnd);
    this.#flushScheduled = true;
    return collected;
  }

  /** Returns what the kernel has not taken. */
  #writeNow(view: Buffer): Buffer | undefined {
    const socket = this.#socket;
    if (socket.writableLength > 0 || socket.connecting) return view;
    const written = writeToSocket(socket, view);
    if (written === view.byteLength) return undefined;
    return written === 0 ? view : view.subarray(written);
  }

  readonly #onTurnEnd = (): void => {
    this.#flushScheduled = false;
    if (!this.#pending) this.#flush();
  };

  #flush(): void {
    const collected = this.#collected;
    if (collected === undefined) return;
    this.#collected = undefined;
    const socket = this.#socket;
    if (socket.destroyed || socket.writableEnded) {
      this.#buffers.recycle(collected);
      return;
    }
    const bytes = this.#collectedBytes;
    const rest = this.#writeNow(collected.subarray(0, bytes));
    if (rest !== undefined) socket.write(rest, this.#onWritten);
    if (socket.writableLength === 0) {
      this.#buffers.recycle(collected);
      this.#handlers.onTaken(bytes);
    } else {
      this.#pending = true;
      this.#waitingBytes += bytes;
      this.#held.push(collected);
    }
  }

  readonly #onWritten = (): void => {
    if (!this.#pending || this.#socket.writableLength > 0) return;
    this.#pending = false;
    for (const whole of this.#held) this.#buffers.recycle(whole);
    this.#held = [];
    const bytes = this.#waitingBytes;
    this.#waitingBytes = 0;
    this.#flush();
    if (!this.#socket.destroyed) this.#handlers.onTaken(bytes);
  };

  #fail(error: MeshError): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#handlers.onFailed(error);
  }

  #onClose(): void {
    this.closed = true;
    if (this.#collected !== undefined) this.#buffers.recycle(this.#collected);
    this.#collected = undefined;
    if (!this.readEnded || !this.#socket.writableFinished) {
      const message = `Connection of the ${this.#name} was closed before it ended`;
      this.#fail(new MeshError('MESH_CONNECTION_CLOSED', message, { flag: 'RESET' }));
    }
    this.#handlers.onClosed();
  }
}
