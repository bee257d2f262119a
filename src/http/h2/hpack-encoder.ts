/**
 * Writes header blocks (RFC 7541) with the static table and plain literals: no dynamic table, hence no state
 * and no order between blocks. The first block of a session starts with a table size update to 0, which
 * holds whatever table size the peer's SETTINGS may allow later (RFC 9113 section 4.3.1).
 */

import { MeshError } from '../../base/errors.ts';
import type { HeaderList } from './contract.ts';
import { STATIC_NAME_INDEX, STATIC_TABLE } from './hpack-static.ts';

/** First byte, an index and two lengths, at their longest. */
const FIELD_EXTRA_BYTES = 1 + 3 * 5;
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
export const TABLE_SIZE_ZERO = 0x20;

/** An upper bound of the block's size. Throws `MESH_MESSAGE_INVALID` for fields that may not be sent. */
export function measureHeaders(headers: HeaderList): number {
  let bytes = 1;
  for (const [name, value] of headers) {
    if (!NAME.test(name) || !VALUE.test(value)) {
      const shown = name.slice(0, 64);
      throw new MeshError(
        'MESH_MESSAGE_INVALID',
        `Cannot send the header "${shown}": bad characters`,
      );
    }
    bytes += name.length + value.length + FIELD_EXTRA_BYTES;
  }
  return bytes;
}

/** Writes the block at `offset` and returns its end. `target` must have room for `measureHeaders`. */
export function encodeHeaders(headers: HeaderList, target: Buffer, offset: number): number {
  let end = offset;
  for (const [name, value] of headers) {
    const index = STATIC_NAME_INDEX.get(name) ?? 0;
    const whole = index === 0 ? 0 : findWhole(index, name, value);
    if (whole !== 0) {
      target[end++] = 0x80 | whole;
      continue;
    }
    end = writeInteger(target, end, SECRET_NAMES.has(name) ? 0x10 : 0, 0x0f, index);
    if (index === 0) end = writeString(target, end, name);
    end = writeString(target, end, value);
  }
  return end;
}

/** Entries of one name stand together in the static table. */
function findWhole(first: number, name: string, value: string): number {
  for (let index = first; STATIC_TABLE[index - 1]?.[0] === name; index++) {
    // An empty value in the static table stands for "name only".
    if (value !== '' && STATIC_TABLE[index - 1]?.[1] === value) return index;
  }
  return 0;
}

function writeString(target: Buffer, offset: number, text: string): number {
  const start = writeInteger(target, offset, 0, 0x7f, text.length);
  return start + target.write(text, start, 'latin1');
}

function writeInteger(
  target: Buffer,
  offset: number,
  flags: number,
  mask: number,
  value: number,
): number {
  let end = offset;
  if (value < mask) {
    target[end++] = flags | value;
    return end;
  }
  target[end++] = flags | mask;
  let rest = value - mask;
  while (rest >= 0x80) {
    target[end++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  target[end++] = rest;
  return end;
}
