/** GEP-2257 durations: what they mean, what is refused, and that hostile text never throws (T100). */

import fc from 'fast-check';
import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { Fields, type FieldProblem } from '../../src/controlplane/manifest/fields.ts';
import { parseDuration } from '../../src/core/duration.ts';

t.test('durations are milliseconds', async (t) => {
  const rows: [string, number][] = [
    ['0s', 0],
    ['250ms', 250],
    ['1m', 60_000],
    ['1h30m', 5_400_000],
    ['1s500ms', 1_500],
    ['10s', 10_000],
    ['99999h', 359_996_400_000],
  ];
  for (const [text, ms] of rows) t.equal(unwrap(parseDuration(text)), ms, text);
});

t.test('what is not a duration is refused, MESH_MANIFEST_INVALID', async (t) => {
  const bad = ['', '1', '1.5s', '-1s', ' 1s', '1s ', '1d', '1us', '100000s', '1h1h1h1h1h', 's'];
  for (const text of bad) {
    const result = parseDuration(text);
    t.equal(result.ok, false, text);
    if (!result.ok) t.equal(result.error.code, 'MESH_MANIFEST_INVALID');
  }
});

t.test('any text is read or refused', async () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      const result = parseDuration(text);
      return !result.ok || (Number.isSafeInteger(result.value) && result.value >= 0);
    }),
  );
});

t.test('a field that is a duration stays within its bounds', async (t) => {
  const problems: FieldProblem[] = [];
  const fields = Fields.of({ a: '5s', b: '5m', c: 'soon', d: 5 }, [], problems);
  t.equal(fields?.durationMs('a', 0, 60_000), 5_000);
  t.equal(fields?.durationMs('b', 0, 60_000), undefined);
  t.equal(fields?.durationMs('c', 0, 60_000), undefined);
  t.equal(fields?.durationMs('d', 0, 60_000), undefined);
  t.equal(fields?.durationMs('e', 0, 60_000), undefined);
  t.match(
    problems.map(({ message }) => message),
    [/from 0 ms to 60000 ms/, /write it as/, /must be a string/],
  );
});
