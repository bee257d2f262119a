/**
 * Writes header blocks (RFC 7541) with the static table and plain literals: no dynamic table, hence no state
 * and no order between blocks. The first block of a session starts with a table size update to 0, which
 * holds whatever table size the peer's SETTINGS may allow later (RFC 9113 section 4.3.1).
 */

import { MeshError } from '../../base/errors.ts';
import type { HeaderList } from './contract.ts';
import { STATIC_NAME_INDEX, STATIC_TABLE } from './hpack-static.ts';

/** Names that one encoder remembers the form of; a peer may choose ever other ones. */
const NAMES_MAX = 256;
/** Never to be indexed by anybody on the way (RFC 7541 section 7.1.3). */
const SECRET_NAMES: ReadonlySet<string> = new Set([
  'authorization',
  'cookie',
  'proxy-authorization',
  'set-cookie',
]);
/** Latin-1 without controls: what goes out as one byte per character and cannot end a line elsewhere. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const NAME = /^:?[!#$%&'*+\-.^_`|~0-9a-z]+$/;

/** `[dynamic table size update to 0]` */
export const TABLE_SIZE_ZERO = '\x20';

/** What stands before a value with this name, and the values that stand in the table whole. */
interface KnownName {
  readonly start: string;
  readonly whole: ReadonlyMap<string, string> | undefined;
}

/**
 * One per session, for what it remembers. A block is text with a character for each byte: it is written out with one
 * call into native code instead of two for each field.
 */
export class HeaderEncoder {
  readonly #names = new Map<string, KnownName>();

  /** Throws `MESH_MESSAGE_INVALID` for fields that may not be sent. */
  encode(headers: HeaderList): string {
    let block = '';
    for (const [name, value] of headers) {
      const known = this.#names.get(name) ?? this.#learn(name);
      const whole = known.whole?.get(value);
      if (whole !== undefined) block += whole;
      else if (VALUE.test(value)) block += known.start + integer(0, 0x7f, value.length) + value;
      else throw unfit(name);
    }
    return block;
  }

  #learn(name: string): KnownName {
    if (!NAME.test(name)) throw unfit(name);
    const index = STATIC_NAME_INDEX.get(name) ?? 0;
    const literal = index === 0 ? integer(0, 0x7f, name.length) + name : '';
    const start = integer(SECRET_NAMES.has(name) ? 0x10 : 0, 0x0f, index) + literal;
    const known = { start, whole: index === 0 ? undefined : wholeEntries(index, name) };
    if (this.#names.size >= NAMES_MAX) this.#names.clear();
    this.#names.set(name, known);
    return known;
  }
}

function unfit(name: string): MeshError {
  const shown = name.slice(0, 64);
  return new MeshError('MESH_MESSAGE_INVALID', `Cannot send the header "${shown}": bad characters`);
}

/** Entries of one name stand together in the static table. An empty value there stands for "name only". */
function wholeEntries(first: number, name: string): ReadonlyMap<string, string> | undefined {
  const entries = new Map<string, string>();
  for (let index = first; STATIC_TABLE[index - 1]?.[0] === name; index++) {
    const value = STATIC_TABLE[index - 1]?.[1] ?? '';
    if (value !== '' && !entries.has(value)) entries.set(value, integer(0x80, 0x7f, index));
  }
  return entries.size === 0 ? undefined : entries;
}

/** RFC 7541 section 5.1. */
function integer(flags: number, mask: number, value: number): string {
  if (value < mask) return String.fromCharCode(flags | value);
  let text = String.fromCharCode(flags | mask);
  let rest = value - mask;
  while (rest >= 0x80) {
    text += String.fromCharCode((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  return text + String.fromCharCode(rest);
}
