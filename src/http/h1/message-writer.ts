/**
 * The sending side of an HTTP/1.1 connection: heads and small pieces are gathered and leave with one write at the end
 * of the turn (scratch.ts); bulk passes through uncopied. Framing is ours alone: `content-length` as promised and then kept to
 * the byte, or chunks. A message that breaks its promise is never completed.
 */

import { STATUS_CODES } from 'node:http';

import { MeshError } from '../../base/errors.ts';
import type { ByteStream } from '../byte-stream.ts';
import type { HeaderList } from '../h2/contract.ts';
import { SCRATCH_BYTES, type ScratchPool } from './scratch.ts';

/** Pieces of this size are not worth copying. */
const BULK_BYTES = 8192;
const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
/** Latin-1 without controls: beyond it, characters would be cut to bytes, and could become CR or LF (T81). */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const METHOD = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const TARGET = /^[\x21-\x7e\x80-\xff]+$/;
const LENGTH = /^[0-9]{1,15}$/;
const LAST_CHUNK = '0\r\n';
const EXPECTS_LENGTH: ReadonlySet<string> = new Set(['POST', 'PUT', 'PATCH']);

function invalid(what: string): MeshError {
  return new MeshError('MESH_MESSAGE_INVALID', `Cannot send an HTTP/1.1 message: ${what}`);
}

/** How the body of the message under way is framed. */
type Mode = 'none' | 'length' | 'chunked' | 'close' | 'raw';

interface Lines {
  text: string;
  length: number | undefined;
}

const COLON = 0x3a;

function regularLines(headers: HeaderList): Lines {
  let text = '';
  let length: number | undefined;
  for (const [name, value] of headers) {
    if (name.charCodeAt(0) === COLON) continue;
    switch (name) {
      case 'connection':
      case 'transfer-encoding':
      case 'keep-alive':
      case 'proxy-connection':
      case 'upgrade':
      case 'te':
      case 'host':
        continue;
      case 'content-length':
        if (length !== undefined || !LENGTH.test(value)) throw invalid('content-length');
        length = Number(value);
        continue;
      default:
        if (!NAME.test(name) || !VALUE.test(value)) throw invalid(`field "${name.slice(0, 40)}"`);
        text += `${name}: ${value}\r\n`;
    }
  }
  return { text, length };
}

function pseudo(headers: HeaderList, name: string): string {
  for (const [field, value] of headers) {
    if (field === name) return value;
    if (field.charCodeAt(0) !== COLON) break;
  }
  return '';
}

export class MessageWriter {
  readonly #stream: ByteStream;
  readonly #scratch: ScratchPool;
  #buffer: Buffer | undefined;
  #length = 0;
  #blocked = false;
  #mode: Mode = 'none';
  /** Bytes that `content-length` still promises. */
  #left = 0;
  /** A head has gone out and its message has not ended. */
  open = false;

  constructor(stream: ByteStream, scratch: ScratchPool) {
    this.#stream = stream;
    this.#scratch = scratch;
  }

  /** The stream does not want more; cleared by `drained`. */
  get blocked(): boolean {
    return this.#blocked;
  }

  drained(): void {
    this.#blocked = false;
  }

  /** `upgrade`: ask for that protocol. */
  request(headers: HeaderList, endStream: boolean, upgrade: string): void {
    const method = pseudo(headers, ':method');
    const path = pseudo(headers, ':path');
    const authority = pseudo(headers, ':authority');
    if (!METHOD.test(method) || !TARGET.test(path) || !TARGET.test(authority)) {
      throw invalid('method, target or authority');
    }
    const lines = regularLines(headers);
    let text = `${method} ${path} HTTP/1.1\r\nhost: ${authority}\r\n${lines.text}`;
    if (upgrade !== '') {
      // Neither a body nor its end: what follows is the other protocol's, or nothing.
      text += `connection: upgrade\r\nupgrade: ${upgrade}\r\n`;
      this.#begin('none', 0);
    } else if (lines.length !== undefined) {
      text += `content-length: ${lines.length}\r\n`;
      this.#begin('length', lines.length);
    } else if (!endStream) {
      text += 'transfer-encoding: chunked\r\n';
      this.#begin('chunked', 0);
    } else {
      if (EXPECTS_LENGTH.has(method)) text += 'content-length: 0\r\n';
      this.#begin('length', 0);
    }
    this.#text(`${text}\r\n`);
  }

  /** Does not change what is under way. */
  informational(headers: HeaderList): void {
    const status = pseudo(headers, ':status');
    const { text } = regularLines(headers);
    this.#text(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${text}\r\n`);
    this.flush();
  }

  /** `close`: the connection ends with this message. */
  response(
    headers: HeaderList,
    endStream: boolean,
    method: string,
    minorVersion: 0 | 1,
    close: boolean,
  ): void {
    const status = pseudo(headers, ':status');
    const lines = regularLines(headers);
    let text = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${lines.text}`;
    if (status === '101') {
      const upgrade = headers.find(([name]) => name === 'upgrade')?.[1] ?? '';
      this.#begin('raw', 0);
      this.#text(`${text}connection: upgrade\r\nupgrade: ${upgrade}\r\n\r\n`);
      return;
    }
    if (method === 'HEAD' || status === '304' || status === '204') {
      if (lines.length !== undefined && status !== '204') {
        text += `content-length: ${lines.length}\r\n`;
      }
      this.#begin('none', 0);
    } else if (lines.length !== undefined || endStream) {
      text += `content-length: ${lines.length ?? 0}\r\n`;
      this.#begin('length', lines.length ?? 0);
    } else if (minorVersion === 1) {
      text += 'transfer-encoding: chunked\r\n';
      this.#begin('chunked', 0);
    } else this.#begin('close', 0);
    if (close) text += 'connection: close\r\n';
    else if (minorVersion === 0) text += 'connection: keep-alive\r\n';
    this.#text(`${text}\r\n`);
  }

  /** Only the end of the connection ends this message. */
  get endsWithConnection(): boolean {
    return this.#mode === 'close' || this.#mode === 'raw';
  }

  /** False: more than was promised, or a body where there is none; nothing was sent. */
  body(piece: Buffer): boolean {
    switch (this.#mode) {
      case 'none':
        return false;
      case 'length':
        if (piece.length > this.#left) return false;
        this.#left -= piece.length;
        this.#bytes(piece);
        return true;
      case 'chunked':
        if (piece.length === 0) return true;
        this.#text(`${piece.length.toString(16)}\r\n`);
        this.#bytes(piece);
        this.#text('\r\n');
        return true;
      case 'close':
      case 'raw':
        this.#bytes(piece);
        return true;
    }
  }

  /** False: less than was promised; nothing was sent and nothing may follow. */
  finish(trailers: HeaderList | undefined): boolean {
    if (!this.open) return true;
    if (this.#mode === 'length' && this.#left > 0) return false;
    if (this.#mode === 'chunked') {
      const text = trailers === undefined ? '' : regularLines(trailers).text;
      this.#text(`${LAST_CHUNK}${text}\r\n`);
    }
    this.open = false;
    return true;
  }

  /** Sends what has been gathered. */
  flush(): void {
    const buffer = this.#buffer;
    if (buffer === undefined) return;
    this.#buffer = undefined;
    const length = this.#length;
    this.#length = 0;
    if (!this.#stream.write(buffer.subarray(0, length))) this.#blocked = true;
    this.#scratch.give(buffer);
  }

  /** Drops what has been gathered: the connection is gone. */
  drop(): void {
    if (this.#buffer !== undefined) this.#scratch.give(this.#buffer);
    this.#buffer = undefined;
    this.#length = 0;
    this.open = false;
    this.#mode = 'none';
  }

  #begin(mode: Mode, left: number): void {
    this.#mode = mode;
    this.#left = left;
    this.open = true;
  }

  #text(text: string): void {
    if (text.length > SCRATCH_BYTES - this.#length) this.flush();
    if (text.length > SCRATCH_BYTES) {
      if (!this.#stream.write(Buffer.from(text, 'latin1'))) this.#blocked = true;
      return;
    }
    const buffer = this.#room();
    this.#length += buffer.write(text, this.#length, 'latin1');
  }

  #bytes(piece: Buffer): void {
    if (piece.length > SCRATCH_BYTES - this.#length) this.flush();
    if (piece.length >= BULK_BYTES && (this.#length === 0 || piece.length > SCRATCH_BYTES)) {
      this.flush();
      if (!this.#stream.write(piece)) this.#blocked = true;
      return;
    }
    const buffer = this.#room();
    piece.copy(buffer, this.#length);
    this.#length += piece.length;
  }

  #room(): Buffer {
    if (this.#buffer !== undefined) return this.#buffer;
    this.#scratch.flushLater(this);
    return (this.#buffer = this.#scratch.take());
  }
}
