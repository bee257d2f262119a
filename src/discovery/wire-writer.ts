/**
 * Writes protobuf fields into one growing buffer. Used only for the two stream messages, whose lists may hold
 * 100,000 entries: building message objects for them costs several times the bytes and blocks the loop.
 */

const INITIAL_BYTES = 1_024;

export function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 128)) bytes++;
  return bytes;
}

/** Bytes of a length-delimited field: its tag, its length and its content. */
export function delimitedBytes(field: number, contentBytes: number): number {
  return varintBytes(field * 8) + varintBytes(contentBytes) + contentBytes;
}

export class WireWriter {
  #buffer: Buffer;
  #length = 0;

  constructor(sizeHint: number = INITIAL_BYTES) {
    this.#buffer = Buffer.allocUnsafe(sizeHint);
  }

  get length(): number {
    return this.#length;
  }

  /** A view of what was written; the writer must not be used after this. */
  finish(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  /** An unsigned integer field, at most 2^53 - 1. */
  uint(field: number, value: number): void {
    this.#reserve(20);
    this.#varint(field * 8);
    this.#varint(value);
  }

  /** The head of a length-delimited field; exactly `contentBytes` must follow. */
  head(field: number, contentBytes: number): void {
    this.#reserve(15);
    this.#varint(field * 8 + 2);
    this.#varint(contentBytes);
  }

  text(field: number, value: string): void {
    const bytes = Buffer.byteLength(value);
    this.head(field, bytes);
    this.#reserve(bytes);
    this.#length += this.#buffer.write(value, this.#length);
  }

  bytes(field: number, value: Uint8Array): void {
    this.head(field, value.length);
    this.#reserve(value.length);
    this.#buffer.set(value, this.#length);
    this.#length += value.length;
  }

  #varint(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.#buffer[this.#length++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    this.#buffer[this.#length++] = rest;
  }

  #reserve(bytes: number): void {
    const needed = this.#length + bytes;
    if (needed <= this.#buffer.length) return;
    const grown = Buffer.allocUnsafe(Math.max(needed, this.#buffer.length * 2));
    this.#buffer.copy(grown, 0, 0, this.#length);
    this.#buffer = grown;
  }
}
