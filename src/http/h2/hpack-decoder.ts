/**
 * Reads header blocks (RFC 7541). Bytes are hostile: every length is checked against the block, the dynamic
 * table against its bound, and the decoded size is counted while decoding (T63), with RFC 9113's 32 bytes per
 * field and each cookie crumb a field of its own. A block over the limit is still read to its end, since
 * later blocks refer to what it put into the table, but nothing of it is kept.
 */

import { MeshError } from '../../base/errors.ts';
import type { HeaderField } from './contract.ts';
import { decodeHuffman, huffmanDecodedMax } from './hpack-huffman.ts';
import { STATIC_TABLE } from './hpack-static.ts';

/** What a field costs beside its bytes, in the table and in the size of a header list. */
export const FIELD_OVERHEAD_BYTES = 32;
/** SETTINGS_HEADER_TABLE_SIZE; we advertise no other. */
export const TABLE_DEFAULT_BYTES = 4096;
/** RFC 7541 section 4.2: a smallest and a final size suffice. */
const SIZE_UPDATES_MAX = 2;
/** Larger integers mean nothing in any place. */
const INTEGER_MAX = 0x0fffffff;
const SCRATCH_BYTES = 4096;

export interface DecodedHeaders {
  /** Empty when `tooLarge`. */
  readonly headers: HeaderField[];
  readonly tooLarge: boolean;
  /** As SETTINGS_MAX_HEADER_LIST_SIZE counts. */
  readonly listBytes: number;
}

export interface HpackDecoder {
  /** Bytes in the dynamic table. */
  readonly tableBytes: number;
  /** Throws `MESH_HPACK_INVALID`; the session is lost then. Strings are bytes as Latin-1. */
  decode(block: Buffer): DecodedHeaders;
}

export interface HpackDecoderOptions {
  readonly listMaxBytes: number;
  /** Default 4096, which is also what the peer assumes. */
  readonly tableMaxBytes?: number;
}

export function createHpackDecoder(options: HpackDecoderOptions): HpackDecoder {
  return new Decoder(options.listMaxBytes, options.tableMaxBytes ?? TABLE_DEFAULT_BYTES);
}

function invalid(what: string): MeshError {
  return new MeshError('MESH_HPACK_INVALID', `Cannot read the header block: ${what}`);
}

function fieldBytes(field: HeaderField): number {
  return field[0].length + field[1].length + FIELD_OVERHEAD_BYTES;
}

class Decoder implements HpackDecoder {
  readonly #listMaxBytes: number;
  readonly #tableLimitBytes: number;
  #tableMaxBytes: number;
  /** Newest last; entries before `#first` are gone. */
  #table: HeaderField[] = [];
  #first = 0;
  #tableBytes = 0;
  #block: Buffer = Buffer.alloc(0);
  #position = 0;
  #scratch: Buffer | undefined;

  constructor(listMaxBytes: number, tableMaxBytes: number) {
    this.#listMaxBytes = listMaxBytes;
    this.#tableLimitBytes = tableMaxBytes;
    this.#tableMaxBytes = tableMaxBytes;
  }

  get tableBytes(): number {
    return this.#tableBytes;
  }

  decode(block: Buffer): DecodedHeaders {
    this.#block = block;
    this.#position = 0;
    let headers: HeaderField[] = [];
    let listBytes = 0;
    let sizeUpdates = 0;
    while (this.#position < block.length) {
      const first = block[this.#position] ?? 0;
      if ((first & 0xe0) === 0x20) {
        if (headers.length > 0 || listBytes > 0) throw invalid('a table size update after a field');
        if (++sizeUpdates > SIZE_UPDATES_MAX) throw invalid('too many table size updates');
        this.#resize(this.#integer(0x1f));
        continue;
      }
      const field = this.#field(first);
      listBytes += fieldBytes(field);
      if (listBytes <= this.#listMaxBytes) headers.push(field);
    }
    const tooLarge = listBytes > this.#listMaxBytes;
    if (tooLarge) headers = [];
    return { headers, tooLarge, listBytes };
  }

  #field(first: number): HeaderField {
    if ((first & 0x80) !== 0) return this.#entry(this.#integer(0x7f));
    const indexed = (first & 0x40) !== 0;
    const nameIndex = this.#integer(indexed ? 0x3f : 0x0f);
    const name = nameIndex === 0 ? this.#string() : this.#entry(nameIndex)[0];
    const field: HeaderField = [name, this.#string()];
    if (indexed) this.#insert(field);
    return field;
  }

  #entry(index: number): HeaderField {
    const position = index - STATIC_TABLE.length;
    const field =
      position <= 0 ? STATIC_TABLE[index - 1] : this.#table[this.#table.length - position];
    if (field === undefined || (position > 0 && this.#table.length - position < this.#first)) {
      throw invalid(`index ${index} is not in the table`);
    }
    return field;
  }

  #insert(field: HeaderField): void {
    const bytes = fieldBytes(field);
    this.#evict(this.#tableMaxBytes - bytes);
    // An entry larger than the table empties it and is not kept (RFC 7541 section 4.4).
    if (bytes > this.#tableMaxBytes) return;
    this.#table.push(field);
    this.#tableBytes += bytes;
  }

  #resize(maxBytes: number): void {
    if (maxBytes > this.#tableLimitBytes) throw invalid(`a table of ${maxBytes} bytes`);
    this.#tableMaxBytes = maxBytes;
    this.#evict(maxBytes);
  }

  #evict(toBytes: number): void {
    while (this.#tableBytes > toBytes && this.#first < this.#table.length) {
      const field = this.#table[this.#first];
      if (field !== undefined) this.#tableBytes -= fieldBytes(field);
      this.#first++;
    }
    if (this.#first * 2 > this.#table.length) {
      this.#table = this.#table.slice(this.#first);
      this.#first = 0;
    }
  }

  #integer(mask: number): number {
    let value = (this.#block[this.#position++] ?? 0) & mask;
    if (value < mask) return value;
    for (let shift = 0; ; shift += 7) {
      if (this.#position >= this.#block.length) throw invalid('an integer is cut short');
      const byte = this.#block[this.#position++] ?? 0;
      // 2^28 and the bound below keep this inside 32 bits.
      if (shift > 21) throw invalid('an integer is too large');
      value += (byte & 0x7f) << shift;
      if (value > INTEGER_MAX) throw invalid('an integer is too large');
      if ((byte & 0x80) === 0) return value;
    }
  }

  #string(): string {
    const start = this.#position;
    if (start >= this.#block.length) throw invalid('a string is missing');
    const huffman = ((this.#block[start] ?? 0) & 0x80) !== 0;
    const length = this.#integer(0x7f);
    const from = this.#position;
    const to = from + length;
    if (to > this.#block.length) throw invalid('a string is cut short');
    this.#position = to;
    if (!huffman) return this.#block.toString('latin1', from, to);
    const target = this.#scratchFor(huffmanDecodedMax(length));
    const written = decodeHuffman(this.#block, from, to, target);
    if (written < 0) throw invalid('a Huffman string is broken');
    return target.toString('latin1', 0, written);
  }

  #scratchFor(bytes: number): Buffer {
    if (bytes > SCRATCH_BYTES) return Buffer.allocUnsafe(bytes);
    this.#scratch ??= Buffer.allocUnsafe(SCRATCH_BYTES);
    return this.#scratch;
  }
}
