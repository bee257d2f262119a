/** YAML of any kind: bounded in time and memory, exact about lines, and harmless (T100). */

import fc from 'fast-check';
import t from 'tap';
import { stringify } from 'yaml';

import { createSystemClock } from '../../src/base/clock.ts';
import { createTimeSlice } from '../../src/base/time-slice.ts';
import {
  DEPTH_MAX,
  DOCUMENT_CHARS_MAX,
  DOCUMENTS_MAX,
  readYamlDocuments,
  type YamlDocument,
} from '../../src/files/yaml-documents.ts';

async function readAll(text: string): Promise<YamlDocument[]> {
  const found: YamlDocument[] = [];
  const slice = createTimeSlice(createSystemClock());
  for await (const document of readYamlDocuments(text, slice)) found.push(document);
  return found;
}

async function problemOf(text: string): Promise<string> {
  const documents = await readAll(text);
  const problem = documents.find((document) => document.problem !== undefined)?.problem;
  return problem === undefined ? '' : `${problem.line}: ${problem.message}`;
}

t.test('documents with the lines of their fields', async (t) => {
  const text = [
    '# first',
    'a: 1',
    'b:',
    '  - x: y',
    '    z: [1, 2]',
    '---',
    '---',
    'c: &anchor { d: true }',
    'e: *anchor',
    '...',
    '',
  ].join('\n');
  const [first, second, ...rest] = await readAll(text);
  t.equal(rest.length, 0, 'an empty document is none');
  t.same(JSON.parse(JSON.stringify(first?.value)), { a: 1, b: [{ x: 'y', z: [1, 2] }] });
  t.equal(first?.line, 2);
  t.equal(first?.lineOf(['b']), 3);
  t.equal(first?.lineOf(['b', 0, 'z']), 5);
  t.equal(first?.lineOf(['b', 0, 'missing', 'below']), 4, 'the nearest thing that exists');
  t.equal(first?.lineOf(['b', 7]), 3);
  t.same(JSON.parse(JSON.stringify(second?.value)), { c: { d: true }, e: { d: true } });
  t.equal(second?.lineOf(['e', 'd']), 8, 'through an alias to where it is written');
});

t.test('what is refused, with its line', async (t) => {
  const rows: [string, RegExp][] = [
    ['a: 1\nb: [1\n', /^\d: /],
    ['a: 1\na: 2\n', /^2: Key "a" is repeated/],
    ['a: *nobody\n', /^1: Alias "nobody" has no anchor/],
    ['a: &x [*x]\n', /^1: Alias "x" has no anchor/],
    ['b: &x {c: 1}\na:\n  <<: *x\n', /^3: Merge keys/],
    ['a: {"<<": 1}\n', /^$/],
    ['? [1, 2]\n: a\n', /^1: A key must be text/],
    ['a: !!binary aGVsbG8=\n', /^$/],
  ];
  for (const [text, expected] of rows)
    t.match(await problemOf(text), expected, JSON.stringify(text));
});

t.test('one bad document leaves the others', async (t) => {
  const documents = await readAll('a: 1\n---\nb: [\n---\nc: 3\n');
  t.same(
    documents.map(({ problem }) => problem !== undefined),
    [false, true, false],
  );
});

t.test('T100 keys that are properties of every object are keys', async (t) => {
  const [document] = await readAll('__proto__: {polluted: 1}\nconstructor: 2\ntoString: 3\n');
  t.same(Object.keys(document?.value as object), ['__proto__', 'constructor', 'toString']);
  t.equal(({} as Record<string, unknown>)['polluted'], undefined);
});

t.test('T100 bombs end early', async (t) => {
  const nested = (levels: number): string =>
    Array.from({ length: levels }, (_, level) => `${' '.repeat(level)}a:`).join('\n');
  const lines = ['a: &a [x, x, x, x, x, x, x, x, x]'];
  for (let level = 1; level < 26; level++) {
    const name = String.fromCharCode(97 + level);
    const before = String.fromCharCode(96 + level);
    lines.push(`${name}: &${name} [${`*${before},`.repeat(9)}]`);
  }
  const rows: [string, string, RegExp][] = [
    ['flow nesting', '['.repeat(1 << 20), /nested more than/],
    ['object nesting', '{a: '.repeat(1 << 18), /nested more than/],
    ['dashes', '- '.repeat(1 << 20), /nested more than/],
    ['question marks', '? '.repeat(1 << 20), /nested more than/],
    ['block nesting', nested(2_000), /nested more than/],
    ['documents', '---\n'.repeat(DOCUMENTS_MAX + 10), /more than 50000 documents/],
    ['aliases', `a: &a 1\nb: [${'*a,'.repeat(101)}]`, /more than 100 aliases/],
    ['billion laughs', lines.join('\n'), /more than (100 aliases|500000 values)/],
    [
      'one long document',
      `a: ${'x'.repeat(1_000)}\n`.repeat(1_100),
      /more than 1048576 characters/,
    ],
    ['one long word', 'x'.repeat(DOCUMENT_CHARS_MAX + 2), /more than 1048576 characters/],
  ];
  for (const [what, text, expected] of rows) {
    const startMs = performance.now();
    t.match(await problemOf(text), expected, what);
    const tookMs = performance.now() - startMs;
    t.ok(tookMs < 10_000, `${what}: ${tookMs.toFixed(0)} ms`);
  }
  t.equal(await problemOf(nested(DEPTH_MAX)), '', 'what is just deep enough');
});

t.test('T100 many keys in one object take no quadratic time', async (t) => {
  const text = Array.from({ length: 20_000 }, (_, index) => `k${index}: 1`).join('\n');
  const startMs = performance.now();
  t.equal(await problemOf(text), '');
  t.match(await problemOf(`${text}\nk7: 1`), /^20001: Key "k7" is repeated/);
  t.ok(performance.now() - startMs < 5_000);
});

// `stringify` writes the key `<<` without quotes, and as such it is refused (above).
const plain = fc
  .jsonValue({ maxDepth: 4 })
  .filter((value) => !JSON.stringify(value).includes('"<<":'));

t.test('what YAML can write is read back as it was', async () => {
  const property = fc.asyncProperty(
    fc.array(plain, { minLength: 1, maxLength: 4 }),
    async (values) => {
      const documents = await readAll(values.map((value) => stringify(value)).join('---\n'));
      const read = documents.map(({ value, problem }) => problem ?? value);
      const expected = values.filter((value) => value !== null);
      const seen = read.filter((value) => value !== null);
      return JSON.stringify(seen) === JSON.stringify(expected);
    },
  );
  await fc.assert(property, { numRuns: 100 });
});

t.test('any text ends in documents or problems, never in an exception', async () => {
  const piece = fc.constantFrom(
    'a',
    ':',
    ' ',
    '\n',
    '-',
    '- ',
    '[',
    ']',
    '{',
    '}',
    '&a',
    '*a',
    '!',
    '|',
    '>',
    "'",
    '"',
    '#',
    '---',
    '...',
    '%YAML 1.1',
    '?',
    ',',
    '\t',
    '\0',
    '\r',
    '\u{feff}',
    '<<',
    '!!set',
    '__proto__',
    '0x1',
  );
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 200 }),
    fc.array(piece, { maxLength: 60 }).map((parts) => parts.join('')),
  );
  const property = fc.asyncProperty(text, async (yaml) => {
    for (const { value, problem, lineOf, line } of await readAll(yaml)) {
      if (problem === undefined) JSON.stringify(value);
      if (lineOf(['a', 0, 'b']) < 1 || line < 1) return false;
    }
    return true;
  });
  await fc.assert(property, { numRuns: 400 });
});
