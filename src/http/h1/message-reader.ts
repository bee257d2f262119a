/**
 * Cuts the bytes of an HTTP/1.1 connection into heads, body pieces and trailer sections. Body pieces are views of
 * what was pushed; heads and chunk lines are collected only when they are spread over several reads, within
 * their limits. It stops after each message: what follows is the owner's to push again, when it wants it.
 *
 * Chunk extensions are refused: nobody we know needs them, and parsers disagree about them (T80).
 */

import { refusal, type BodyFraming, type H1Refusal } from './head.ts';
import type { H1Limits } from './limits.ts';

export interface MessageSink {
  /**
   * A head, from its start line to the CRLF of its last field. Returns how its body is framed, `raw` for bytes
   * of another protocol from here on, `again` when another head follows (informational responses), or
   * undefined when nothing more is to be read.
   */
  onHead(text: string): BodyFraming | 'raw' | 'again' | undefined;
  /** Never empty. */
  onBody(piece: Buffer): void;
  /** The message is complete. `trailers`: its trailer section as text, each line with its CRLF. */
  onMessageEnd(trailers: string): void;
  /** What came is no message. Nothing more is read. */
  onInvalid(reason: H1Refusal): void;
}

const CRLF_CRLF = Buffer.from('\r\n\r\n');
const CR = 0x0d;
const LF = 0x0a;
const CHUNK_LINE = /^[0-9a-fA-F]{1,12}\r\n$/;
const CHUNK_LINE_MAX_BYTES = 14;
const COLLECT_START_BYTES = 1024;
const FIRST_LOOK_BYTES = 1024;

type State =
  | 'head'
  | 'length'
  | 'line'
  | 'chunk'
  | 'gap'
  | 'trailers'
  | 'close'
  | 'raw'
  | 'done'
  | 'stopped';

export class MessageReader {
  readonly #sink: MessageSink;
  readonly #limits: H1Limits;
  #state: State = 'done';
  /** Body or chunk bytes still to come. */
  #left = 0;
  /** Bytes of an unfinished head, line or trailer section. */
  #kept: Buffer | undefined;
  #keptBytes = 0;

  constructor(sink: MessageSink, limits: H1Limits) {
    this.#sink = sink;
    this.#limits = limits;
  }

  /** Between messages: nothing of the next one has been read. */
  get idle(): boolean {
    return this.#state === 'done' || (this.#state === 'head' && this.#keptBytes === 0);
  }

  get stopped(): boolean {
    return this.#state === 'stopped';
  }

  /** A head has begun and is not complete. */
  get inHead(): boolean {
    return this.#state === 'head' && this.#keptBytes > 0;
  }

  /** The body lasts until the connection ends, so its end is a proper one. */
  get endsWithConnection(): boolean {
    return this.#state === 'close' || this.#state === 'raw';
  }

  /** The next message may be read. */
  next(): void {
    if (this.#state === 'done') this.#state = 'head';
  }

  stop(): void {
    this.#state = 'stopped';
    this.#drop();
  }

  /** Reads `bytes[at ..)`; returns how far: to the end, or to the end of the message. */
  push(bytes: Buffer, start: number): number {
    let at = start;
    while (at < bytes.length) {
      switch (this.#state) {
        case 'head':
          at = this.#readHead(bytes, at);
          break;
        case 'line':
          at = this.#readLine(bytes, at);
          break;
        case 'gap':
          at = this.#readGap(bytes, at);
          break;
        case 'trailers':
          at = this.#readTrailers(bytes, at);
          break;
        case 'length':
        case 'chunk':
          at = this.#readCounted(bytes, at);
          break;
        case 'close':
        case 'raw':
          this.#sink.onBody(at === 0 ? bytes : bytes.subarray(at));
          return bytes.length;
        case 'done':
          return at;
        case 'stopped':
          return bytes.length;
      }
    }
    return at;
  }

  #readHead(bytes: Buffer, at: number): number {
    const { headMaxBytes, startLineMaxBytes } = this.#limits;
    let end: number;
    let text: string;
    if (this.#kept === undefined) {
      // Nearly every head ends within its first bytes: made a text at once, they are looked through without another call.
      const first = bytes.toString('latin1', at, Math.min(bytes.length, at + FIRST_LOOK_BYTES));
      const near = first.indexOf('\r\n\r\n');
      const found = near < 0 ? bytes.indexOf(CRLF_CRLF, at) : at + near;
      if (found < 0 || found - at > headMaxBytes) {
        return this.#keepHead(bytes, at, headMaxBytes, startLineMaxBytes);
      }
      end = found + 4;
      text = near < 0 ? bytes.toString('latin1', at, found + 2) : first.slice(0, near + 2);
    } else {
      const before = this.#keptBytes;
      const joined = this.#keep(bytes, at, Math.min(bytes.length, at + headMaxBytes));
      const found = joined.subarray(0, this.#keptBytes).indexOf(CRLF_CRLF, Math.max(0, before - 3));
      if (found < 0) return this.#checkKept(bytes.length, headMaxBytes, startLineMaxBytes);
      end = at + found + 4 - before;
      text = joined.toString('latin1', 0, found + 2);
      this.#drop();
      if (found > headMaxBytes) return this.#invalid(bytes, 431, 'the head is too large');
    }
    this.#begin(this.#sink.onHead(text));
    return end;
  }

  #begin(framing: BodyFraming | 'raw' | 'again' | undefined): void {
    // The sink may have stopped us.
    if (this.#state === 'stopped') return;
    if (framing === undefined) this.stop();
    else if (framing === 'raw') this.#state = 'raw';
    else if (framing === 'again') this.#state = 'head';
    else if (framing.kind === 'close') this.#state = 'close';
    else if (framing.kind === 'chunked') this.#state = 'line';
    else {
      this.#left = framing.bytes;
      this.#state = 'length';
      if (this.#left === 0) this.#finish('');
    }
  }

  #keepHead(bytes: Buffer, at: number, headMax: number, lineMax: number): number {
    this.#keep(bytes, at, Math.min(bytes.length, at + headMax + 1));
    return this.#checkKept(bytes.length, headMax, lineMax);
  }

  /** The head is not complete: is what we have of it still within the limits, and can it become one? */
  #checkKept(end: number, headMax: number, lineMax: number): number {
    const kept = this.#kept?.subarray(0, this.#keptBytes);
    if (kept === undefined) return end;
    const lineFeed = kept.indexOf(LF);
    // A lone LF never becomes a line end; its sender would wait for the time limit otherwise.
    if (lineFeed === 0 || (lineFeed > 0 && kept[lineFeed - 1] !== CR)) {
      this.#fail(400, 'a line ends without CR');
    } else if (lineFeed < 0 && kept.length > lineMax) this.#fail(414, 'the first line is too long');
    else if (kept.length > headMax) this.#fail(431, 'the head is too large');
    return end;
  }

  #readLine(bytes: Buffer, at: number): number {
    const lineFeed = bytes.indexOf(LF, at);
    const end = lineFeed < 0 ? bytes.length : lineFeed + 1;
    if (this.#keptBytes + end - at > CHUNK_LINE_MAX_BYTES) {
      return this.#invalid(bytes, 400, 'a chunk size is malformed');
    }
    let line: string;
    if (this.#kept === undefined && lineFeed >= 0) line = bytes.toString('latin1', at, end);
    else {
      const kept = this.#keep(bytes, at, end);
      line = kept.toString('latin1', 0, this.#keptBytes);
      if (lineFeed < 0) {
        // A line that can never become one is refused now.
        if (!/^[0-9a-fA-F]+\r?$/.test(line))
          return this.#invalid(bytes, 400, 'a chunk size is malformed');
        return end;
      }
      this.#drop();
    }
    if (!CHUNK_LINE.test(line)) return this.#invalid(bytes, 400, 'a chunk size is malformed');
    this.#left = Number.parseInt(line, 16);
    this.#state = this.#left === 0 ? 'trailers' : 'chunk';
    return end;
  }

  #readCounted(bytes: Buffer, at: number): number {
    const end = Math.min(bytes.length, at + this.#left);
    this.#left -= end - at;
    this.#sink.onBody(at === 0 && end === bytes.length ? bytes : bytes.subarray(at, end));
    if (this.#left > 0 || this.stopped) return end;
    if (this.#state === 'chunk') this.#state = 'gap';
    else this.#finish('');
    return end;
  }

  /** CRLF after a chunk's data; `#left` counts how much of it has come. */
  #readGap(bytes: Buffer, start: number): number {
    let at = start;
    while (at < bytes.length && this.#left < 2) {
      if (bytes[at++] !== (this.#left === 0 ? CR : LF)) {
        return this.#invalid(bytes, 400, 'a chunk does not end where its size says');
      }
      this.#left++;
    }
    if (this.#left === 2) this.#state = 'line';
    return at;
  }

  #readTrailers(bytes: Buffer, at: number): number {
    if (this.#kept === undefined && bytes[at] === CR && bytes[at + 1] === LF) {
      this.#finish('');
      return at + 2;
    }
    const { trailersMaxBytes } = this.#limits;
    const before = this.#keptBytes;
    const kept = this.#keep(bytes, at, Math.min(bytes.length, at + trailersMaxBytes + 4));
    const section = kept.subarray(0, this.#keptBytes);
    if (section[0] === CR) {
      if (section.length < 2) return bytes.length;
      if (section[1] !== LF) return this.#invalid(bytes, 400, 'a trailer is malformed');
      this.#drop();
      this.#finish('');
      return at + 2 - before;
    }
    const found = section.indexOf(CRLF_CRLF, Math.max(0, before - 3));
    if (found < 0) {
      if (section.length <= trailersMaxBytes) return bytes.length;
      return this.#invalid(bytes, 431, 'the trailers are too large');
    }
    const text = section.toString('latin1', 0, found + 2);
    this.#drop();
    this.#finish(text);
    return at + found + 4 - before;
  }

  #finish(trailers: string): void {
    this.#state = 'done';
    this.#sink.onMessageEnd(trailers);
  }

  #keep(bytes: Buffer, from: number, to: number): Buffer {
    const needed = this.#keptBytes + to - from;
    let kept = this.#kept;
    if (kept === undefined || kept.length < needed) {
      const larger = Buffer.allocUnsafe(Math.max(COLLECT_START_BYTES, needed * 2));
      kept?.copy(larger, 0, 0, this.#keptBytes);
      kept = larger;
      this.#kept = kept;
    }
    bytes.copy(kept, this.#keptBytes, from, to);
    this.#keptBytes = needed;
    return kept;
  }

  #drop(): void {
    this.#kept = undefined;
    this.#keptBytes = 0;
  }

  #fail(status: H1Refusal['status'], reason: string): void {
    this.stop();
    this.#sink.onInvalid(refusal(status, reason));
  }

  #invalid(bytes: Buffer, status: H1Refusal['status'], reason: string): number {
    this.#fail(status, reason);
    return bytes.length;
  }
}
