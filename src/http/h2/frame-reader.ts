/**
 * Cuts the bytes of a connection into frames. Payloads of DATA are never copied nor collected: they are handed
 * on as they come, as views of the read buffer, in as many pieces as there were reads. All other payloads
 * are given whole: as a view when they lie in one read, else collected in a buffer of their own, whose size the
 * sink has approved first (`onHead`). The sink decides; nothing here knows of streams.
 */

import { FRAME_HEADER_BYTES } from './contract.ts';
import { FLAG, FRAME, readUint31 } from './frames.ts';

/** What to do with a frame's payload. */
export const PAYLOAD = {
  /** Nothing more is read: the session has ended. */
  stop: 0,
  /** Drop it. */
  skip: 1,
  /** Hand it to `onFrame` as a whole. */
  whole: 2,
  /** Hand it to `onData` in pieces, without padding. */
  stream: 3,
} as const;
export type Payload = (typeof PAYLOAD)[keyof typeof PAYLOAD];

export interface FrameSink {
  /** True once nothing may be delivered any more; asked after every call. */
  readonly stopped: boolean;
  /** No HEADERS may begin for now; asked before every frame. */
  readonly spent: boolean;
  /** A frame begins; its payload has not been looked at. */
  onHead(type: number, flags: number, streamId: number, length: number): Payload;
  onFrame(type: number, flags: number, streamId: number, payload: Buffer): void;
  /** A piece of the DATA frame that began last. Never empty. */
  onData(piece: Buffer): void;
  /** That DATA frame is complete. */
  onDataEnd(flags: number): void;
  /** Padding as long as the payload or longer. */
  onBadPadding(): void;
}

export interface FrameReader {
  /**
   * Reads `buffer[start .. end)`, which holds only during the call. Returns how far: to the end, or to HEADERS that may
   * not begin for now. A frame head that was cut by the end of a read is not held back.
   */
  push(buffer: Buffer, start: number, end: number): number;
  /** The last bytes ended inside HEADERS or CONTINUATION. */
  readonly inHeaders: boolean;
}

export function createFrameReader(sink: FrameSink): FrameReader {
  return new Reader(sink);
}

class Reader implements FrameReader {
  readonly #sink: FrameSink;
  readonly #head: Buffer = Buffer.alloc(FRAME_HEADER_BYTES);
  #headBytes = 0;
  #type = 0;
  #flags = 0;
  #streamId = 0;
  /** Payload bytes still to come, without trailing padding where that is known. */
  #left = 0;
  #padding = 0;
  #needsPadLength = false;
  #payload: Payload = PAYLOAD.skip;
  #inPayload = false;
  #collected: Buffer | undefined;
  #collectedBytes = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  get inHeaders(): boolean {
    const { HEADERS, CONTINUATION } = FRAME;
    return this.#inPayload && (this.#type === HEADERS || this.#type === CONTINUATION);
  }

  push(buffer: Buffer, start: number, end: number): number {
    let at = start;
    while (!this.#sink.stopped) {
      if (!this.#inPayload) {
        if (at === end || (this.#sink.spent && this.#isHeaders(buffer, at))) return at;
        at = this.#readHead(buffer, at, end);
        continue;
      }
      if (at === end && this.#left + this.#padding > 0) return at;
      at = this.#readPayload(buffer, at, end);
    }
    return end;
  }

  #isHeaders(buffer: Buffer, at: number): boolean {
    return this.#headBytes === 0 && buffer[at + 3] === FRAME.HEADERS;
  }

  #readHead(buffer: Buffer, start: number, end: number): number {
    if (this.#headBytes === 0 && end - start >= FRAME_HEADER_BYTES) {
      this.#begin(buffer, start);
      return start + FRAME_HEADER_BYTES;
    }
    const count = Math.min(FRAME_HEADER_BYTES - this.#headBytes, end - start);
    buffer.copy(this.#head, this.#headBytes, start, start + count);
    this.#headBytes += count;
    if (this.#headBytes === FRAME_HEADER_BYTES) {
      this.#headBytes = 0;
      this.#begin(this.#head, 0);
    }
    return start + count;
  }

  #begin(head: Buffer, at: number): void {
    const length = ((head[at] ?? 0) << 16) | ((head[at + 1] ?? 0) << 8) | (head[at + 2] ?? 0);
    this.#type = head[at + 3] ?? 0;
    this.#flags = head[at + 4] ?? 0;
    this.#streamId = readUint31(head, at + 5);
    this.#left = length;
    this.#padding = 0;
    this.#inPayload = true;
    this.#payload = this.#sink.onHead(this.#type, this.#flags, this.#streamId, length);
    const padded = this.#type === FRAME.DATA && (this.#flags & FLAG.PADDED) !== 0;
    this.#needsPadLength = padded && this.#payload !== PAYLOAD.stop;
    if (padded && length === 0) this.#sink.onBadPadding();
  }

  #readPayload(buffer: Buffer, start: number, end: number): number {
    if (this.#payload === PAYLOAD.whole) return this.#readWhole(buffer, start, end);
    let at = start;
    if (this.#needsPadLength) {
      this.#needsPadLength = false;
      this.#padding = buffer[at++] ?? 0;
      this.#left -= 1 + this.#padding;
      if (this.#left < 0) {
        this.#sink.onBadPadding();
        return at;
      }
    }
    const count = Math.min(this.#left, end - at);
    if (count > 0) {
      this.#left -= count;
      if (this.#payload === PAYLOAD.stream) this.#sink.onData(buffer.subarray(at, at + count));
      at += count;
    }
    if (this.#left > 0) return at;
    const padding = Math.min(this.#padding, end - at);
    this.#padding -= padding;
    at += padding;
    if (this.#padding > 0) return at;
    this.#inPayload = false;
    if (this.#payload === PAYLOAD.stream && !this.#sink.stopped) this.#sink.onDataEnd(this.#flags);
    return at;
  }

  #readWhole(buffer: Buffer, start: number, end: number): number {
    const count = Math.min(this.#left, end - start);
    if (this.#collected === undefined && count === this.#left) {
      this.#finish(buffer.subarray(start, start + count));
      return start + count;
    }
    this.#collected ??= Buffer.allocUnsafe(this.#left);
    buffer.copy(this.#collected, this.#collectedBytes, start, start + count);
    this.#collectedBytes += count;
    this.#left -= count;
    if (this.#left === 0) {
      const whole = this.#collected;
      this.#collected = undefined;
      this.#collectedBytes = 0;
      this.#finish(whole);
    }
    return start + count;
  }

  #finish(payload: Buffer): void {
    this.#inPayload = false;
    this.#left = 0;
    this.#sink.onFrame(this.#type, this.#flags, this.#streamId, payload);
  }
}
