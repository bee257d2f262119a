/**
 * An HTTP/1.1 connection from the server's side: requests one after the other, each an `HttpStream`. What a client
 * sends ahead waits, unread and within the stream's window, until the request before it has been answered.
 *
 * - What is no valid message is answered once, with the status that fits, and the connection ends.
 * - A response that cannot be completed resets the connection; it never looks complete.
 * - After an answer that came before the end of its request, the rest of the request is dropped, up to a bound.
 */

import type { DeadlineSweep, WatchedDeadline } from '../../base/deadline-sweep.ts';
import { MeshError } from '../../base/errors.ts';
import type { Place } from '../../base/roster.ts';
import type { ByteStream } from '../byte-stream.ts';
import type { HeaderList } from '../h2/contract.ts';
import type { HttpStream, HttpStreamHandlers } from '../http-stream.ts';
import {
  isRefusal,
  readRequestHead,
  readTrailers,
  type BodyFraming,
  type H1Head,
  type H1Refusal,
} from './head.ts';
import { H1_LIMITS_DEFAULT, type H1Limits } from './limits.ts';
import { MessageReader, type MessageSink } from './message-reader.ts';
import { MessageWriter } from './message-writer.ts';
import type { ScratchPool } from './scratch.ts';

/** Of a request that has been answered already. */
const DROPPED_MAX_BYTES = 256 * 1024;
/** For the client to read the last answer before its connection is cut. */
const LINGER_MS = 1000;
const IDLE_DEFAULT_MS = 3_600_000;

export interface H1ServerOptions {
  readonly deadlines: DeadlineSweep;
  readonly scratch: ScratchPool;
  readonly limits?: Partial<H1Limits>;
  /** Between requests. Default 1 h. */
  readonly idleTimeoutMs?: number;
  /** Set the stream's handlers before returning. `endStream`: nothing follows but `onEnd`. */
  readonly onRequest: (stream: HttpStream, headers: HeaderList, endStream: boolean) => void;
  /** A message was refused: for logs and metrics. */
  readonly onRefused?: (refusal: H1Refusal) => void;
  /** The connection is over. Once. */
  readonly onClosed: () => void;
}

export interface H1ServerConnection {
  /** Requests that have not been answered completely. */
  readonly busy: boolean;
  /** Ends when idle; the answer under way says `connection: close`. */
  drain(): void;
  destroy(error: MeshError): void;
}

/** Serves `stream` until it ends; sets its handlers. */
export function serveH1(stream: ByteStream, options: H1ServerOptions): H1ServerConnection {
  return new ServerConnection(stream, options);
}

class ServerConnection implements H1ServerConnection, MessageSink, WatchedDeadline {
  readonly stream: ByteStream;
  readonly writer: MessageWriter;
  readonly #options: H1ServerOptions;
  readonly #limits: H1Limits;
  readonly #reader: MessageReader;
  #current: ServerStream | undefined;
  /** Bytes behind the current request, not given back to the window yet. */
  #ahead: Buffer | undefined;
  /** Bytes of the current push that were handed on as body; their reader consumes them. */
  #bodyBytes = 0;
  #reading = false;
  #peerEnded = false;
  #ending = false;
  #closed = false;
  #draining = false;
  #droppedBytes = 0;
  #readScheduled = false;
  #headTimed = false;
  /** For a head under way, between requests, or to linger. */
  deadlineMs = Number.POSITIVE_INFINITY;
  readonly #watched: Place;

  constructor(stream: ByteStream, options: H1ServerOptions) {
    this.stream = stream;
    this.#options = options;
    this.#limits = { ...H1_LIMITS_DEFAULT, ...options.limits };
    this.writer = new MessageWriter(stream, options.scratch);
    this.#reader = new MessageReader(this, this.#limits);
    this.#reader.next();
    this.#watched = options.deadlines.add(this);
    this.#watch();
    stream.setHandlers({
      onData: (chunk) => this.#onRead(chunk),
      onEnd: () => this.#onEnd(),
      onReset: (error) => this.#onReset(error),
      onDrain: () => {
        this.writer.drained();
        this.#current?.drained();
      },
    });
  }

  get busy(): boolean {
    return this.#current !== undefined;
  }

  get closing(): boolean {
    return this.#draining || this.#peerEnded;
  }

  drain(): void {
    this.#draining = true;
    if (this.#current === undefined && !this.#reader.inHead) this.#finish();
  }

  destroy(error: MeshError): void {
    if (this.#closed) return;
    // In this order: resetting tells us of it, with a lesser reason.
    this.#onReset(error);
    this.stream.reset();
  }

  onHead(text: string): BodyFraming | undefined {
    const head = readRequestHead(text, this.#limits);
    if (isRefusal(head)) {
      this.onInvalid(head);
      return undefined;
    }
    this.deadlineMs = Number.POSITIVE_INFINITY;
    this.#headTimed = false;
    const stream = new ServerStream(this, head);
    this.#current = stream;
    // Whether an upgrade ends with its head is for the answer to say.
    const endStream = head.body.kind === 'length' && head.body.bytes === 0 && head.upgrade === '';
    try {
      this.#options.onRequest(stream, head.headers, endStream);
    } catch (cause) {
      const message = 'The request could not be served';
      this.destroy(new MeshError('MESH_MESSAGE_INVALID', message, { cause }));
      return undefined;
    }
    return head.body;
  }

  onBody(piece: Buffer): void {
    this.#bodyBytes += piece.length;
    const stream = this.#current;
    if (stream !== undefined && !stream.answered) {
      stream.receive(piece);
      return;
    }
    this.stream.consume(piece.length);
    this.#droppedBytes += piece.length;
    if (stream?.raw !== true && this.#droppedBytes > DROPPED_MAX_BYTES) this.#finish();
  }

  onMessageEnd(trailers: string): void {
    const stream = this.#current;
    if (stream === undefined) return;
    let list: HeaderList | undefined;
    if (trailers !== '') {
      const read = readTrailers(trailers, this.#limits, true);
      if (isRefusal(read)) {
        this.onInvalid(read);
        return;
      }
      list = read;
    }
    stream.requestEnded(list);
    this.#advance();
  }

  onInvalid(reason: H1Refusal): void {
    this.#reader.stop();
    this.#options.onRefused?.(reason);
    const stream = this.#current;
    const message = `Cannot read an HTTP/1.1 request: ${reason.reason}`;
    const started = stream?.headSent === true;
    stream?.kill(new MeshError('MESH_HTTP1_PROTOCOL', message));
    this.#current = undefined;
    if (this.#closed) return;
    if (started) {
      this.destroy(new MeshError('MESH_HTTP1_PROTOCOL', message));
      return;
    }
    this.writer.response([[':status', String(reason.status)]], true, '', 1, true);
    this.#finish();
  }

  /** The answer is complete. */
  onAnswered(): void {
    // Inside a read the loop of `#read` goes on by itself.
    if (!this.#reading) this.#advance();
  }

  /** The request under way switched to another protocol: its end is the connection's. */
  startRaw(): void {
    const stream = this.#current;
    if (stream === undefined) return;
    const ahead = this.#ahead;
    this.#ahead = undefined;
    this.#reader.stop();
    stream.raw = true;
    if (ahead !== undefined) stream.receive(ahead);
    if (this.#peerEnded) stream.requestEnded(undefined);
  }

  /** Our direction of the other protocol has ended. */
  endRaw(): void {
    this.writer.flush();
    this.stream.end();
    if (this.#peerEnded) this.#close();
  }

  /** Whatever is sent cannot be completed. */
  cut(error: MeshError): void {
    this.destroy(error);
  }

  #onRead(chunk: Buffer): void {
    const { scratch } = this.#options;
    scratch.beginTurn();
    try {
      this.#onData(chunk);
    } finally {
      scratch.endTurn();
    }
  }

  #onData(chunk: Buffer): void {
    if (this.#closed || this.#ending) {
      this.stream.consume(chunk.length);
      this.#droppedBytes += chunk.length;
      if (!this.#closed && this.#droppedBytes > DROPPED_MAX_BYTES) this.#cutOff();
      return;
    }
    if (this.#current?.raw === true) {
      this.#current.receive(chunk);
      return;
    }
    if (this.#ahead !== undefined) {
      if (this.#ahead.length + chunk.length > this.#limits.aheadMaxBytes) {
        const message = 'The client sends too far ahead of its answers';
        this.destroy(new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'LIMIT' }));
        return;
      }
      this.#ahead = Buffer.concat([this.#ahead, chunk]);
      return;
    }
    this.#read(chunk);
  }

  #read(chunk: Buffer): void {
    this.#reading = true;
    let at = 0;
    while (at < chunk.length && !this.#closed) {
      const from = at;
      this.#bodyBytes = 0;
      at = this.#reader.push(chunk, at);
      const own = at - from - this.#bodyBytes;
      if (own > 0) this.stream.consume(own);
      if (at === chunk.length || this.#ending) break;
      const stream = this.#current;
      if (stream === undefined) continue;
      if (stream.raw) {
        // Switched inside this very read: nothing of the new protocol may precede the answer, but it may follow.
        stream.receive(chunk.subarray(at));
        at = chunk.length;
      } else {
        this.#ahead = Buffer.from(chunk.subarray(at));
        at = chunk.length;
      }
    }
    this.#reading = false;
    if (this.#closed) return;
    if (this.#current === undefined || this.#current.done) this.#advance();
    this.#watch();
  }

  /** After a request or its answer has ended: goes on to the next one when both have. */
  #advance(): void {
    const stream = this.#current;
    if (this.#closed || this.#ending || stream === undefined || stream.raw) return;
    if (!stream.answered) return;
    if (!stream.requestDone) {
      // What the client meant to send may or may not come (RFC 9110 section 10.1.1).
      if (stream.expectsContinue || stream.mustClose) this.#finish();
      return;
    }
    this.#current = undefined;
    this.#droppedBytes = 0;
    if (stream.mustClose || this.#draining) {
      this.#finish();
      return;
    }
    this.#reader.next();
    if (this.#ahead !== undefined) this.#readAhead();
    else if (this.#peerEnded) this.#finish();
    else this.#watch();
  }

  /**
   * Not from inside the answer's own call: a long pipeline would be a deep stack. Until then what arrives is
   * kept behind what waits.
   */
  #readAhead(): void {
    if (this.#readScheduled) return;
    this.#readScheduled = true;
    process.nextTick(() => {
      this.#readScheduled = false;
      const ahead = this.#ahead;
      this.#ahead = undefined;
      if (ahead !== undefined && !this.#closed && !this.#ending) this.#read(ahead);
      if (this.#peerEnded && !this.#closed) this.#onEnd();
    });
  }

  /** The time limit that fits: for a head under way, which runs from its first byte, or between requests. */
  #watch(): void {
    if (this.#closed || this.#ending || this.#current !== undefined) return;
    const inHead = this.#reader.inHead;
    if (inHead && this.#headTimed) return;
    this.#headTimed = inHead;
    const idleMs = this.#options.idleTimeoutMs ?? IDLE_DEFAULT_MS;
    const limitMs = inHead ? this.#limits.headTimeoutMs : idleMs;
    this.deadlineMs = this.#options.deadlines.nowMs() + limitMs;
  }

  onDeadline(): void {
    if (this.#ending) this.#cutOff();
    else if (this.#current === undefined) this.#finish();
  }

  #onEnd(): void {
    this.#peerEnded = true;
    if (this.#closed || this.#ending) {
      this.#close();
      return;
    }
    const stream = this.#current;
    if (this.#ahead !== undefined) return;
    if (stream === undefined) {
      this.#finish();
    } else if (stream.raw) {
      stream.requestEnded(undefined);
      if (stream.answered) this.#close();
    } else if (!stream.requestDone) {
      const message = 'The client ended inside its request';
      this.destroy(new MeshError('MESH_CONNECTION_CLOSED', message, { flag: 'RESET' }));
    }
  }

  #onReset(error: MeshError): void {
    if (this.#closed) return;
    const stream = this.#current;
    this.#current = undefined;
    this.#close();
    stream?.kill(error);
  }

  /** Ends our side; what the client still sends is dropped for a while. */
  #finish(): void {
    if (this.#closed || this.#ending) return;
    this.#ending = true;
    this.#reader.stop();
    this.#current = undefined;
    this.#ahead = undefined;
    this.writer.flush();
    this.stream.end();
    if (this.#peerEnded) this.#close();
    else this.deadlineMs = this.#options.deadlines.nowMs() + LINGER_MS;
  }

  #cutOff(): void {
    if (this.#closed) return;
    this.#close();
    this.stream.reset();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watched.leave();
    this.#reader.stop();
    this.writer.drop();
    this.#ahead = undefined;
    this.#options.onClosed();
  }
}

class ServerStream implements HttpStream {
  readonly #connection: ServerConnection;
  readonly #head: H1Head;
  #handlers: HttpStreamHandlers | undefined;
  headSent = false;
  answered = false;
  requestDone = false;
  raw = false;
  /** The connection cannot carry another request after this one. */
  mustClose: boolean;
  #dead = false;
  #wantsDrain = false;
  #upgradeAsked: boolean;

  constructor(connection: ServerConnection, head: H1Head) {
    this.#connection = connection;
    this.#head = head;
    this.mustClose = !head.keepAlive;
    this.#upgradeAsked = head.upgrade !== '';
  }

  get done(): boolean {
    return this.answered && this.requestDone;
  }

  get expectsContinue(): boolean {
    return this.#head.headers.some(([name]) => name === 'expect');
  }

  setHandlers(handlers: HttpStreamHandlers): void {
    this.#handlers = handlers;
  }

  sendHeaders(headers: HeaderList, endStream: boolean): void {
    if (this.#dead || this.answered) return;
    this.#settleUpgrade(headers);
    if (this.#dead || this.answered) return;
    const { writer } = this.#connection;
    if (this.headSent) {
      this.#finish(headers);
      return;
    }
    const [, status = ''] = headers[0] ?? [];
    if (status.startsWith('1') && status !== '101') {
      if (this.#head.minorVersion === 1) writer.informational(headers);
      return;
    }
    if (this.#connection.closing) this.mustClose = true;
    // An answer that does not wait for a body that may never come.
    if (!this.requestDone && this.expectsContinue && endStream) this.mustClose = true;
    const { method, minorVersion } = this.#head;
    writer.response(headers, endStream, method, minorVersion, this.mustClose);
    if (writer.endsWithConnection) this.mustClose = true;
    this.headSent = true;
    if (status === '101') this.#connection.startRaw();
    else if (endStream) this.#finish(undefined);
  }

  /** An upgrade that is declined was an ordinary request without a body. */
  #settleUpgrade(headers: HeaderList): void {
    const [, status = ''] = headers[0] ?? [];
    if (!this.#upgradeAsked || status.startsWith('1')) return;
    this.#upgradeAsked = false;
    this.requestDone = true;
    this.#handlers?.onEnd();
  }

  write(chunk: Buffer): boolean {
    if (this.#dead || this.answered) return true;
    const { writer } = this.#connection;
    if (!writer.body(chunk)) {
      // A body where there is none (HEAD) is dropped, one that is too long cuts.
      if (this.#head.method === 'HEAD') return true;
      this.#connection.cut(broken('longer than it said'));
      return true;
    }
    this.#wantsDrain = writer.blocked;
    return !writer.blocked;
  }

  end(): void {
    if (this.#dead || this.answered) return;
    this.#finish(undefined);
  }

  reset(): void {
    if (this.#dead || this.done) return;
    const message = 'The answer was given up';
    this.#connection.cut(new MeshError('MESH_HTTP1_STREAM_RESET', message, { flag: 'RESET' }));
  }

  consume(bytes: number): void {
    this.#connection.stream.consume(bytes);
  }

  receive(piece: Buffer): void {
    this.#handlers?.onData(piece);
  }

  requestEnded(trailers: HeaderList | undefined): void {
    if (this.requestDone || (this.#upgradeAsked && !this.raw)) return;
    this.requestDone = true;
    if (this.answered && !this.raw) return;
    if (trailers !== undefined) this.#handlers?.onHeaders(trailers, true);
    this.#handlers?.onEnd();
  }

  drained(): void {
    if (!this.#wantsDrain) return;
    this.#wantsDrain = false;
    this.#handlers?.onDrain();
  }

  /** The connection has ended under it. */
  kill(error: MeshError): void {
    if (this.#dead) return;
    this.#dead = true;
    if (!this.done) this.#handlers?.onReset(error);
  }

  #finish(trailers: HeaderList | undefined): void {
    const { writer } = this.#connection;
    if (!writer.finish(trailers)) {
      this.#connection.cut(broken('shorter than it said'));
      return;
    }
    this.answered = true;
    if (this.raw) this.#connection.endRaw();
    else this.#connection.onAnswered();
  }
}

function broken(how: string): MeshError {
  return new MeshError('MESH_HTTP1_PROTOCOL', `The body of a message is ${how}`, { flag: 'RESET' });
}
