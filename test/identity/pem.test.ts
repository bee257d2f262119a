/** PEM: round trips, bounds and refusals. */

import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import {
  formatPem,
  parseOnePem,
  parsePem,
  PEM_MAX_BLOCKS,
  PEM_MAX_CHARS,
} from '../../src/identity/pem.ts';

const block = formatPem(
  'CERTIFICATE',
  Buffer.from('some bytes that are long enough for two lines of text'),
);

t.test('parsePem reads back what formatPem wrote', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { maxLength: 5 }),
      fc.constantFrom('', '\n', '  \r\n\n'),
      (blocks, gap) => {
        const ders = blocks.map((bytes) => Buffer.from(bytes));
        const text = ders.map((der) => formatPem('CERTIFICATE', der)).join(gap);
        const parsed = parsePem('CERTIFICATE', text);
        return parsed.ok && Buffer.concat(parsed.value).equals(Buffer.concat(ders));
      },
    ),
  );
  t.end();
});

t.test('parsePem refuses everything else', (t) => {
  const bad: readonly (readonly [string, string])[] = [
    ['text before a block', `Certificate:\n${block}`],
    ['text after a block', `${block}trailer`],
    ['another label', block.replaceAll('CERTIFICATE', 'PRIVATE KEY')],
    ['labels that differ', block.replace('END CERTIFICATE', 'END CERTIFICATE REQUEST')],
    ['no end', block.slice(0, -30)],
    ['a header', block.replace('\n', '\nProc-Type: 4,ENCRYPTED\n')],
    ['not base64', block.replace('\n', '\n****')],
    ['base64url', block.replace('\n', '\n__--')],
    ['bits after the end', '-----BEGIN CERTIFICATE-----\nAB==\n-----END CERTIFICATE-----'],
    ['no padding', '-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----'],
    ['empty', '-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----'],
    ['too long', ' '.repeat(PEM_MAX_CHARS + 1)],
    ['too many', block.repeat(PEM_MAX_BLOCKS + 1)],
  ];
  for (const [name, text] of bad) {
    t.match(
      parsePem('CERTIFICATE', text),
      { ok: false, error: { code: 'MESH_DER_INVALID' } },
      name,
    );
  }
  t.same(unwrap(parsePem('CERTIFICATE', ' \n')), []);
  t.notOk(parseOnePem('CERTIFICATE', '').ok, 'none where one must be');
  t.notOk(parseOnePem('CERTIFICATE', block + block).ok, 'two where one must be');
  t.ok(parseOnePem('CERTIFICATE', block).ok);
  t.end();
});

t.test('parsePem survives any text', (t) => {
  const piece = fc.constantFrom(
    '-----BEGIN CERTIFICATE-----',
    '-----END CERTIFICATE-----',
    '-----',
    '\n',
    'AAAA',
    '=',
    'BEGIN ',
    block,
  );
  fc.assert(
    fc.property(
      fc.array(fc.oneof(piece, fc.string({ maxLength: 8 })), { maxLength: 10 }),
      (parts) => {
        const result = parsePem('CERTIFICATE', parts.join(''));
        return result.ok || result.error.code === 'MESH_DER_INVALID';
      },
    ),
    { numRuns: 500 },
  );
  t.end();
});
