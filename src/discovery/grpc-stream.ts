/**
 * Messages over one HTTP/2 stream: the five-byte framing in both directions, the same for client and server.
 *
 * - Flow control is passed on: bytes of messages that nobody has read yet are not given back to the peer, so
 *   memory holds at most one message and one window.
 * - A write resolves when the stream takes more; writes never interleave.
 * - A message above the limit, or a compressed one, is an error and nothing after it is read.
 */

import type { H2Stream } from '../http/h2/contract.ts';
import { GRPC_STATUS, grpcError } from './grpc-status.ts';

const PREFIX_BYTES = 5;
/** A piece given to the stream at once; what the windows do not take is copied there. */
const PIECE_BYTES = 65_536;
/** Up to here a message is sent as one piece, and received into a buffer of its size. */
const DIRECT_BYTES_MAX = 65_536;

const EMPTY = Buffer.alloc(0);

export type Pieces = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

export interface MessageStream {
  /** The next message; undefined when the peer has ended well. One reader at a time. Throws what ended it. */
  read(): Promise<Buffer | undefined>;
  /** Resolves when more may be written. `message` must not change until then. */
  write(message: Uint8Array): Promise<void>;
  /** One message in pieces that are `totalBytes` together, made only as the stream takes them. */
  writePieces(totalBytes: number, pieces: Pieces): Promise<void>;
}

export class GrpcStream implements MessageStream {
  readonly #messageMaxBytes: number;
  #stream: H2Stream | undefined;
  readonly #messages: Buffer[] = [];
  #heldBytes = 0;
  #ended = false;
  #error: Error | undefined;
  #writeError: Error | undefined;
  #wakeReader: (() => void) | undefined;
  #wakeWriter: (() => void) | undefined;
  #lastWrite: Promise<void> = Promise.resolve();
  // The message that is coming in.
  readonly #prefix = Buffer.alloc(PREFIX_BYTES);
  #prefixBytes = 0;
  #body: Buffer = EMPTY;
  #bodyBytes = 0;
  #missingBytes = 0;

  constructor(messageMaxBytes: number) {
    this.#messageMaxBytes = messageMaxBytes;
  }

  /** Must be called once, before anything is read or written. */
  attach(stream: H2Stream): void {
    this.#stream = stream;
  }

  /** What ended this side, if not the peer's good end. */
  get error(): Error | undefined {
    return this.#error;
  }

  async read(): Promise<Buffer | undefined> {
    for (;;) {
      const message = this.#messages.shift();
      if (message !== undefined) {
        if (this.#messages.length === 0) this.#giveBack();
        return message;
      }
      if (this.#error !== undefined) throw this.#error;
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }

  write(message: Uint8Array): Promise<void> {
    return this.writePieces(message.length, [message]);
  }

  writePieces(totalBytes: number, pieces: Pieces): Promise<void> {
    const turn = this.#lastWrite.then(() => this.#writeMessage(totalBytes, pieces));
    this.#lastWrite = turn.catch(() => {});
    return turn;
  }

  /** Resolves when everything written so far has been taken by the stream. Never rejects. */
  flushed(): Promise<void> {
    return this.#lastWrite;
  }

  /** Bytes from the peer, copied. Bytes that make no message fail this side; the owner ends the stream. */
  receive(chunk: Buffer): void {
    this.#heldBytes += chunk.length;
    try {
      if (this.#error === undefined) this.#parse(chunk);
    } catch (error) {
      this.fail(error as Error);
    }
    // While a whole message waits, its successors stay in the peer's window.
    if (this.#messages.length === 0 || this.#error !== undefined) this.#giveBack();
  }

  /** The stream is dead: nothing is asked of it any more. */
  lose(error: Error): void {
    this.#stream = undefined;
    this.fail(error);
  }

  /** The peer has ended well: what was received may still be read. */
  finish(): void {
    if (this.#prefixBytes > 0) {
      this.fail(grpcError(GRPC_STATUS.INTERNAL, 'The stream ended inside a message'));
      return;
    }
    this.#ended = true;
    this.#wakeReader?.();
  }

  /** Writes throw `error` from now on; nobody listens any more. */
  stopWrites(error: Error): void {
    this.#writeError ??= error;
    this.#wakeWriter?.();
  }

  /** Reads and writes throw `error` from now on; messages received before may still be read. */
  fail(error: Error): void {
    this.#error ??= error;
    this.#giveBack();
    this.#wakeReader?.();
    this.stopWrites(error);
  }

  drained(): void {
    this.#wakeWriter?.();
  }

  #giveBack(): void {
    const bytes = this.#heldBytes;
    this.#heldBytes = 0;
    if (bytes > 0) this.#stream?.consume(bytes);
  }

  #parse(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#prefixBytes < PREFIX_BYTES) {
        const count = Math.min(PREFIX_BYTES - this.#prefixBytes, chunk.length - at);
        chunk.copy(this.#prefix, this.#prefixBytes, at, at + count);
        this.#prefixBytes += count;
        at += count;
        if (this.#prefixBytes < PREFIX_BYTES) return;
        this.#startMessage();
      }
      const count = Math.min(this.#missingBytes, chunk.length - at);
      this.#append(chunk, at, count);
      at += count;
      if (this.#missingBytes === 0) this.#endMessage();
    }
  }

  #startMessage(): void {
    if (this.#prefix[0] !== 0) {
      throw grpcError(GRPC_STATUS.UNIMPLEMENTED, 'Compressed messages are not supported');
    }
    this.#missingBytes = this.#prefix.readUInt32BE(1);
    if (this.#missingBytes > this.#messageMaxBytes) {
      const limit = `${this.#missingBytes} bytes, at most ${this.#messageMaxBytes}`;
      throw grpcError(GRPC_STATUS.RESOURCE_EXHAUSTED, `The message has ${limit}`);
    }
  }

  /** The buffer grows with what has really come: a length alone must not cost memory. */
  #append(chunk: Buffer, at: number, count: number): void {
    const needed = this.#bodyBytes + count;
    if (needed > this.#body.length) {
      const total = this.#bodyBytes + this.#missingBytes;
      const capacity = Math.max(needed, this.#body.length * 2, DIRECT_BYTES_MAX);
      const grown = Buffer.allocUnsafe(Math.min(capacity, total));
      this.#body.copy(grown, 0, 0, this.#bodyBytes);
      this.#body = grown;
    }
    chunk.copy(this.#body, this.#bodyBytes, at, at + count);
    this.#bodyBytes = needed;
    this.#missingBytes -= count;
  }

  #endMessage(): void {
    this.#messages.push(this.#body.subarray(0, this.#bodyBytes));
    this.#body = EMPTY;
    this.#bodyBytes = 0;
    this.#prefixBytes = 0;
    this.#wakeReader?.();
  }

  async #writeMessage(totalBytes: number, pieces: Pieces): Promise<void> {
    const prefix = Buffer.alloc(PREFIX_BYTES);
    prefix.writeUInt32BE(totalBytes, 1);
    if (totalBytes <= DIRECT_BYTES_MAX) {
      // One DATA frame instead of two.
      const whole: Uint8Array[] = [prefix];
      for await (const piece of pieces) whole.push(piece);
      await this.#send(Buffer.concat(whole));
      return;
    }
    await this.#send(prefix);
    for await (const piece of pieces) {
      const view = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
      for (let at = 0; at < view.length; at += PIECE_BYTES) {
        await this.#send(view.subarray(at, at + PIECE_BYTES));
      }
    }
  }

  async #send(bytes: Buffer): Promise<void> {
    if (this.#writeError !== undefined) throw this.#writeError;
    const stream = this.#stream;
    if (stream === undefined) throw new Error('A write came before the stream was attached');
    if (stream.write(bytes)) return;
    await new Promise<void>((resolve) => {
      this.#wakeWriter = resolve;
    });
    this.#wakeWriter = undefined;
    if (this.#writeError !== undefined) throw this.#writeError;
  }
}
