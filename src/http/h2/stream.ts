/**
 * One HTTP/2 stream: both directions' state, what is queued to be sent, and the calls to its handlers.
 *
 * - It is open until END_STREAM has gone both ways or either side has reset it; then it tells its owner once.
 * - Handlers may call anything from inside any callback (C03). After `onReset` none is called. What a handler
 *   throws resets this stream and nothing else.
 * - A message cut short is never ended cleanly: a stream with a broken `content-length` is reset, and `reset`
 *   drops what is queued and sends RST_STREAM.
 */

import { MeshError } from '../../base/errors.ts';
import type { Place } from '../../base/roster.ts';
import {
  FRAME_HEADER_BYTES,
  H2_ERROR,
  type H2ServerStream,
  type H2Session,
  type H2StreamHandlers,
  type HeaderList,
} from './contract.ts';
import { errorCodeName } from './frames.ts';
import type { StreamWindow } from './receive-window.ts';
import { BULK_BYTES, type Sender, type SendingStream } from './sender.ts';
import { resetHere, streamOverLimit } from './session-errors.ts';

/** Bytes queued in one stream beyond which its writer is told to stop. */
export const STREAM_QUEUE_HIGH_BYTES: number = 16 * 1024;

export interface StreamOwner {
  readonly session: H2Session;
  readonly sender: Sender;
  /** The stream has closed; called once. */
  onStreamClosed(stream: Stream): void;
  /** Whoever retained a closed stream has let go of it. */
  onStreamReleased(): void;
  onHandlerError(error: unknown): void;
  /** Bytes were queued (or, negative, sent or dropped). False: the session holds too much. */
  onQueued(bytes: number): boolean;
}

const NO_HANDLERS: H2StreamHandlers = {
  onHeaders: () => {},
  onData: () => {},
  onEnd: () => {},
  onReset: () => {},
  onDrain: () => {},
};

export class Stream implements H2ServerStream, SendingStream {
  readonly id: number;
  readonly window: StreamWindow;
  sendWindow: number;
  /** The request's method: what lengths mean depends on it. */
  readonly method: string;
  /** Our final head (server) or request (client) has gone out: a reset now is not an early one. */
  answered = false;
  /** The peer's final head has come (client) or was the request itself (server): what follows are trailers. */
  headSeen = false;
  /** Bytes that `content-length` still promises. */
  expectedBytes: number | undefined;
  readonly #owner: StreamOwner;
  #handlers: H2StreamHandlers = NO_HANDLERS;
  #queue: Buffer[] = [];
  /** Bytes of the first chunk that are gone. */
  #queueOffset = 0;
  #queuedBytes = 0;
  #trailers: HeaderList | undefined;
  #endRequested = false;
  #localEnded = false;
  #remoteEnded = false;
  #closed = false;
  #wantsDrain = false;
  #resetCode: number | undefined;
  #resetHere = false;
  #retained = 0;
  readyPlace: Place | undefined;
  wakePlace: Place | undefined;

  constructor(
    owner: StreamOwner,
    id: number,
    method: string,
    sendWindow: number,
    window: StreamWindow,
  ) {
    this.#owner = owner;
    this.id = id;
    this.method = method;
    this.sendWindow = sendWindow;
    this.window = window;
  }

  get session(): H2Session {
    return this.#owner.session;
  }

  get resetCode(): number | undefined {
    return this.#resetCode;
  }

  /** We sent RST_STREAM: what still comes for it was on its way. */
  get resetHere(): boolean {
    return this.#resetHere;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Closed, and nobody works for it any more (T61). */
  get done(): boolean {
    return this.#closed && this.#retained === 0;
  }

  get remoteEnded(): boolean {
    return this.#remoteEnded;
  }

  get hasQueued(): boolean {
    return this.#queuedBytes > 0;
  }

  /** Our request has gone out. */
  requested(endStream: boolean): void {
    this.answered = true;
    this.#endRequested = endStream;
    this.#localEnded = endStream;
  }

  setHandlers(handlers: H2StreamHandlers): void {
    this.#handlers = handlers;
  }

  retain(): () => void {
    let held = !this.#closed;
    if (held) this.#retained++;
    return () => {
      if (!held) return;
      held = false;
      this.#retained--;
      if (this.done) this.#owner.onStreamReleased();
    };
  }

  sendHeaders(headers: HeaderList, endStream: boolean): void {
    if (this.#closed || this.#endRequested) return;
    if (this.hasQueued) {
      if (!endStream) {
        const message = `Cannot send headers on stream ${this.id}: data is queued before them`;
        throw new MeshError('MESH_MESSAGE_INVALID', message);
      }
      this.#trailers = headers;
      this.#endRequested = true;
      return;
    }
    this.#owner.sender.headers(this.id, headers, endStream);
    const status = headers[0]?.[0] === ':status' ? headers[0][1] : '';
    if (!status.startsWith('1')) this.answered = true;
    if (endStream) {
      this.#endRequested = true;
      this.#endLocal();
    }
  }

  write(chunk: Buffer): boolean {
    if (this.#closed || this.#endRequested) return true;
    const sent = this.hasQueued ? 0 : this.#owner.sender.data(this, chunk, 0, chunk.length, false);
    if (sent < chunk.length) this.#enqueue(chunk, sent);
    return this.#mayGoOn(chunk.length);
  }

  writeFramed(buffer: Buffer, payloadBytes: number): boolean {
    if (this.#closed || this.#endRequested) return true;
    if (!this.hasQueued && this.#owner.sender.framed(this, buffer, payloadBytes)) {
      return this.#mayGoOn(payloadBytes);
    }
    return this.write(buffer.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + payloadBytes));
  }

  end(): void {
    if (this.#closed || this.#endRequested) return;
    this.#endRequested = true;
    if (this.hasQueued) return;
    this.#owner.sender.endStream(this.id);
    this.#endLocal();
  }

  reset(code: number): void {
    this.resetWith(code, resetHere(this.id, errorCodeName(code)));
  }

  /** As `reset`, telling the handlers this error. */
  resetWith(code: number, error: MeshError): void {
    // Between the last END_STREAM and the end of its `onEnd` there is nothing left to reset.
    if (this.#closed || (this.#localEnded && this.#remoteEnded)) return;
    this.#resetCode = code;
    this.#resetHere = true;
    this.#owner.sender.reset(this.id, code);
    this.kill(error);
  }

  consume(bytes: number): void {
    if (!this.#closed) this.window.consume(bytes);
  }

  /** Ends the stream without a frame: the peer reset it, or the session has ended. */
  kill(error: MeshError, peerCode?: number): void {
    if (this.#closed) return;
    if (peerCode !== undefined) this.#resetCode = peerCode;
    this.#close();
    const handlers = this.#handlers;
    this.#handlers = NO_HANDLERS;
    try {
      handlers.onReset(error);
    } catch (thrown) {
      this.#owner.onHandlerError(thrown);
    }
  }

  receiveHeaders(headers: HeaderList, endStream: boolean): void {
    try {
      this.#handlers.onHeaders(headers, endStream);
    } catch (error) {
      this.#break(error);
    }
  }

  /** False: more bytes than `content-length` promised. */
  receiveData(piece: Buffer): boolean {
    if (this.expectedBytes !== undefined) {
      this.expectedBytes -= piece.length;
      if (this.expectedBytes < 0) return false;
    }
    try {
      this.#handlers.onData(piece);
    } catch (error) {
      this.#break(error);
    }
    return true;
  }

  /** END_STREAM came. False: fewer bytes than `content-length` promised. */
  receiveEnd(): boolean {
    if (this.#closed) return true;
    if (this.expectedBytes !== undefined && this.expectedBytes !== 0) return false;
    this.#remoteEnded = true;
    this.window.stop();
    try {
      this.#handlers.onEnd();
    } catch (error) {
      this.#break(error);
    }
    if (this.#localEnded) this.#close();
    return true;
  }

  sendQueued(bytes: number): void {
    let left = bytes;
    while (left > 0) {
      const chunk = this.#queue[0];
      if (chunk === undefined) break;
      const from = this.#queueOffset;
      const to = Math.min(chunk.length, from + left);
      const last = this.#endRequested && this.#trailers === undefined && this.#queue.length === 1;
      const ends = last && to === chunk.length;
      const sent = this.#owner.sender.data(this, chunk, from, to, ends);
      this.#count(from - sent);
      left -= sent - from;
      this.#queueOffset = sent;
      if (sent === chunk.length) {
        this.#queue.shift();
        this.#queueOffset = 0;
      }
      if (sent < to) break;
      if (ends) {
        this.#endLocal();
        return;
      }
    }
    if (!this.hasQueued) this.#onQueueEmpty();
  }

  drained(): void {
    this.#wantsDrain = false;
    if (this.#closed || this.#endRequested) return;
    try {
      this.#handlers.onDrain();
    } catch (error) {
      this.#break(error);
    }
  }

  #onQueueEmpty(): void {
    const trailers = this.#trailers;
    if (trailers !== undefined) {
      this.#trailers = undefined;
      try {
        this.#owner.sender.headers(this.id, trailers, true);
      } catch (error) {
        this.#break(error);
        return;
      }
      this.#endLocal();
    } else if (this.#wantsDrain) {
      this.#owner.sender.wait(this);
    }
  }

  /** After a write of `bytes`. */
  #mayGoOn(bytes: number): boolean {
    const { sender } = this.#owner;
    const mustWait = sender.blocked || (bytes >= BULK_BYTES && sender.busy);
    if (this.#queuedBytes <= STREAM_QUEUE_HIGH_BYTES && !mustWait) return true;
    this.#wantsDrain = true;
    if (!this.hasQueued) sender.wait(this);
    return false;
  }

  #enqueue(chunk: Buffer, from: number): void {
    this.#queue.push(Buffer.from(chunk.subarray(from)));
    if (this.#count(chunk.length - from)) {
      if (this.sendWindow > 0) this.#owner.sender.ready(this);
      return;
    }
    this.resetWith(H2_ERROR.ENHANCE_YOUR_CALM, streamOverLimit(this.id));
  }

  #count(bytes: number): boolean {
    this.#queuedBytes += bytes;
    return this.#owner.onQueued(bytes);
  }

  #endLocal(): void {
    this.#localEnded = true;
    if (this.#remoteEnded) this.#close();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue = [];
    this.#trailers = undefined;
    if (this.#queuedBytes > 0) this.#count(-this.#queuedBytes);
    this.#owner.sender.forget(this);
    this.window.close();
    this.#owner.onStreamClosed(this);
  }

  #break(cause: unknown): void {
    this.#owner.onHandlerError(cause);
    this.resetWith(H2_ERROR.INTERNAL_ERROR, resetHere(this.id, 'its handler failed', cause));
  }
}
