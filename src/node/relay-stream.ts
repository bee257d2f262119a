/**
 * The relay between a plain TCP socket (A) and one HTTP/2 CONNECT stream (B), used by both ends of a tunnel.
 * See relay.ts for what it promises.
 *
 * A failure of the socket goes out as RST_STREAM with CONNECT_ERROR (RFC 9113 8.5), never CANCEL or NO_ERROR:
 * HBONE peers take those for an end of stream. Coming in, every reset before END_STREAM is a failure, those
 * two included, for bytes may be missing and the application must not take what it has for everything. After
 * END_STREAM, CANCEL and NO_ERROR mean that the peer wants no more; that is a proper end.
 */

import type { Socket } from 'node:net';

import { MeshError } from '../base/errors.ts';
import { H2_ERROR, type H2Stream, type H2StreamHandlers } from '../http/h2/contract.ts';
import { relayResult, type Relay, type RelayOptions, type SweptRelay } from './relay.ts';
import { SocketEnd } from './socket-end.ts';

export interface StreamRelay extends Relay {
  /** Already set on the stream; for whoever sets the stream's handlers itself or has kept early events. */
  readonly handlers: H2StreamHandlers;
}

/**
 * Joins `socket` and `stream` after the CONNECT was answered, and sets the stream's handlers. Owns both from
 * here: nobody else may listen to, write to or end them.
 */
export function relayStream(socket: Socket, stream: H2Stream, options: RelayOptions): StreamRelay {
  return new SocketStreamRelay(socket, stream, options);
}

class SocketStreamRelay implements StreamRelay, SweptRelay {
  readonly handlers: H2StreamHandlers;
  readonly #options: RelayOptions;
  readonly #stream: H2Stream;
  readonly #socket: SocketEnd;
  readonly #forget: () => void;
  bytesToB = 0;
  #error: MeshError | undefined;
  /** The peer has sent END_STREAM. */
  #streamEnded = false;
  /** The stream was reset, by either side. */
  #streamDead = false;
  #reported = false;

  constructor(socket: Socket, stream: H2Stream, options: RelayOptions) {
    this.#options = options;
    this.#stream = stream;
    this.handlers = {
      onHeaders: (_, endStream) => {
        if (endStream) this.#onStreamEnd();
      },
      onData: (chunk) => this.#onData(chunk),
      onEnd: () => this.#onStreamEnd(),
      onReset: (error) => this.#onReset(error),
      onDrain: () => this.#socket.reader.resume(),
    };
    this.#socket = new SocketEnd(socket, options.buffers, 'application', {
      onChunk: (buffer, _, length) => {
        if (this.#streamDead) return;
        this.bytesToB += length;
        if (!stream.writeFramed(buffer, length)) this.#socket.reader.pause();
      },
      onEnd: () => {
        if (!this.#streamDead) stream.end();
      },
      onTaken: (bytes) => {
        if (!this.#streamDead) stream.consume(bytes);
      },
      onFailed: (error) => {
        this.#error ??= error;
        this.#resetStream();
      },
      onClosed: () => this.#report(),
    });
    this.#forget = options.sweep.add(this);
    stream.setHandlers(this.handlers);
  }

  get bytesToA(): number {
    return this.#socket.bytesTaken;
  }

  get halfClosed(): boolean {
    return this.#socket.readEnded !== this.#streamEnded;
  }

  close(error: MeshError): void {
    this.#error ??= error;
    this.#resetStream();
    this.#socket.reset();
  }

  probe(): void {
    this.#socket.probe();
  }

  #onData(chunk: Buffer): void {
    if (this.#socket.collect(chunk)) this.#stream.consume(chunk.byteLength);
  }

  #onStreamEnd(): void {
    if (this.#streamEnded) return;
    this.#streamEnded = true;
    this.#socket.end();
  }

  #onReset(error: MeshError): void {
    if (this.#streamDead) return;
    this.#streamDead = true;
    const { resetCode } = this.#stream;
    const wanted = resetCode === H2_ERROR.CANCEL || resetCode === H2_ERROR.NO_ERROR;
    if (!(this.#streamEnded && wanted)) this.#error ??= error;
    if (this.#streamEnded) this.#socket.finish();
    else this.#socket.reset();
  }

  #resetStream(): void {
    if (this.#streamDead) return;
    this.#streamDead = true;
    this.#stream.reset(H2_ERROR.CONNECT_ERROR);
  }

  #report(): void {
    if (this.#reported) return;
    this.#reported = true;
    this.#forget();
    this.#options.onResult(relayResult(this, this.#error));
  }
}
