/**
 * What an HTTP/2 session stands on: a socket, TLS or plain, or a stream of bytes inside a tunnel. One contract for
 * the little that a session needs of either.
 */

import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';

import type { ReadBuffers } from '../../base/buffer-pool.ts';
import {
  readSocket,
  type SocketReader,
  type SocketReaderHandlers,
} from '../../base/socket-reader.ts';
import type { ByteStream } from '../byte-stream.ts';

export interface Transport {
  /** A write copies what it is given when nothing is pending, so that the caller may reuse it. */
  readonly copies: boolean;
  readonly connecting: boolean;
  /** Not 0: a write is under way, and its `onWritten` will be called. */
  readonly writableLength: number;
  write(chunk: Buffer, onWritten: () => void): void;
  end(): void;
  /** Cuts it off. */
  destroy(): void;
  read(handlers: SocketReaderHandlers): void;
  /** What has been read already may still come: 64 KiB of TLS, a window of a tunnel. */
  pause(): void;
  resume(): void;
}

export function socketTransport(socket: Socket, buffers: ReadBuffers): Transport {
  // We gather by ourselves; Nagle would only hold answers back until the peer's delayed ACK (40 ms, tried).
  socket.setNoDelay(true);
  const copies = socket instanceof TLSSocket;
  let reader: SocketReader | undefined;
  return {
    copies,
    get connecting() {
      return socket.connecting;
    },
    get writableLength() {
      return socket.writableLength;
    },
    write: (chunk, onWritten) => void socket.write(chunk, onWritten),
    end: () => void socket.end(),
    destroy: () => void socket.destroy(),
    read(handlers) {
      reader = readSocket(socket, buffers, handlers);
    },
    pause: () => reader?.pause(),
    resume: () => reader?.resume(),
  };
}

export function streamTransport(stream: ByteStream): Transport {
  return new StreamTransport(stream);
}

class StreamTransport implements Transport {
  readonly copies = true;
  readonly connecting = false;
  readonly #stream: ByteStream;
  #handlers: SocketReaderHandlers | undefined;
  #waiting: (() => void) | undefined;
  #paused = false;
  /** Read while paused; the stream's window has not got it back. */
  #owedBytes = 0;
  #readEnded = false;
  #writeEnded = false;
  #closed = false;

  constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  get writableLength(): number {
    return this.#waiting === undefined ? 0 : 1;
  }

  write(chunk: Buffer, onWritten: () => void): void {
    if (this.#closed) return;
    // Never from inside the write: who is told may write again, without end.
    if (this.#stream.write(chunk)) process.nextTick(onWritten);
    else this.#waiting = onWritten;
  }

  end(): void {
    this.#writeEnded = true;
    this.#stream.end();
    if (this.#readEnded) this.#close();
  }

  destroy(): void {
    if (this.#closed) return;
    this.#stream.reset();
    this.#close();
  }

  read(handlers: SocketReaderHandlers): void {
    this.#handlers = handlers;
    this.#stream.setHandlers({
      onData: (chunk) => {
        handlers.onChunk(chunk, 0, chunk.length);
        // The session's own windows hold back what nobody reads.
        if (this.#paused) this.#owedBytes += chunk.length;
        else this.#stream.consume(chunk.length);
      },
      onEnd: () => {
        this.#readEnded = true;
        handlers.onEnd();
        if (this.#writeEnded) this.#close();
      },
      onReset: (error) => {
        if (this.#closed) return;
        handlers.onError(error);
        this.#close();
      },
      onDrain: () => {
        const waiting = this.#waiting;
        this.#waiting = undefined;
        waiting?.();
      },
    });
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    const owed = this.#owedBytes;
    this.#owedBytes = 0;
    if (owed > 0 && !this.#closed) this.#stream.consume(owed);
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#waiting = undefined;
    this.#handlers?.onClose();
  }
}
