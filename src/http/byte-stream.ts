/**
 * A two-way stream of bytes as HTTP/1.1, and HTTP/2 inside a tunnel, see it: a tunnel stream, or a socket. Both
 * have the same rules of ownership and flow control as an HTTP/2 stream (h2/contract.ts).
 */

import type { MeshError } from '../base/errors.ts';
import { H2_ERROR, type H2Stream, type H2StreamHandlers } from './h2/contract.ts';

export interface ByteStreamHandlers {
  /** A view that holds only during the call. Counts against the window until `consume`. Never empty. */
  onData(chunk: Buffer): void;
  /** The peer ended its side properly. */
  onEnd(): void;
  /** The stream died, or `reset` was called. Once; nothing is called afterwards. */
  onReset(error: MeshError): void;
  /** After a write returned false: more may be written now. */
  onDrain(): void;
}

export interface ByteStream {
  /** Replaces the callbacks. */
  setHandlers(handlers: ByteStreamHandlers): void;
  /** Takes `chunk`, copying what it cannot send at once. False: stop until `onDrain`. */
  write(chunk: Buffer): boolean;
  /** A proper end after everything written. Idempotent. */
  end(): void;
  /** Cuts both directions now; the peer can tell it from an end. */
  reset(): void;
  consume(bytes: number): void;
}

/**
 * A stream of a tunnel. `tunnelHandlers` are the ones its H2 stream must have; the byte stream's own may be
 * replaced at any time, also between two pieces of one read.
 */
export class TunnelByteStream implements ByteStream {
  readonly tunnelHandlers: H2StreamHandlers;
  readonly #stream: H2Stream;
  #handlers: ByteStreamHandlers | undefined;
  #ended = false;

  constructor(stream: H2Stream) {
    this.#stream = stream;
    this.tunnelHandlers = {
      // Trailers on a CONNECT mean no more than its end.
      onHeaders: (_, endStream) => {
        if (endStream) this.#end();
      },
      onData: (chunk) => this.#handlers?.onData(chunk),
      onEnd: () => this.#end(),
      onReset: (error) => this.#handlers?.onReset(error),
      onDrain: () => this.#handlers?.onDrain(),
    };
  }

  setHandlers(handlers: ByteStreamHandlers): void {
    this.#handlers = handlers;
  }

  write(chunk: Buffer): boolean {
    return this.#stream.write(chunk);
  }

  end(): void {
    this.#stream.end();
  }

  /** RFC 9113 section 8.5: CONNECT_ERROR; HBONE peers take CANCEL and NO_ERROR for an end. */
  reset(): void {
    this.#stream.reset(H2_ERROR.CONNECT_ERROR);
  }

  consume(bytes: number): void {
    this.#stream.consume(bytes);
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#handlers?.onEnd();
  }
}
