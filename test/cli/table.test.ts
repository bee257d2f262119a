/** Tables, ages and symbols: as kubectl does it, with colours only where they are wanted. */

import t from 'tap';

import { createStyle } from '../../src/cli/style.ts';
import { formatBytes, formatDuration, formatTable } from '../../src/cli/table.ts';

t.test('columns are as wide as their widest cell, colours have no width', async (t) => {
  const style = createStyle({ color: true, unicode: true });
  const rows = [
    [style.paint('good', 'ab'), 1, undefined],
    ['abcd', 10, ''],
  ];
  const text = formatTable(['A', 'N', 'LAST'], rows);
  // eslint-disable-next-line no-control-regex -- escape sequences are control characters
  t.equal(text.replaceAll(/\u001B\[\d+m/g, ''), 'A       N   LAST\nab      1   -\nabcd   10   -\n');
  t.equal(formatTable(['A'], [], { headers: false }), '');
  t.equal(formatTable(['A', 'B'], [['x', undefined]]), 'A   B\nx   -\n', 'no data is no number');
});

t.test('durations have one unit, as coarse as still tells two apart', async (t) => {
  const seconds = [0, 5, 119, 120, 7199, 7200, 172_799, 172_800].map((s) =>
    formatDuration(s * 1000),
  );
  t.strictSame(seconds, ['0s', '5s', '119s', '2m', '119m', '2h', '47h', '2d']);
  t.equal(formatDuration(-5000), '-5s');
  t.equal(formatDuration(Number.NaN), '-');
  t.equal(formatBytes(131_000_000), '131 MB');
  t.equal(formatBytes(1_310_000_000), '1.3 GB');
});

t.test(
  'symbols become words without Unicode, and nothing is coloured unless it is wanted',
  async (t) => {
    const plain = createStyle({ color: false, unicode: false });
    t.strictSame(
      ['good', 'warning', 'problem'].map((level) => plain.symbol(level as 'good')),
      ['ok', 'warn', 'FAIL'],
    );
    t.equal(plain.bold('x'), 'x');
    t.ok(createStyle({ color: true, unicode: true }).symbol('problem').startsWith('\u001B[31m×'));
  },
);
