/**
 * An HTTP/1.1 connection from the client's side: one request at a time, each an `HttpStream`. It may be used again
 * when request and response have both ended properly and neither side said otherwise; a byte that nobody asked
 * for ends it (T84).
 */

import { MeshError } from '../../base/errors.ts';
import type { ByteStream } from '../byte-stream.ts';
import type { HeaderList } from '../h2/contract.ts';
import type { HttpStream, HttpStreamHandlers } from '../http-stream.ts';
import {
  isRefusal,
  readResponseHead,
  readTrailers,
  type BodyFraming,
  type H1Refusal,
} from './head.ts';
import { H1_LIMITS_DEFAULT, type H1Limits } from './limits.ts';
import { MessageReader, type MessageSink } from './message-reader.ts';
import { MessageWriter } from './message-writer.ts';
import type { ScratchPool } from './scratch.ts';

export interface H1ClientOptions {
  readonly scratch: ScratchPool;
  readonly limits?: Partial<H1Limits>;
  /** The connection is free for another request. */
  readonly onIdle: () => void;
  /** The connection is over. Once. */
  readonly onClosed: () => void;
}

export interface H1ClientConnection {
  readonly idle: boolean;
  readonly closed: boolean;
  /** Requests sent so far: a failure of one that is not the first may be a keep-alive that crossed it. */
  readonly requests: number;
  /** Only when `idle`. Throws `MESH_MESSAGE_INVALID` for headers that may not be sent. */
  request(headers: HeaderList, handlers: HttpStreamHandlers, endStream: boolean): HttpStream;
  /** Ends an idle connection. */
  close(): void;
}

/** The stream must be connected; its handlers are set here. */
export function createH1Client(stream: ByteStream, options: H1ClientOptions): H1ClientConnection {
  return new ClientConnection(stream, options);
}

class ClientConnection implements H1ClientConnection, MessageSink {
  readonly stream: ByteStream;
  readonly writer: MessageWriter;
  readonly #options: H1ClientOptions;
  readonly #limits: H1Limits;
  readonly #reader: MessageReader;
  #current: ClientStream | undefined;
  #bodyBytes = 0;
  #informational = 0;
  #keepAlive = true;
  #reading = false;
  /** Free again, to be told when the read under way has shown nothing more. */
  #freed = false;
  closed = false;
  requests = 0;

  constructor(stream: ByteStream, options: H1ClientOptions) {
    this.stream = stream;
    this.#options = options;
    this.#limits = { ...H1_LIMITS_DEFAULT, ...options.limits };
    this.writer = new MessageWriter(stream, options.scratch);
    this.#reader = new MessageReader(this, this.#limits);
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

  get idle(): boolean {
    return this.#current === undefined && !this.closed && !this.#reading;
  }

  request(headers: HeaderList, handlers: HttpStreamHandlers, endStream: boolean): HttpStream {
    if (!this.idle) throw new Error('The connection is in use');
    let method = '';
    let upgrade = '';
    for (const [name, value] of headers) {
      if (name === ':method') method = value;
      else if (name === 'upgrade' && upgrade === '') upgrade = value;
    }
    const stream = new ClientStream(this, handlers, method, upgrade);
    this.writer.request(headers, endStream, upgrade);
    this.#current = stream;
    this.#informational = 0;
    this.requests++;
    this.#reader.next();
    if (endStream && upgrade === '') stream.end();
    return stream;
  }

  close(): void {
    if (this.closed) return;
    this.stream.end();
    this.#close();
  }

  onHead(text: string): BodyFraming | 'raw' | 'again' | undefined {
    const stream = this.#current;
    if (stream === undefined) return undefined;
    const head = readResponseHead(text, stream.method, this.#limits);
    if (isRefusal(head)) {
      this.onInvalid(head);
      return undefined;
    }
    const { status } = head;
    if (status < 200 && status !== 101) {
      if (++this.#informational > this.#limits.informationalMax) {
        this.#fail('it sends too many informational responses');
        return undefined;
      }
      stream.handlers.onHeaders(head.headers, false);
      return 'again';
    }
    if (status === 101) {
      if (stream.upgrade === '' || head.upgrade !== stream.upgrade) {
        this.#fail('it switches to a protocol nobody asked for');
        return undefined;
      }
      this.#keepAlive = false;
      stream.raw = true;
      stream.handlers.onHeaders(head.headers, false);
      return 'raw';
    }
    // An upgrade that was declined leaves an ordinary response, on a connection we do not use again (T83).
    this.#keepAlive = head.keepAlive && stream.upgrade === '';
    if (stream.upgrade !== '') stream.end();
    const endStream = head.body.kind === 'length' && head.body.bytes === 0;
    stream.handlers.onHeaders(head.headers, endStream);
    return head.body;
  }

  onBody(piece: Buffer): void {
    this.#bodyBytes += piece.length;
    const stream = this.#current;
    if (stream === undefined) this.stream.consume(piece.length);
    else stream.handlers.onData(piece);
  }

  onMessageEnd(trailers: string): void {
    const stream = this.#current;
    if (stream === undefined) return;
    if (trailers !== '') {
      const list = readTrailers(trailers, this.#limits, false);
      if (isRefusal(list)) {
        this.onInvalid(list);
        return;
      }
      stream.handlers.onHeaders(list, true);
      if (this.#current !== stream) return;
    }
    this.#answered(stream);
  }

  onInvalid(reason: H1Refusal): void {
    this.#fail(reason.reason);
  }

  /** Our request has gone out completely, after its response. */
  onRequestEnd(stream: ClientStream): void {
    if (stream.answered) this.#release(stream);
  }

  /** The exchange is given up. */
  cut(error: MeshError): void {
    if (this.closed) return;
    // In this order: resetting tells us of it, with a lesser reason.
    this.#onReset(error);
    this.stream.reset();
  }

  endRaw(): void {
    this.writer.flush();
    this.stream.end();
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
    if (this.closed) {
      this.stream.consume(chunk.length);
      return;
    }
    if (this.#current === undefined) {
      this.stream.consume(chunk.length);
      this.#fail('it sends what nobody asked for');
      return;
    }
    this.#bodyBytes = 0;
    const stream = this.#current;
    this.#reading = true;
    const at = this.#reader.push(chunk, 0);
    this.#reading = false;
    const own = chunk.length - this.#bodyBytes;
    if (own > 0) this.stream.consume(own);
    if (at < chunk.length && !this.closed) {
      // Bytes behind a response: the request that it answered has ended well, the connection has not.
      if (this.#current === stream) this.#keepAlive = false;
      else this.#fail('it sends more than one response');
    }
    if (!this.#freed) return;
    this.#freed = false;
    if (!this.closed) this.#options.onIdle();
  }

  #onEnd(): void {
    if (this.closed) return;
    const stream = this.#current;
    if (stream !== undefined && this.#reader.endsWithConnection) {
      this.#keepAlive = false;
      this.#answered(stream);
      return;
    }
    if (stream === undefined) {
      this.close();
      return;
    }
    this.#fail('it ended inside a response', 'MESH_CONNECTION_CLOSED');
  }

  #onReset(error: MeshError): void {
    if (this.closed) return;
    const stream = this.#current;
    this.#current = undefined;
    this.#close();
    stream?.fail(error);
  }

  #fail(
    why: string,
    code: 'MESH_HTTP1_PROTOCOL' | 'MESH_CONNECTION_CLOSED' = 'MESH_HTTP1_PROTOCOL',
  ): void {
    const message = `The upstream's HTTP/1.1 connection failed: ${why}`;
    this.cut(new MeshError(code, message, { flag: 'RESET', retryable: true }));
  }

  #answered(stream: ClientStream): void {
    stream.answered = true;
    if (stream.requestDone) this.#release(stream);
    else this.#keepAlive = false;
    stream.handlers.onEnd();
    // What is left of the request has no reader (an early answer); half of a raw connection may go on.
    if (!stream.requestDone && !stream.raw && this.#current === stream) {
      this.#current = undefined;
      stream.forget();
      this.#close();
      this.stream.reset();
    }
  }

  #release(stream: ClientStream): void {
    if (this.#current !== stream) return;
    this.#current = undefined;
    if (!this.#keepAlive || stream.raw || this.closed) this.close();
    else if (this.#reading) this.#freed = true;
    else this.#options.onIdle();
  }

  #close(): void {
    if (this.closed) return;
    this.closed = true;
    this.#reader.stop();
    this.writer.drop();
    this.#options.onClosed();
  }
}

class ClientStream implements HttpStream {
  readonly #connection: ClientConnection;
  readonly method: string;
  readonly upgrade: string;
  handlers: HttpStreamHandlers;
  raw = false;
  requestDone = false;
  answered = false;
  #dead = false;
  #wantsDrain = false;

  constructor(
    connection: ClientConnection,
    handlers: HttpStreamHandlers,
    method: string,
    upgrade: string,
  ) {
    this.#connection = connection;
    this.handlers = handlers;
    this.method = method;
    this.upgrade = upgrade;
  }

  setHandlers(handlers: HttpStreamHandlers): void {
    this.handlers = handlers;
  }

  /** Trailers: the head has gone out with the request. */
  sendHeaders(headers: HeaderList): void {
    this.#finish(headers);
  }

  write(chunk: Buffer): boolean {
    if (this.#dead || this.requestDone) return true;
    const { writer } = this.#connection;
    if (this.raw) {
      if (!this.#connection.stream.write(chunk)) this.#wantsDrain = true;
      return !this.#wantsDrain;
    }
    if (!writer.body(chunk)) {
      this.#connection.cut(broken('longer than it said'));
      return true;
    }
    this.#wantsDrain = writer.blocked;
    return !writer.blocked;
  }

  end(): void {
    this.#finish(undefined);
  }

  reset(): void {
    if (this.#dead || (this.requestDone && this.answered)) return;
    const message = 'The request was given up';
    this.#connection.cut(new MeshError('MESH_HTTP1_STREAM_RESET', message, { flag: 'RESET' }));
  }

  consume(bytes: number): void {
    this.#connection.stream.consume(bytes);
  }

  drained(): void {
    if (!this.#wantsDrain) return;
    this.#wantsDrain = false;
    this.handlers.onDrain();
  }

  forget(): void {
    this.#dead = true;
  }

  fail(error: MeshError): void {
    if (this.#dead) return;
    this.#dead = true;
    if (!(this.answered && this.requestDone)) this.handlers.onReset(error);
  }

  #finish(trailers: HeaderList | undefined): void {
    if (this.#dead || this.requestDone) return;
    if (this.raw) {
      this.requestDone = true;
      this.#connection.endRaw();
      this.#connection.onRequestEnd(this);
      return;
    }
    if (!this.#connection.writer.finish(trailers)) {
      this.#connection.cut(broken('shorter than it said'));
      return;
    }
    this.requestDone = true;
    this.#connection.onRequestEnd(this);
  }
}

function broken(how: string): MeshError {
  return new MeshError('MESH_HTTP1_PROTOCOL', `The body of a request is ${how}`, { flag: 'RESET' });
}
