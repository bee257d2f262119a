/** The roster: order, leaving while it is walked, and that whoever left is garbage at once. */

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import fc from 'fast-check';
import t from 'tap';

import { Roster, type Place } from '../../src/base/roster.ts';

interface Guest {
  readonly name: number;
}

const names = (roster: Roster<Guest>): number[] =>
  roster.places().flatMap(({ item }) => (item === undefined ? [] : [item.name]));

t.test('keeps the order of arrival, whoever leaves between (property)', (t) => {
  const step = fc.oneof(
    fc.constant({ kind: 'add' as const, at: 0 }),
    fc.constant({ kind: 'shift' as const, at: 0 }),
    fc.record({ kind: fc.constant('leave' as const), at: fc.nat(30) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const roster = new Roster<Guest>();
      const expected: number[] = [];
      const places: Place<Guest>[] = [];
      steps.forEach(({ kind, at }, name) => {
        if (kind === 'add') {
          expected.push(name);
          places.push(roster.add({ name }));
        } else if (kind === 'shift') {
          t.equal(roster.shift()?.name, expected.shift());
        } else {
          const place = places[at];
          const index = expected.indexOf(place?.item?.name ?? -1);
          if (place !== undefined) t.equal(place.leave(), index >= 0);
          if (index >= 0) expected.splice(index, 1);
        }
        t.strictSame(names(roster), expected);
        t.equal(roster.size, expected.length);
        t.equal(roster.first?.name, expected[0]);
      });
    }),
  );
  t.end();
});

t.test('a walk meets all who were there at the start and still are', (t) => {
  const roster = new Roster<Guest>();
  const places = [0, 1, 2, 3].map((name) => roster.add({ name }));
  const met: number[] = [];
  roster.each(({ name }) => {
    met.push(name);
    if (name === 0) places[1]?.leave();
    if (name === 2) {
      places[2]?.leave();
      roster.add({ name: 9 });
    }
  });
  t.strictSame(met, [0, 2, 3]);
  t.strictSame(names(roster), [0, 3, 9]);
  t.end();
});

t.test('who has left is not kept, also after a full collection of garbage', (t) => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options?: { type: 'minor' }) => void;
  const roster = new Roster<{ load: number[] }>();
  const here: Place[] = [];
  const comeAndGo = (count: number): void => {
    for (let i = 0; i < count; i++) {
      here.push(roster.add({ load: Array.from({ length: 50 }, () => i) }));
      if (here.length > 16) here.shift()?.leave();
    }
  };
  // From here on those present are in the old generation.
  comeAndGo(1000);
  collect();
  const before = process.memoryUsage().heapUsed;
  comeAndGo(50_000);
  collect({ type: 'minor' });
  const kept = process.memoryUsage().heapUsed - before;
  // 20 MB have passed; a Set in its place keeps all of them.
  t.ok(kept < 4 * 1024 * 1024, `${Math.round(kept / 1024)} KB are kept`);
  t.end();
});
