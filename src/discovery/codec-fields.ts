/**
 * Reading single fields of a received message: each function checks one kind of value against its bound and
 * throws a `MeshError`, which `decodeBounded` turns into a `Result`. Nothing else in the codecs throws.
 */

import { fromBinary, type DescMessage, type MessageShape } from '@bufbuild/protobuf';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { addressBytes, addressFromBytes, type Cidr, type IpAddress } from '../core/address.ts';

/** The largest single resource; a policy with some 20,000 addresses fits. */
export const RESOURCE_BYTES_MAX = 1_048_576;
/** Names, hostnames and labels; Kubernetes' own limit is 253, a uid joins five of them. */
export const NAME_CHARS_MAX = 1_300;

export function invalidField(field: string, reason: string): MeshError {
  return new MeshError('MESH_MESSAGE_INVALID', `Cannot read field "${field}": ${reason}`, {
    details: { field },
  });
}

/** Parses `bytes` as `schema` and hands the message to `read`; whatever is thrown becomes the error. */
export function decodeBounded<S extends DescMessage, T>(
  schema: S,
  bytes: Uint8Array,
  read: (message: MessageShape<S>) => T,
  bytesMax: number = RESOURCE_BYTES_MAX,
): Result<T> {
  try {
    if (bytes.length > bytesMax) {
      throw invalidField(schema.name, `${bytes.length} bytes, at most ${bytesMax}`);
    }
    return ok(read(fromBinary(schema, bytes)));
  } catch (error) {
    if (error instanceof MeshError) return fail(error);
    const reason = error instanceof Error ? error.message : String(error);
    const message = `Cannot read message "${schema.typeName}": ${reason}`;
    return fail(new MeshError('MESH_MESSAGE_INVALID', message, { cause: error }));
  }
}

export function readText(field: string, value: string, charsMax: number = NAME_CHARS_MAX): string {
  if (value.length > charsMax) {
    throw invalidField(field, `${value.length} characters, at most ${charsMax}`);
  }
  return value;
}

export function readRequired(field: string, value: string, charsMax?: number): string {
  if (value === '') throw invalidField(field, 'empty');
  return readText(field, value, charsMax);
}

/** `value` if `isValid` accepts it. */
export function readChecked(
  field: string,
  value: string,
  isValid: (text: string) => boolean,
): string {
  if (!isValid(value)) {
    throw invalidField(field, `${JSON.stringify(value.slice(0, 80))} is malformed`);
  }
  return value;
}

export function readList<T, U>(
  field: string,
  values: readonly T[],
  countMax: number,
  read: (value: T) => U,
): U[] {
  if (values.length > countMax) {
    throw invalidField(field, `${values.length} entries, at most ${countMax}`);
  }
  return values.map((value) => read(value));
}

/** A TCP port; 0 only where `zeroAllowed`. */
export function readPort(field: string, value: number, zeroAllowed: boolean = false): number {
  if (value > 65_535 || (value === 0 && !zeroAllowed)) {
    throw invalidField(field, `${value} is not a port`);
  }
  return value;
}

export function readAddress(field: string, bytes: Uint8Array): IpAddress {
  const address = addressFromBytes(bytes);
  if (!address.ok) throw invalidField(field, address.error.message);
  return address.value;
}

/**
 * A block of addresses; `length` undefined means the whole address. An IPv4 block inside `::ffff:0:0/96`
 * becomes an IPv4 block, as `addressFromBytes` does with addresses; bits after the prefix are cleared.
 */
export function readCidr(field: string, bytes: Uint8Array, length: number | undefined): Cidr {
  const address = readAddress(field, bytes);
  const own = addressBytes(address);
  const mappedBits = (bytes.length - own.length) * 8;
  const prefixLength = (length ?? bytes.length * 8) - mappedBits;
  if (prefixLength < 0 || prefixLength > own.length * 8) {
    throw invalidField(field, `prefix length ${length ?? 0} does not fit ${address}`);
  }
  for (let bit = prefixLength; bit < own.length * 8; bit++) {
    own[bit >> 3] = (own[bit >> 3] ?? 0) & ~(0x80 >> (bit & 7));
  }
  return { ip: readAddress(field, own), prefixLength };
}

/** A signed or unsigned 64-bit field as a number that a double holds exactly. */
export function readSafeInteger(field: string, value: bigint): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < 0) throw invalidField(field, 'out of range');
  return number;
}
