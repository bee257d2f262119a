/**
 * What a client speaks on a port that nobody has declared: told from its first bytes, or, when none come in time, taken
 * for a protocol in which the server speaks first. What was read is given to whoever serves it.
 */

import type { Clock } from '../base/clock.ts';
import type { MeshError } from '../base/errors.ts';
import type { ByteStream, ByteStreamHandlers } from '../http/byte-stream.ts';

export type DetectedProtocol = 'http1' | 'http2' | 'tls' | 'tcp';

/** A client that speaks first does so within this. */
export const DETECT_TIMEOUT_MS = 1000;
const PREFACE = 'PRI * HTTP/2.0\r\n';
const METHOD = /^[A-Z]{2,20} (?:\/|\*|https?:)/;
/** What may still become a request line. */
const METHOD_PART = /^[A-Z]{0,20}(?: (?:h(?:t(?:t(?:ps?)?)?)?)?)?$/;
const LOOK_MAX_BYTES = 64;
const TLS_HANDSHAKE = 0x16;
const TLS_MAJOR = 0x03;

/** Undefined: more bytes are needed. */
export function classify(bytes: Buffer): DetectedProtocol | undefined {
  if (bytes.length === 0) return undefined;
  if (bytes[0] === TLS_HANDSHAKE) {
    if (bytes.length < 2) return undefined;
    return bytes[1] === TLS_MAJOR ? 'tls' : 'tcp';
  }
  const text = bytes.toString('latin1', 0, LOOK_MAX_BYTES);
  if (text.startsWith(PREFACE)) return 'http2';
  if (PREFACE.startsWith(text)) return undefined;
  if (METHOD.test(text)) return 'http1';
  return METHOD_PART.test(text) ? undefined : 'tcp';
}

/** A stream whose first bytes were looked at, and go first to the handlers that are set next. */
export class ReadAheadStream implements ByteStream {
  readonly #inner: ByteStream;
  #handlers: ByteStreamHandlers | undefined;
  #early: Buffer;
  #ended: boolean;

  constructor(inner: ByteStream, early: Buffer, ended: boolean) {
    this.#inner = inner;
    this.#early = early;
    this.#ended = ended;
  }

  setHandlers(handlers: ByteStreamHandlers): void {
    this.#handlers = handlers;
    this.#inner.setHandlers(handlers);
  }

  /** Gives what was read to the handlers of now. Once. */
  replay(): void {
    const early = this.#early;
    this.#early = Buffer.alloc(0);
    if (early.length > 0) this.#handlers?.onData(early);
    if (this.#ended) this.#handlers?.onEnd();
    this.#ended = false;
  }

  /** Tells the handlers of now of an end that others have seen. */
  endNow(): void {
    this.#handlers?.onEnd();
  }

  write(chunk: Buffer): boolean {
    return this.#inner.write(chunk);
  }

  end(): void {
    this.#inner.end();
  }

  reset(): void {
    this.#inner.reset();
  }

  consume(bytes: number): void {
    this.#inner.consume(bytes);
  }
}

/**
 * Reads until `decide` says what the bytes are, or `timeoutMs` has passed; `onDecided` gets `undefined` then, and when
 * the client ended before. Bytes that wait are bounded by the stream's window. `onLost`: the client is gone.
 */
export function readAhead<T>(
  stream: ByteStream,
  clock: Clock,
  timeoutMs: number,
  decide: (bytes: Buffer) => T | undefined,
  onDecided: (decision: T | undefined, stream: ReadAheadStream) => void,
  onLost: (error: MeshError) => void,
): void {
  let early = Buffer.alloc(0);
  let settled = false;
  const settle = (decision: T | undefined, ended: boolean): void => {
    if (settled) return;
    settled = true;
    timer.cancel();
    onDecided(decision, new ReadAheadStream(stream, early, ended));
  };
  const timer = clock.after(timeoutMs, () => settle(undefined, false));
  stream.setHandlers({
    onData(chunk) {
      early = Buffer.concat([early, chunk]);
      const decision = decide(early);
      if (decision !== undefined) settle(decision, false);
    },
    onEnd: () => settle(undefined, true),
    onReset(error) {
      if (settled) return;
      settled = true;
      timer.cancel();
      onLost(error);
    },
    onDrain: () => {},
  });
}
