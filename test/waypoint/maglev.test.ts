/** Maglev: equal shares, the same table whatever the order, few keys moved, made in steps. */

import { isDeepStrictEqual } from 'node:util';

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { hashText } from '../../src/base/hash.ts';
import { lookUp, MaglevBuilder, MAGLEV_PLACES } from '../../src/waypoint/maglev.ts';
import { MaglevTables } from '../../src/waypoint/maglev-tables.ts';

const named = (count: number, prefix = 'pod'): string[] =>
  Array.from({ length: count }, (_, index) => `${prefix}-${index}`);

function build(names: Iterable<string>) {
  const table = new MaglevBuilder(names).step(Infinity);
  if (table === undefined) throw new Error('Not all places were filled');
  return table;
}

const owners = (names: Iterable<string>): string[] => {
  const table = build(names);
  return [...table.places].map((index) => table.names[index] ?? '');
};
const any = (): boolean => true;

t.test('shares differ by less than 1 % of the mean for up to 100 endpoints', async (t) => {
  for (const count of [1, 2, 3, 10, 100]) {
    const shares = new Map<string, number>();
    for (const owner of owners(named(count))) shares.set(owner, (shares.get(owner) ?? 0) + 1);
    const mean = MAGLEV_PLACES / count;
    t.equal(shares.size, count);
    t.ok([...shares.values()].every((share) => Math.abs(share - mean) <= 1 + mean * 0.01));
  }
});

t.test(
  'one endpoint less moves only its own keys and few others; the order decides nothing',
  async () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 2, maxLength: 40 }),
        (names) => {
          const before = owners(names);
          if (!isDeepStrictEqual(owners(names.toReversed()), before)) return false;
          const [gone = ''] = names;
          const after = owners(names.slice(1));
          const moved = before.filter((owner, place) => owner !== gone && owner !== after[place]);
          return !after.includes(gone) && moved.length <= MAGLEV_PLACES * 0.1;
        },
      ),
      { numRuns: 12 },
    );
  },
);

t.test('steps of any size give the same table', async (t) => {
  const names = named(7);
  const builder = new MaglevBuilder(names);
  let steps = 0;
  let table = builder.step(1_000);
  for (; table === undefined; steps++) table = builder.step(1_000);
  t.ok(steps >= 65, `${steps} steps, since places that are taken are looked at too`);
  t.strictSame([...table.places], [...build(names).places]);
});

t.test('keys of one that is out spread over all others', async (t) => {
  const table = build(named(5));
  const moved = new Map<string, number>();
  for (let key = 0; key < 20_000; key++) {
    const hash = hashText(`user-${key}`, 1);
    if (lookUp(table, hash, any) !== 'pod-0') continue;
    const other = lookUp(table, hash, (name) => name !== 'pod-0') ?? '';
    moved.set(other, (moved.get(other) ?? 0) + 1);
  }
  t.equal(moved.size, 4);
  t.ok([...moved.values()].every((count) => count > 800));
  t.equal(
    lookUp(table, 1, () => false),
    undefined,
  );
  t.equal(lookUp(build([]), 1, any), undefined);
  t.equal(
    lookUp(table, 1, (name) => name === 'pod-3'),
    'pod-3',
    'the last one is always found',
  );
});

t.test('the table of before serves until the next is ready', async (t) => {
  const clock = createFakeClock();
  const tables = new MaglevTables(clock);
  const first = tables.current(1, () => named(3));
  t.equal(first.names.length, 3, 'the first is there at once');
  t.equal(
    tables.current(2, () => named(4)),
    first,
  );
  t.equal(
    tables.current(3, () => named(5)),
    first,
    'one is made at a time',
  );
  await clock.advance(0);
  const second = tables.current(3, () => named(5));
  t.equal(second.names.length, 4);
  await clock.advance(0);
  t.equal(tables.current(3, () => named(5)).names.length, 5);
});
