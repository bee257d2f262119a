/** The DER reader: what it refuses, that it agrees with another reader on what it takes, and its bounds (C44). */

import fc from 'fast-check';
import asn1 from 'node-forge/lib/asn1.js';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import {
  DER,
  DER_MAX_BYTES,
  DER_MAX_DEPTH,
  DER_MAX_VALUES,
  type DerValue,
  oidText,
  readDer,
  smallInteger,
  timeMs,
  wholeBitString,
} from '../../src/identity/der.ts';
import {
  bitString,
  boolean,
  encodeDer,
  encoded,
  explicit,
  implicit,
  integer,
  nullValue,
  octetString,
  oid,
  sequence,
  set,
  time,
  utf8String,
} from '../../src/identity/der-writer.ts';
import { createKeyPair } from '../../src/identity/keys.ts';
import { buildCertificate } from './shapes.ts';

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');

t.test('readDer refuses what is not DER', (t) => {
  const bad: readonly (readonly [string, string])[] = [
    ['nothing', ''],
    ['a tag alone', '30'],
    ['a length beyond the input', '3005 0201'],
    ['a long length beyond the input', '3082ffff 00'],
    ['a cut length', '3082 01'],
    ['an indefinite length', '3080 0201010000'],
    ['a length of four bytes', '308400000003 020101'],
    ['a long form where the short fits', '308103 020101'],
    ['a length with a leading zero', '30820003 020101'],
    ['bytes after the value', '0201 01 00'],
    ['a child that leaves its parent', '3003 020201'],
    ['a tag of several bytes', '1f8101 00'],
    ['a context tag of several bytes', 'bf8101 00'],
    ['a constructed string', '2403 040101'],
    ['a primitive sequence', '1003 020101'],
    ['a primitive set', '1103 020101'],
    ['end of contents', '0000'],
    ['a boolean of 01', '0101 01'],
    ['a boolean of two bytes', '0102 ffff'],
    ['an empty boolean', '0100'],
    ['an empty integer', '0200'],
    ['a padded integer', '0202 0001'],
    ['a padded negative integer', '0202 ffff'],
    ['an empty bit string', '0300'],
    ['eight unused bits', '0302 0800'],
    ['unused bits without bytes', '0301 01'],
    ['unused bits that are set', '0302 01ff'],
    ['a null with content', '0501 00'],
    ['an empty object identifier', '0600'],
    ['a padded arc', '0603 2a8001'],
    ['an arc without end', '0602 2a80'],
  ];
  for (const [name, bytes] of bad) {
    const result = readDer(hex(bytes));
    t.match(result, { ok: false, error: { code: 'MESH_DER_INVALID' } }, name);
  }
  t.end();
});

t.test('readDer keeps its bounds (C44)', (t) => {
  let nested: Buffer = hex('0500');
  for (let depth = 1; depth < DER_MAX_DEPTH; depth++) nested = wrap(nested);
  t.ok(readDer(nested).ok, 'as deep as allowed');
  t.notOk(readDer(wrap(nested)).ok, 'one deeper');
  let deep: Buffer = hex('0500');
  while (deep.length < DER_MAX_BYTES - 8) deep = wrap(deep);
  t.notOk(readDer(deep).ok, 'as deep as fits');
  const many = (count: number): Buffer =>
    wrap(Buffer.concat(Array.from({ length: count }, () => hex('0500'))));
  t.ok(readDer(many(DER_MAX_VALUES - 1)).ok);
  t.notOk(readDer(many(DER_MAX_VALUES)).ok);
  t.ok(readDer(wrap(octets(DER_MAX_BYTES - 8))).ok);
  t.notOk(readDer(wrap(octets(DER_MAX_BYTES))).ok);
  t.end();
});

function wrap(content: Buffer): Buffer {
  const { length } = content;
  if (length < 0x80) return Buffer.concat([Buffer.of(0x30, length), content]);
  if (length < 0x100) return Buffer.concat([Buffer.of(0x30, 0x81, length), content]);
  if (length < 0x10000) {
    return Buffer.concat([Buffer.of(0x30, 0x82, length >> 8, length & 0xff), content]);
  }
  return Buffer.concat([
    Buffer.of(0x30, 0x83, length >> 16, (length >> 8) & 0xff, length & 0xff),
    content,
  ]);
}

function octets(length: number): Buffer {
  return Buffer.concat([
    Buffer.of(0x04, 0x82, (length - 4) >> 8, (length - 4) & 0xff),
    Buffer.alloc(length - 4),
  ]);
}

t.test('what the writer makes, the reader reads', (t) => {
  const der = encodeDer(
    sequence(
      boolean(true),
      integer(Buffer.of(0, 0, 0x80)),
      integer(Buffer.of()),
      integer(Buffer.of(0, 0, 5)),
      bitString(Buffer.of(0xa0), 5),
      octetString(Buffer.from('bytes')),
      nullValue(),
      oid('1.2.840.113549.1.9.14'),
      utf8String('gr\u00fc\u00df'),
      set(time(Date.UTC(2049, 11, 31, 23, 59, 59)), time(Date.UTC(2050, 0, 1))),
      explicit(3, implicit(6, Buffer.from('uri'))),
      encoded(hex('3003020107')),
    ),
  );
  const { children } = unwrap(readDer(der));
  t.same(
    children.map(({ tag }) => tag),
    [0x01, 0x02, 0x02, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0c, 0x31, 0xa3, 0x30],
  );
  t.same(children[1]?.content, Buffer.of(0, 0x80));
  t.same(
    children.slice(1, 4).map((one) => smallInteger(one)),
    [128, 0, 5],
  );
  t.equal(wholeBitString(children[4]), undefined, 'not on a byte boundary');
  t.equal(children[7] && oidText(children[7]), '1.2.840.113549.1.9.14');
  t.equal(children[8]?.content.toString(), 'gr\u00fc\u00df');
  t.same(children[9]?.children.map(timeMs), [
    Date.UTC(2049, 11, 31, 23, 59, 59),
    Date.UTC(2050, 0, 1),
  ]);
  t.equal(children[10]?.children[0]?.content.toString(), 'uri');
  t.same(children[11]?.raw, hex('3003020107'));
  t.end();
});

t.test('timeMs takes the two forms of RFC 5280 and no other', (t) => {
  const value = (tag: number, text: string): DerValue =>
    unwrap(readDer(Buffer.concat([Buffer.of(tag, text.length), Buffer.from(text, 'latin1')])));
  t.equal(timeMs(value(DER.UTC_TIME, '490101000000Z')), Date.UTC(2049, 0, 1));
  t.equal(timeMs(value(DER.UTC_TIME, '500101000000Z')), Date.UTC(1950, 0, 1));
  t.equal(
    timeMs(value(DER.GENERALIZED_TIME, '20260228235959Z')),
    Date.UTC(2026, 1, 28, 23, 59, 59),
  );
  for (const text of [
    '4901010000Z',
    '490101000000+0100',
    '490231000000Z',
    '491301000000Z',
    '4901010000000Z',
    '49010100000 Z',
  ]) {
    t.equal(timeMs(value(DER.UTC_TIME, text)), undefined, text);
  }
  for (const text of ['20260101000000', '20260101000000.5Z', '20260101246000Z', '2026010100000Z']) {
    t.equal(timeMs(value(DER.GENERALIZED_TIME, text)), undefined, text);
  }
  t.equal(timeMs(value(DER.UTF8_STRING, '20260101000000Z')), undefined);
  t.end();
});

t.test('smallInteger takes what fits and is not negative', (t) => {
  t.equal(smallInteger(unwrap(readDer(hex('02047fffffff')))), 0x7fffffff);
  t.equal(smallInteger(unwrap(readDer(hex('0201ff')))), undefined);
  t.equal(smallInteger(unwrap(readDer(hex('02050080000000')))), undefined);
  t.equal(smallInteger(unwrap(readDer(hex('0401ff')))), undefined);
  t.end();
});

/** Forge's reading of the same bytes, as far as it keeps what we compare. */
function agrees(value: DerValue, other: ForgeValue): boolean {
  const tag = other.tagClass | other.type | (other.constructed ? 0x20 : 0);
  if (tag !== value.tag) return false;
  if (!Array.isArray(other.value)) return value.content.toString('latin1') === other.value;
  const { children } = value;
  return (
    children.length === other.value.length &&
    children.every((child, index) => {
      const twin = other.value[index];
      return typeof twin === 'object' && agrees(child, twin);
    })
  );
}

interface ForgeValue {
  readonly tagClass: number;
  readonly type: number;
  readonly constructed: boolean;
  readonly value: string | readonly ForgeValue[];
}

function readWithForge(bytes: Buffer): ForgeValue {
  const options = { decodeBitStrings: false } as unknown as boolean;
  return asn1.fromDer(bytes.toString('latin1'), options);
}

const BMP_STRING = 30;

function hasBmpTag(value: DerValue): boolean {
  // Forge turns [30] of any class into two-byte characters.
  return (value.tag & 0x1f) === BMP_STRING || value.children.some(hasBmpTag);
}

t.test('whatever readDer takes, node-forge reads the same (C44)', (t) => {
  const certificate = buildCertificate(createKeyPair().publicKey, {}).leaf;
  const mutated = fc
    .array(fc.tuple(fc.nat(certificate.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
    .map((changes) => {
      const copy = Buffer.from(certificate);
      for (const [at, byte] of changes) copy[at] = byte;
      return copy;
    });
  const small = fc.uint8Array({ maxLength: 24 }).map((bytes) => Buffer.from(bytes));
  fc.assert(
    fc.property(fc.oneof(mutated, small, small.map(wrap)), (bytes) => {
      const result = readDer(bytes);
      if (!result.ok) return result.error.code === 'MESH_DER_INVALID';
      return hasBmpTag(result.value) || agrees(result.value, readWithForge(bytes));
    }),
    { numRuns: 3000 },
  );
  t.end();
});

t.test('readDer gives views that tile the input', (t) => {
  const tree = fc.letrec<{ node: Buffer }>((tie) => ({
    node: fc.oneof(
      { maxDepth: 4 },
      fc.uint8Array({ maxLength: 200 }).map((bytes) => encodeDer(octetString(Buffer.from(bytes)))),
      fc.array(tie('node'), { maxLength: 4 }).map((items) => wrap(Buffer.concat(items))),
    ),
  })).node;
  const tiles = (value: DerValue): boolean =>
    (value.tag & 0x20) === 0 ||
    (Buffer.concat(value.children.map(({ raw }) => raw)).equals(value.content) &&
      value.children.every(tiles));
  fc.assert(
    fc.property(tree, (bytes) => {
      const result = readDer(bytes);
      return result.ok && result.value.raw.equals(bytes) && tiles(result.value);
    }),
  );
  t.end();
});
