/**
 * What a session receives: checks each frame against RFC 9113, assembles header blocks, counts the abuse
 * budgets, and calls streams and host. A broken rule of the connection ends in `host.fail`, one of a stream in
 * `host.refuse`; nothing is delivered after `host.stopped`.
 */

import type { Timer } from '../../base/clock.ts';
import { MeshError } from '../../base/errors.ts';
import type { AbuseBudget } from './budget.ts';
import { H2_ERROR, type HeaderList } from './contract.ts';
import { createFrameReader, PAYLOAD, type FrameSink, type Payload } from './frame-reader.ts';
import { FLAG, FRAME, readUint31, readUint32, WINDOW_MAX } from './frames.ts';
import { checkRequest, checkResponse, checkTrailers } from './header-rules.ts';
import { createHpackDecoder, type HpackDecoder } from './hpack-decoder.ts';
import type { H2Limits } from './limits.ts';
import type { ConnectionWindow } from './receive-window.ts';
import { PING_BYTES } from './sender.ts';
import { protocolError } from './session-errors.ts';
import { SETTING_BYTES, SETTINGS_MAX } from './settings.ts';
import type { Stream } from './stream.ts';
import type { AbsentStream } from './stream-table.ts';

/** "HTTP", the start of an answer in HTTP/1, taken for the head of a frame. */
const HTTP1_LENGTH = 0x48_54_54;
const HTTP1_TYPE = 0x50;
const RST_BYTES = 4;
const PRIORITY_BYTES = 5;
const UPDATE_BYTES = 4;
const GOAWAY_MIN_BYTES = 8;
/** Debug data beyond this is nobody's. */
const GOAWAY_MAX_BYTES = 16 * 1024;

export interface ReceiverHost {
  readonly stopped: boolean;
  /** No other request may begin in this turn. */
  readonly spent: boolean;
  readonly isServer: boolean;
  readonly limits: H2Limits;
  readonly budget: AbuseBudget;
  readonly connection: ConnectionWindow;
  /** Largest frame we have allowed. */
  readonly maxFrameBytes: number;
  stream(streamId: number): Stream | undefined;
  /** For an id that `stream` does not know. */
  absent(streamId: number): AbsentStream;
  /** A request head that is well formed, on a new stream. */
  onRequest(
    streamId: number,
    headers: HeaderList,
    endStream: boolean,
    method: string,
    contentLength: number | undefined,
  ): void;
  /** Whether the peer may open this stream now; if not it has been dealt with. */
  admit(streamId: number): boolean;
  /** The head of a request is larger than we allow; `streamId` is new. */
  onRequestTooLarge(streamId: number): void;
  onSettings(payload: Buffer): void;
  onSettingsAck(): void;
  onPing(payload: Buffer, ack: boolean): void;
  onGoaway(lastStreamId: number, code: number): void;
  onWindowUpdate(stream: Stream | undefined, bytes: number): void;
  onReset(stream: Stream, code: number): void;
  /** A stream error the peer provoked: RST_STREAM, counted. */
  refuse(streamId: number, code: number, reason: string): void;
  /** A connection error: GOAWAY, and the session is over. */
  fail(code: number, error: MeshError): void;
  /** A budget is spent: ENHANCE_YOUR_CALM. */
  failAbuse(): void;
}

export class Receiver implements FrameSink {
  readonly #host: ReceiverHost;
  readonly #reader = createFrameReader(this);
  readonly #hpack: HpackDecoder;
  #settingsSeen = false;
  /** Stream of the DATA frame under way, unless it is to be dropped. */
  #dataStream: Stream | undefined;
  /** Bytes of that frame that were not delivered: its padding. */
  #dataPadding = 0;
  /** Stream whose header block is not complete; 0: none. */
  #blockStream = 0;
  #blockEnds = false;
  #blockParts: Buffer[] = [];
  #blockBytes = 0;
  #continuations = 0;
  #blockTimer: Timer | undefined;
  readonly #startTimer: (timeoutMs: number, callback: () => void) => Timer;

  constructor(host: ReceiverHost, startTimer: (timeoutMs: number, callback: () => void) => Timer) {
    this.#host = host;
    this.#startTimer = startTimer;
    this.#hpack = createHpackDecoder({ listMaxBytes: host.limits.headerListMaxBytes });
  }

  get stopped(): boolean {
    return this.#host.stopped;
  }

  get spent(): boolean {
    return this.#host.spent;
  }

  /** The peer's SETTINGS have come. */
  get settingsSeen(): boolean {
    return this.#settingsSeen;
  }

  /** Returns how far it went: to the end, or to the head of a request that may not begin in this turn. */
  push(buffer: Buffer, start: number, end: number): number {
    const at = this.#reader.push(buffer, start, end);
    this.#watchBlock();
    return at;
  }

  close(): void {
    this.#blockTimer?.cancel();
    this.#blockTimer = undefined;
    this.#blockParts = [];
    this.#dataStream = undefined;
  }

  onHead(type: number, flags: number, streamId: number, length: number): Payload {
    if (length > this.#host.maxFrameBytes) {
      if (!this.#settingsSeen && length === HTTP1_LENGTH && type === HTTP1_TYPE) {
        return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'The peer speaks HTTP/1, not HTTP/2');
      }
      return this.#stop(H2_ERROR.FRAME_SIZE_ERROR, 'A frame is larger than SETTINGS allow');
    }
    if (!this.#settingsSeen && (type !== FRAME.SETTINGS || (flags & FLAG.ACK) !== 0)) {
      return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'The first frame is not SETTINGS');
    }
    if (this.#blockStream !== 0) return this.#continuationHead(type, streamId, length);
    switch (type) {
      case FRAME.DATA:
        return this.#dataHead(flags, streamId, length);
      case FRAME.HEADERS:
        if (streamId === 0) return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'HEADERS on stream 0');
        return this.#within(this.#host.budget.headerBlock(length, 0));
      case FRAME.PRIORITY:
        if (streamId === 0) return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'PRIORITY on stream 0');
        if (length !== PRIORITY_BYTES) {
          this.#host.refuse(streamId, H2_ERROR.FRAME_SIZE_ERROR, 'PRIORITY of a wrong length');
          return this.#host.stopped ? PAYLOAD.stop : PAYLOAD.skip;
        }
        return this.#within(this.#host.budget.controlReceived());
      case FRAME.RST_STREAM:
        if (streamId === 0) return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'RST_STREAM on stream 0');
        return this.#sized(length === RST_BYTES);
      case FRAME.SETTINGS:
        return this.#settingsHead(flags, streamId, length);
      case FRAME.PING:
      case FRAME.GOAWAY:
        return this.#connectionHead(type, streamId, length);
      case FRAME.WINDOW_UPDATE:
        if (!this.#host.budget.controlReceived()) return this.#abuse();
        return this.#sized(length === UPDATE_BYTES);
      case FRAME.PUSH_PROMISE:
        return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'PUSH_PROMISE though push is off');
      case FRAME.CONTINUATION:
        return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'CONTINUATION without a header block');
      default:
        if (!this.#host.budget.unknownReceived(length)) return this.#abuse();
        return PAYLOAD.skip;
    }
  }

  onFrame(type: number, flags: number, streamId: number, payload: Buffer): void {
    switch (type) {
      case FRAME.HEADERS:
        this.#onHeaders(flags, streamId, payload);
        break;
      case FRAME.CONTINUATION:
        this.#onContinuation(flags, payload);
        break;
      case FRAME.PRIORITY:
        if (readUint31(payload, 0) === streamId) {
          this.#host.refuse(streamId, H2_ERROR.PROTOCOL_ERROR, 'a stream depends on itself');
        }
        break;
      case FRAME.RST_STREAM:
        this.#onReset(streamId, readUint32(payload, 0));
        break;
      case FRAME.SETTINGS:
        this.#onSettings(flags, payload);
        break;
      case FRAME.PING:
        this.#host.onPing(payload, (flags & FLAG.ACK) !== 0);
        break;
      case FRAME.GOAWAY:
        this.#host.onGoaway(readUint31(payload, 0), readUint32(payload, 4));
        break;
      case FRAME.WINDOW_UPDATE:
        this.#onWindowUpdate(streamId, readUint31(payload, 0));
        break;
      default:
        break;
    }
  }

  onData(piece: Buffer): void {
    const stream = this.#dataStream;
    if (stream === undefined || stream.closed) return;
    this.#dataPadding -= piece.length;
    if (!stream.receiveData(piece)) this.#wrongLength(stream);
  }

  onDataEnd(flags: number): void {
    const stream = this.#dataStream;
    this.#dataStream = undefined;
    if (stream === undefined || stream.closed) return;
    if (this.#dataPadding > 0) stream.consume(this.#dataPadding);
    if ((flags & FLAG.END_STREAM) !== 0 && !stream.receiveEnd()) this.#wrongLength(stream);
  }

  onBadPadding(): void {
    this.#stop(H2_ERROR.PROTOCOL_ERROR, 'Padding is longer than its frame');
  }

  #stop(code: number, message: string): Payload {
    this.#host.fail(code, protocolError(message));
    return PAYLOAD.stop;
  }

  #abuse(): Payload {
    this.#host.failAbuse();
    return PAYLOAD.stop;
  }

  #within(within: boolean): Payload {
    return within ? PAYLOAD.whole : this.#abuse();
  }

  #sized(right: boolean): Payload {
    if (right) return PAYLOAD.whole;
    return this.#stop(H2_ERROR.FRAME_SIZE_ERROR, 'A frame has a wrong length');
  }

  #wrongLength(stream: Stream): void {
    this.#host.refuse(
      stream.id,
      H2_ERROR.PROTOCOL_ERROR,
      'its data does not match its content-length',
    );
  }

  #dataHead(flags: number, streamId: number, length: number): Payload {
    this.#dataStream = undefined;
    if (streamId === 0) return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'DATA on stream 0');
    const host = this.#host;
    if (length === 0 && (flags & FLAG.END_STREAM) === 0 && !host.budget.emptyDataReceived()) {
      return this.#abuse();
    }
    if (!host.connection.receive(length)) {
      return this.#stop(H2_ERROR.FLOW_CONTROL_ERROR, 'DATA beyond the connection window');
    }
    const stream = host.stream(streamId);
    if (stream === undefined) {
      host.connection.credit(length);
      return this.#absentData(streamId);
    }
    if (stream.remoteEnded || !stream.headSeen) {
      host.connection.credit(length);
      const code = stream.remoteEnded ? H2_ERROR.STREAM_CLOSED : H2_ERROR.PROTOCOL_ERROR;
      host.refuse(streamId, code, 'DATA has no place there');
      return host.stopped ? PAYLOAD.stop : PAYLOAD.skip;
    }
    this.#dataStream = stream;
    this.#dataPadding = length;
    if (stream.window.receive(length)) return PAYLOAD.stream;
    host.refuse(streamId, H2_ERROR.FLOW_CONTROL_ERROR, 'DATA beyond its window');
    return host.stopped ? PAYLOAD.stop : PAYLOAD.skip;
  }

  #absentData(streamId: number): Payload {
    const absent = this.#host.absent(streamId);
    if (absent === 'idle') return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'DATA on an idle stream');
    if (absent === 'reset-here') return PAYLOAD.skip;
    this.#host.refuse(streamId, H2_ERROR.STREAM_CLOSED, 'DATA on a closed stream');
    return this.#host.stopped ? PAYLOAD.stop : PAYLOAD.skip;
  }

  #settingsHead(flags: number, streamId: number, length: number): Payload {
    if (streamId !== 0) return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'SETTINGS on a stream');
    if (!this.#host.budget.settingsReceived()) return this.#abuse();
    if ((flags & FLAG.ACK) !== 0) return this.#sized(length === 0);
    if (length > SETTINGS_MAX * SETTING_BYTES) {
      return this.#stop(H2_ERROR.ENHANCE_YOUR_CALM, 'SETTINGS hold too many values');
    }
    return this.#sized(length % SETTING_BYTES === 0);
  }

  #connectionHead(type: number, streamId: number, length: number): Payload {
    if (streamId !== 0) return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'PING or GOAWAY on a stream');
    if (!this.#host.budget.controlReceived()) return this.#abuse();
    if (type === FRAME.PING) return this.#sized(length === PING_BYTES);
    return this.#sized(length >= GOAWAY_MIN_BYTES && length <= GOAWAY_MAX_BYTES);
  }

  #continuationHead(type: number, streamId: number, length: number): Payload {
    if (type !== FRAME.CONTINUATION || streamId !== this.#blockStream) {
      return this.#stop(H2_ERROR.PROTOCOL_ERROR, 'A header block is interrupted by another frame');
    }
    const { budget } = this.#host;
    return this.#within(budget.headerBlock(this.#blockBytes + length, ++this.#continuations));
  }

  #onSettings(flags: number, payload: Buffer): void {
    if ((flags & FLAG.ACK) !== 0) {
      this.#host.onSettingsAck();
      return;
    }
    this.#settingsSeen = true;
    this.#host.onSettings(payload);
  }

  #onReset(streamId: number, code: number): void {
    const stream = this.#host.stream(streamId);
    if (stream !== undefined) this.#host.onReset(stream, code);
    else if (this.#host.absent(streamId) === 'idle') {
      this.#stop(H2_ERROR.PROTOCOL_ERROR, 'RST_STREAM on an idle stream');
    } else if (!this.#host.budget.controlReceived()) this.#abuse();
  }

  #onWindowUpdate(streamId: number, bytes: number): void {
    const host = this.#host;
    if (streamId === 0) {
      if (bytes === 0) this.#stop(H2_ERROR.PROTOCOL_ERROR, 'WINDOW_UPDATE of 0');
      else host.onWindowUpdate(undefined, bytes);
      return;
    }
    const stream = host.stream(streamId);
    if (stream === undefined) {
      // Frames for a stream that has just ended cross on the wire: they are no error.
      if (host.absent(streamId) === 'idle') {
        this.#stop(H2_ERROR.PROTOCOL_ERROR, 'WINDOW_UPDATE on an idle stream');
      }
    } else if (bytes === 0) host.refuse(streamId, H2_ERROR.PROTOCOL_ERROR, 'WINDOW_UPDATE of 0');
    else if (stream.sendWindow + bytes > WINDOW_MAX) {
      host.refuse(streamId, H2_ERROR.FLOW_CONTROL_ERROR, 'its window is opened too far');
    } else host.onWindowUpdate(stream, bytes);
  }

  #onHeaders(flags: number, streamId: number, payload: Buffer): void {
    let start = 0;
    let padding = 0;
    if ((flags & FLAG.PADDED) !== 0) padding = payload[start++] ?? 0;
    if ((flags & FLAG.PRIORITY) !== 0) start += PRIORITY_BYTES;
    if (start + padding > payload.length) {
      this.onBadPadding();
      return;
    }
    if ((flags & FLAG.PRIORITY) !== 0) {
      const dependsOn = readUint31(payload, start - PRIORITY_BYTES);
      // Without the block our HPACK table would be wrong, so this ends the connection.
      if (dependsOn === streamId) {
        this.#stop(H2_ERROR.PROTOCOL_ERROR, 'A stream depends on itself');
        return;
      }
    }
    const fragment = payload.subarray(start, payload.length - padding);
    this.#blockEnds = (flags & FLAG.END_STREAM) !== 0;
    if ((flags & FLAG.END_HEADERS) !== 0) {
      this.#onBlock(streamId, fragment);
      return;
    }
    this.#blockStream = streamId;
    this.#continuations = 0;
    this.#keepPart(fragment);
  }

  #onContinuation(flags: number, payload: Buffer): void {
    this.#keepPart(payload);
    if ((flags & FLAG.END_HEADERS) === 0) return;
    const block = Buffer.concat(this.#blockParts, this.#blockBytes);
    const streamId = this.#blockStream;
    this.#blockParts = [];
    this.#blockBytes = 0;
    this.#blockStream = 0;
    this.#onBlock(streamId, block);
  }

  #keepPart(part: Buffer): void {
    this.#blockParts.push(Buffer.from(part));
    this.#blockBytes += part.length;
  }

  /** A header block that is not complete, or a frame that trickles, has `headerBlockTimeoutMs`. */
  #watchBlock(): void {
    const waits = !this.#host.stopped && (this.#blockStream !== 0 || this.#reader.inHeaders);
    if (!waits) {
      this.#blockTimer?.cancel();
      this.#blockTimer = undefined;
      return;
    }
    this.#blockTimer ??= this.#startTimer(this.#host.limits.headerBlockTimeoutMs, () => {
      this.#stop(H2_ERROR.ENHANCE_YOUR_CALM, 'A header block was not complete in time');
    });
  }

  #onBlock(streamId: number, block: Buffer): void {
    const endStream = this.#blockEnds;
    let decoded;
    try {
      decoded = this.#hpack.decode(block);
    } catch (error) {
      const known = error instanceof MeshError;
      const reason = known ? error : new MeshError('MESH_HPACK_INVALID', 'Cannot read headers');
      this.#host.fail(H2_ERROR.COMPRESSION_ERROR, reason);
      return;
    }
    const stream = this.#host.stream(streamId);
    if (stream === undefined) {
      this.#onAbsentBlock(streamId, decoded.headers, decoded.tooLarge, endStream);
    } else if (stream.remoteEnded) {
      this.#host.refuse(streamId, H2_ERROR.STREAM_CLOSED, 'HEADERS after its end');
    } else if (decoded.tooLarge) {
      this.#host.refuse(streamId, H2_ERROR.ENHANCE_YOUR_CALM, 'its headers are too large');
    } else if (stream.headSeen) this.#onTrailers(stream, decoded.headers, endStream);
    else this.#onResponse(stream, decoded.headers, endStream);
  }

  #onAbsentBlock(
    streamId: number,
    headers: HeaderList,
    tooLarge: boolean,
    endStream: boolean,
  ): void {
    const host = this.#host;
    const absent = host.absent(streamId);
    if (absent === 'reset-here') return;
    if (absent === 'closed') {
      this.#stop(H2_ERROR.STREAM_CLOSED, 'HEADERS on a closed stream');
      return;
    }
    // A client's streams have odd ids, in rising order; a server opens none.
    if (absent === 'skipped' || !host.isServer || streamId % 2 === 0) {
      this.#stop(H2_ERROR.PROTOCOL_ERROR, 'HEADERS on a stream that cannot be opened');
      return;
    }
    if (!host.admit(streamId)) return;
    if (tooLarge) {
      host.onRequestTooLarge(streamId);
      return;
    }
    const facts = checkRequest(headers);
    if (typeof facts === 'string') host.refuse(streamId, H2_ERROR.PROTOCOL_ERROR, facts);
    else if (endStream && (facts.contentLength ?? 0) > 0) {
      host.refuse(streamId, H2_ERROR.PROTOCOL_ERROR, 'a content-length without content');
    } else host.onRequest(streamId, headers, endStream, facts.method, facts.contentLength);
  }

  #onTrailers(stream: Stream, headers: HeaderList, endStream: boolean): void {
    const reason = endStream ? checkTrailers(headers) : 'trailers do not end it';
    if (reason !== undefined) {
      this.#host.refuse(stream.id, H2_ERROR.PROTOCOL_ERROR, reason);
      return;
    }
    if (stream.expectedBytes !== undefined && stream.expectedBytes !== 0) {
      this.#wrongLength(stream);
      return;
    }
    stream.receiveHeaders(headers, true);
    stream.receiveEnd();
  }

  #onResponse(stream: Stream, headers: HeaderList, endStream: boolean): void {
    const facts = checkResponse(headers, stream.method);
    if (typeof facts === 'string') {
      this.#host.refuse(stream.id, H2_ERROR.PROTOCOL_ERROR, facts);
      return;
    }
    const final = facts.status >= 200;
    if (!final && endStream) {
      this.#host.refuse(stream.id, H2_ERROR.PROTOCOL_ERROR, 'an informational head ends it');
      return;
    }
    if (final) stream.headSeen = true;
    stream.expectedBytes = facts.contentLength;
    if (endStream && (facts.contentLength ?? 0) > 0) {
      this.#wrongLength(stream);
      return;
    }
    stream.receiveHeaders(headers, endStream);
    if (endStream) stream.receiveEnd();
  }
}
