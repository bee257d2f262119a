/**
 * Writing DER, over node-forge's ASN.1 part. Forge works on binary strings; nothing outside this file
 * sees one. Values are built from our own data only, so faults here are bugs, not input errors.
 */

import type { asn1 as Asn1 } from 'node-forge';

import asn1 from 'node-forge/lib/asn1.js';

export type DerNode = Asn1.Asn1;

const UNIVERSAL = 0x00 as Asn1.Class;
const CONTEXT = 0x80 as Asn1.Class;

export function encodeDer(node: DerNode): Buffer {
  return Buffer.from(asn1.toDer(node).getBytes(), 'latin1');
}

export function sequence(...items: readonly DerNode[]): DerNode {
  return asn1.create(UNIVERSAL, 16, true, [...items]);
}

export function set(...items: readonly DerNode[]): DerNode {
  return asn1.create(UNIVERSAL, 17, true, [...items]);
}

export function oid(dotted: string): DerNode {
  return asn1.create(UNIVERSAL, 6, false, asn1.oidToDer(dotted).getBytes());
}

/** A non-negative INTEGER from its big-endian bytes. */
export function integer(bytes: Buffer): DerNode {
  // Forge strips one leading zero only, so the minimal form is made here.
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start++;
  const trimmed = bytes.subarray(start);
  const signed = (trimmed[0] ?? 0) >= 0x80 || trimmed.length === 0;
  return primitive(2, signed ? Buffer.concat([Buffer.from([0]), trimmed]) : trimmed);
}

export function boolean(value: boolean): DerNode {
  return primitive(1, Buffer.from([value ? 0xff : 0]));
}

export function octetString(bytes: Buffer): DerNode {
  return primitive(4, bytes);
}

/** A BIT STRING; `unusedBits` of its last byte do not count. */
export function bitString(bytes: Buffer, unusedBits: number = 0): DerNode {
  return primitive(3, Buffer.concat([Buffer.from([unusedBits]), bytes]));
}

export function nullValue(): DerNode {
  return primitive(5, Buffer.alloc(0));
}

export function utf8String(text: string): DerNode {
  return primitive(12, Buffer.from(text, 'utf8'));
}

/** UTCTime until 2049, GeneralizedTime from 2050 (RFC 5280, 4.1.2.5); whole seconds, rounded down. */
export function time(ms: number): DerNode {
  const digits = new Date(ms).toISOString().replaceAll(/[-:T]|\.\d+Z/g, '');
  const isLate = Number(digits.slice(0, 4)) >= 2050;
  const text = `${isLate ? digits : digits.slice(2)}Z`;
  return primitive(isLate ? 24 : 23, Buffer.from(text, 'latin1'));
}

/** `[tag] IMPLICIT` around primitive bytes. */
export function implicit(tag: number, bytes: Buffer): DerNode {
  return asn1.create(CONTEXT, tag, false, bytes.toString('latin1'));
}

/** `[tag] EXPLICIT`, or IMPLICIT over a SEQUENCE OF or SET OF, around values. */
export function explicit(tag: number, ...items: readonly DerNode[]): DerNode {
  return asn1.create(CONTEXT, tag, true, [...items]);
}

/** A value that exists as DER already (a key, a name): put in as it is. `der` must be one value. */
export function encoded(der: Buffer): DerNode {
  // Without decoding bit strings, forge gives back the very bytes of anything that is DER.
  const options = { decodeBitStrings: false } as unknown as boolean;
  return asn1.fromDer(der.toString('latin1'), options);
}

function primitive(type: number, bytes: Buffer): DerNode {
  return asn1.create(UNIVERSAL, type, false, bytes.toString('latin1'));
}
