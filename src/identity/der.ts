/**
 * Reading DER that came from outside: a strict, bounded, zero-copy reader.
 *
 * - Refused before anything is looked at: more than 64 KiB, deeper than 16, more than 4,096 values (C44).
 * - Only DER: definite minimal lengths, one-byte tags, primitive strings, minimal integers. What other
 *   readers accept beyond that (indefinite lengths, long tags, trailing bytes) is where two parsers come
 *   to see two certificates, so it is refused.
 * - Values are views of the input; nothing is copied, nothing is kept.
 *
 * node-forge writes our DER (der-writer.ts). Reading has its own code because forge's reader also takes BER,
 * shortens integers silently and does not keep the exact bytes that were signed; and a worker, which only
 * ever reads, then need not load forge (5 MB).
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';

export const DER_MAX_BYTES: number = 64 * 1024;
export const DER_MAX_DEPTH = 16;
export const DER_MAX_VALUES = 4096;

/** Identifier octets of the universal types we meet. */
export const DER = {
  BOOLEAN: 0x01,
  INTEGER: 0x02,
  BIT_STRING: 0x03,
  OCTET_STRING: 0x04,
  NULL: 0x05,
  OID: 0x06,
  UTF8_STRING: 0x0c,
  PRINTABLE_STRING: 0x13,
  IA5_STRING: 0x16,
  UTC_TIME: 0x17,
  GENERALIZED_TIME: 0x18,
  SEQUENCE: 0x30,
  SET: 0x31,
} as const;

const NO_CHILDREN: readonly DerValue[] = Object.freeze([]);

/** One value. `tag` is the identifier octet with its class and constructed bits. */
export class DerValue {
  readonly tag: number;
  /** The values inside, when the constructed bit is set. */
  readonly children: readonly DerValue[];
  readonly #bytes: Buffer;
  readonly #start: number;
  readonly #contentStart: number;
  readonly #end: number;

  constructor(bytes: Buffer, start: number, contentStart: number, end: number) {
    this.tag = bytes[start] ?? 0;
    this.children = (this.tag & 0x20) === 0 ? NO_CHILDREN : [];
    this.#bytes = bytes;
    this.#start = start;
    this.#contentStart = contentStart;
    this.#end = end;
  }

  // Views are made when asked for: most values of a certificate never are, and a view costs 0.1 us.
  /** The whole encoding: what a signature covers. */
  get raw(): Buffer {
    return this.#bytes.subarray(this.#start, this.#end);
  }

  get content(): Buffer {
    return this.#bytes.subarray(this.#contentStart, this.#end);
  }

  /** Length of `raw`. */
  get rawLength(): number {
    return this.#end - this.#start;
  }
}

/** Reads exactly one value that fills `bytes`. Errors are `MESH_DER_INVALID`. */
export function readDer(bytes: Buffer): Result<DerValue> {
  if (bytes.length > DER_MAX_BYTES) return refuse(`longer than ${DER_MAX_BYTES} bytes`);
  try {
    const budget = { values: DER_MAX_VALUES };
    const value = readValue(bytes, 0, bytes.length, 1, budget);
    if (value.rawLength !== bytes.length) return refuse('bytes follow the value');
    return ok(value);
  } catch (error) {
    if (error instanceof DerFault) return refuse(error.message);
    throw error;
  }
}

/** Dotted text of an OBJECT IDENTIFIER; an arc beyond 2^53 is written inexactly and so matches nothing known. */
export function oidText(value: DerValue): string {
  let text = '';
  let arc = 0;
  for (const byte of value.content) {
    arc = arc * 128 + (byte & 0x7f);
    if ((byte & 0x80) !== 0) continue;
    if (text === '') {
      const first = Math.min(2, Math.floor(arc / 40));
      text = `${first}.${arc - first * 40}`;
    } else {
      text += `.${arc}`;
    }
    arc = 0;
  }
  return text;
}

/** A non-negative INTEGER below 2^31, or undefined. */
export function smallInteger(value: DerValue): number | undefined {
  if (value.tag !== DER.INTEGER || value.content.length > 4) return undefined;
  const number = value.content.readIntBE(0, value.content.length);
  return number < 0 ? undefined : number;
}

/** Milliseconds since the epoch of a UTCTime or GeneralizedTime as RFC 5280 4.1.2.5 allows, or undefined. */
export function timeMs(value: DerValue): number | undefined {
  const text = value.content.toString('latin1');
  const pattern =
    value.tag === DER.UTC_TIME
      ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/
      : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/;
  if (value.tag !== DER.UTC_TIME && value.tag !== DER.GENERALIZED_TIME) return undefined;
  const match = pattern.exec(text);
  if (match === null) return undefined;
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = match
    .slice(1)
    .map(Number);
  const fullYear = value.tag === DER.UTC_TIME ? year + (year < 50 ? 2000 : 1900) : year;
  const iso = `${String(fullYear).padStart(4, '0')}-${two(month)}-${two(day)}T${two(hour)}:${two(minute)}:${two(second)}.000Z`;
  const ms = Date.parse(iso);
  // Date.parse rolls 31 February over into March; the round trip shows it.
  return Number.isNaN(ms) || new Date(ms).toISOString() !== iso ? undefined : ms;
}

/** The bits of a BIT STRING as bytes, or undefined unless it ends on a byte boundary. */
export function wholeBitString(value: DerValue | undefined): Buffer | undefined {
  if (value?.tag !== DER.BIT_STRING || value.content[0] !== 0) return undefined;
  return value.content.subarray(1);
}

class DerFault extends Error {}

interface Budget {
  values: number;
}

function refuse(reason: string): Result<never> {
  return fail(new MeshError('MESH_DER_INVALID', `Cannot read DER: ${reason}`));
}

function two(number: number): string {
  return String(number).padStart(2, '0');
}

function readValue(
  bytes: Buffer,
  start: number,
  end: number,
  depth: number,
  budget: Budget,
): DerValue {
  if (depth > DER_MAX_DEPTH) throw new DerFault(`nested deeper than ${DER_MAX_DEPTH}`);
  if (budget.values-- <= 0) throw new DerFault(`more than ${DER_MAX_VALUES} values`);
  const tag = bytes[start];
  if (tag === undefined || start + 2 > end) throw new DerFault('cut short');
  if ((tag & 0x1f) === 0x1f) throw new DerFault('a tag of several bytes');
  let at = start + 1;
  let length = bytes[at++] ?? 0;
  if (length >= 0x80) {
    const count = length & 0x7f;
    if (count === 0) throw new DerFault('an indefinite length');
    if (count > 3 || at + count > end) throw new DerFault('a length beyond the input');
    length = bytes.readUIntBE(at, count);
    at += count;
    if (length < 0x80 || length < 2 ** (8 * (count - 1))) {
      throw new DerFault('a length that is not minimal');
    }
  }
  const stop = at + length;
  if (stop > end) throw new DerFault('a length beyond the input');
  const value = new DerValue(bytes, start, at, stop);
  if ((tag & 0xc0) === 0) checkUniversal(value, bytes, at, stop);
  if ((tag & 0x20) === 0) return value;
  const children = value.children as DerValue[];
  while (at < stop) {
    const child = readValue(bytes, at, stop, depth + 1, budget);
    children.push(child);
    at += child.rawLength;
  }
  return value;
}

/** What DER (X.690 sections 8 and 10) demands of the universal types. */
function checkUniversal(value: DerValue, bytes: Buffer, start: number, end: number): void {
  const { tag } = value;
  const isConstructed = (tag & 0x20) !== 0;
  const isContainer = (tag | 0x20) === DER.SEQUENCE || (tag | 0x20) === DER.SET;
  if (isConstructed !== isContainer) throw new DerFault(`tag 0x${tag.toString(16)} is not DER`);
  const length = end - start;
  const first = bytes[start] ?? 0;
  switch (tag) {
    case DER.BOOLEAN:
      if (length !== 1 || (first !== 0 && first !== 0xff)) {
        throw new DerFault('a malformed boolean');
      }
      return;
    case DER.INTEGER: {
      const second = bytes[start + 1] ?? 0;
      const isPadded =
        length > 1 && ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80));
      if (length === 0 || isPadded) throw new DerFault('an integer that is not minimal');
      return;
    }
    case DER.BIT_STRING: {
      const unusedMask = (1 << first) - 1;
      const isMalformed =
        length === 0 ||
        first > 7 ||
        (first > 0 && (length === 1 || ((bytes[end - 1] ?? 0) & unusedMask) !== 0));
      if (isMalformed) throw new DerFault('a malformed bit string');
      return;
    }
    case DER.NULL:
      if (length !== 0) throw new DerFault('a malformed null');
      return;
    case DER.OID:
      checkOid(bytes, start, end);
      return;
    case 0x00:
      throw new DerFault('an end of contents');
    default:
  }
}

const OID_MAX_BYTES = 64;

function checkOid(bytes: Buffer, start: number, end: number): void {
  let isFresh = true;
  for (let at = start; at < end; at++) {
    const byte = bytes[at] ?? 0;
    if (isFresh && byte === 0x80) throw new DerFault('a malformed object identifier');
    isFresh = byte < 0x80;
  }
  if (end === start || end - start > OID_MAX_BYTES || !isFresh) {
    throw new DerFault('a malformed object identifier');
  }
}
