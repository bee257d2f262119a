/**
 * A plain TCP socket as a `ByteStream`. It owns the socket from here until it is closed. Reading stops while
 * more than a window of bytes has not been consumed; a failure either way is a reset, never an end.
 */

import type { Socket } from 'node:net';

import type { ReadBuffers } from '../base/buffer-pool.ts';
import { errorFromNode, MeshError } from '../base/errors.ts';
import { readSocket, type SocketReader } from '../base/socket-reader.ts';
import type { ByteStream, ByteStreamHandlers } from './byte-stream.ts';

/**
 * What may wait here for a receiver that stalls, and one read more. With 256 KiB, the window of HTTP/2's streams, 500
 * stalled ones held 190 to 290 MiB instead of at most 105 (G21), and large bodies came no faster (10 at once, 48 MiB
 * each, there and back: 4.5 to 5.1 s with either).
 */
const WINDOW_BYTES = 64 * 1024;
/** Written behind what waits: its callback tells that it has gone. */
const NOTHING = Buffer.alloc(0);

/** Set its handlers before returning to the loop. */
export function socketByteStream(socket: Socket, buffers: ReadBuffers): ByteStream {
  return new SocketStream(socket, buffers);
}

class SocketStream implements ByteStream {
  readonly #socket: Socket;
  readonly #reader: SocketReader;
  #handlers: ByteStreamHandlers | undefined;
  #unconsumedBytes = 0;
  #readEnded = false;
  #dead = false;
  #wantsDrain = false;

  constructor(socket: Socket, buffers: ReadBuffers) {
    this.#socket = socket;
    // Otherwise Node answers the peer's FIN with our own.
    socket.allowHalfOpen = true;
    socket.setNoDelay(true);
    this.#reader = readSocket(socket, buffers, {
      onChunk: (buffer, offset, length) => {
        if (this.#dead) return;
        this.#unconsumedBytes += length;
        this.#handlers?.onData(buffer.subarray(offset, offset + length));
        if (this.#unconsumedBytes > WINDOW_BYTES) this.#reader.pause();
      },
      onEnd: () => {
        this.#readEnded = true;
        if (!this.#dead) this.#handlers?.onEnd();
      },
      onError: (error) => this.#die(errorFromNode(error, 'The connection failed')),
      onClose: () => {
        if (this.#readEnded && socket.writableFinished) return;
        const message = 'The connection was closed before it ended';
        this.#die(new MeshError('MESH_CONNECTION_CLOSED', message, { flag: 'RESET' }));
      },
    });
  }

  setHandlers(handlers: ByteStreamHandlers): void {
    this.#handlers = handlers;
  }

  write(chunk: Buffer): boolean {
    const socket = this.#socket;
    if (this.#dead || socket.writableEnded) return true;
    // A copy: libuv keeps pointing into what the kernel took in part, and the caller reuses it (design 3.5).
    const copy = Buffer.from(chunk);
    if (this.#wantsDrain) {
      // Each says so itself when it has gone: the last one finds that nothing waits behind it.
      socket.write(copy, this.#onWritten);
      return false;
    }
    socket.write(copy);
    // Nearly always: the kernel has taken it. A callback would cost a tick for each write only to say so.
    if (socket.writableLength === 0) return true;
    this.#wantsDrain = true;
    socket.write(NOTHING, this.#onWritten);
    return false;
  }

  end(): void {
    if (!this.#dead && !this.#socket.writableEnded) this.#socket.end();
  }

  reset(): void {
    if (this.#dead) return;
    const socket = this.#socket;
    if (socket.connecting) socket.destroy();
    else socket.resetAndDestroy();
    this.#die(new MeshError('MESH_CONNECTION_RESET', 'The connection was reset from here'));
  }

  consume(bytes: number): void {
    this.#unconsumedBytes -= bytes;
    if (this.#reader.paused && this.#unconsumedBytes <= WINDOW_BYTES / 2) this.#reader.resume();
  }

  readonly #onWritten = (): void => {
    if (!this.#wantsDrain || this.#dead || this.#socket.destroyed) return;
    if (this.#socket.writableLength > 0) return;
    this.#wantsDrain = false;
    this.#handlers?.onDrain();
  };

  #die(error: MeshError): void {
    if (this.#dead) return;
    this.#dead = true;
    this.#handlers?.onReset(error);
  }
}
