/** The same work at once and in turns, and sorting in steps. */

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { paced, runAtOnce, runInSlices, sortInSteps } from '../../src/base/steps.ts';

void t.test('property: sorting in steps is sorting, and stable', (t) => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(9), fc.nat()), { maxLength: 2_000 }), (items) => {
      const compare = ([a]: [number, number], [b]: [number, number]): number => a - b;
      const sorted = runAtOnce(sortInSteps(items, compare));
      t.strictSame(sorted, items.toSorted(compare));
    }),
    { numRuns: 50 },
  );
  t.end();
});

void t.test('other work gets its turn whenever a slice is spent', async (t) => {
  const clock = { ...createFakeClock(), nowMs: () => now };
  let now = 0;
  const seen: number[] = [];
  let turns = 0;
  const other = (): void => {
    turns++;
    if (seen.length < 100) setImmediate(other);
  };
  setImmediate(other);
  const work = function* (): Generator<undefined, string> {
    yield* paced(Array.from({ length: 100 }).keys(), 10, (item) => {
      now += 0.25;
      seen.push(item);
    });
    return 'done';
  };
  t.equal(await runInSlices(clock, work()), 'done');
  t.equal(seen.length, 100);
  t.equal(turns, 5, '2.5 ms between pauses, 5 ms a slice, 25 ms in all');
});
