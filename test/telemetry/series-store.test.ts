/** The series store: bounds, folding, expiry and revival. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import {
  createSeriesStore,
  escapeLabelValue,
  IDLE_EXPIRY_MS,
  LABEL_MAX_CHARS,
  SERIES_MAX,
  type FamilyOptions,
} from '../../src/telemetry/series-store.ts';

const REQUESTS: FamilyOptions = {
  name: 'a_total',
  help: 'A',
  kind: 'counter',
  labels: ['x', 'y'],
  seriesMax: 10,
  expires: true,
};

const values = (family: {
  readonly series: ReadonlyMap<string, { labelText: string; value: number }>;
}) =>
  Object.fromEntries([...family.series.values()].map(({ labelText, value }) => [labelText, value]));

t.test('store keeps one series for each set of label values, escaped once', async (t) => {
  const store = createSeriesStore(createFakeClock());
  const family = store.family(REQUESTS);
  store.add(store.series(family, ['1', 'a"b\\c\nd']), 2);
  store.add(store.series(family, ['1', 'a"b\\c\nd']), 3);
  store.add(store.series(family, ['1']), 1);
  t.strictSame(values(family), { '{x="1",y="a\\"b\\\\c\\nd"}': 5, '{x="1",y=""}': 1 });
  t.equal(escapeLabelValue('\\n'), '\\\\n');
});

t.test(
  'T108: store folds what exceeds a family into its "other", and cuts long values',
  async (t) => {
    const store = createSeriesStore(createFakeClock());
    const family = store.family(REQUESTS);
    for (let n = 0; n < 1000; n++) store.add(store.series(family, [String(n), 'v']), 1);
    t.equal(family.series.size, 10);
    t.equal(values(family)['{x="other",y="other"}'], 991);
    const long = store.series(store.family({ ...REQUESTS, name: 'b_total' }), [
      'x'.repeat(9999),
      '\0\ud800',
    ]);
    t.equal(long.labels[0]?.length, LABEL_MAX_CHARS);
    t.equal(long.labels[1], '\ufffd');
  },
);

t.test('T108: all families together stay below the limit of the store', async (t) => {
  const store = createSeriesStore(createFakeClock());
  for (let f = 0; f < 100; f++) {
    const family = store.family({ ...REQUESTS, name: `f${f}_total`, seriesMax: 1000 });
    for (let n = 0; n < 500; n++) store.add(store.series(family, [String(n), 'v']), 1);
  }
  t.ok(store.seriesCount < SERIES_MAX);
  const sum = [...store.families.values()]
    .flatMap((family) => [...family.series.values()])
    .reduce((total, { value }) => total + value, 0);
  t.equal(sum, 50_000, 'nothing is lost');
});

t.test('store refuses malformed and contradicting families with MESH_CONFIG_INVALID', async (t) => {
  const store = createSeriesStore(createFakeClock());
  const refused = { code: 'MESH_CONFIG_INVALID' };
  t.throws(() => store.family({ ...REQUESTS, name: 'a b_total' }), refused);
  t.throws(() => store.family({ ...REQUESTS, name: 'counter_without_suffix' }), refused);
  t.throws(() => store.family({ ...REQUESTS, kind: 'gauge' }), refused);
  t.throws(() => store.family({ ...REQUESTS, labels: ['x', 'x'] }), refused);
  t.throws(() => store.family({ ...REQUESTS, labels: ['x-y'] }), refused);
  const family = store.family(REQUESTS);
  t.equal(store.family({ ...REQUESTS }), family);
  t.throws(() => store.family({ ...REQUESTS, labels: ['x'] }), refused);
  t.throws(
    () => {
      for (let n = 0; n < 300; n++) store.family({ ...REQUESTS, name: `m${n}_total` });
    },
    { code: 'MESH_LIMIT_EXCEEDED' },
  );
});

t.test(
  'store expires idle series, not pinned or busy ones, and brings them back from 0',
  async (t) => {
    const clock = createFakeClock();
    const store = createSeriesStore(clock);
    const family = store.family(REQUESTS);
    const idle = store.series(family, ['idle', '']);
    const pinned = store.series(family, ['pinned', '']);
    const busy = store.series(family, ['busy', '']);
    pinned.pins = 1;
    for (const series of [idle, pinned, busy]) store.add(series, 5);
    const lasting = store.series(
      store.family({ ...REQUESTS, name: 'b_total', expires: false }),
      [],
    );
    for (let n = 0; n < 3; n++) {
      store.add(busy, 1);
      await clock.advance(IDLE_EXPIRY_MS / 2);
    }
    t.strictSame(
      [idle, pinned, busy, lasting].map((series) => series.isLive),
      [false, true, true, true],
    );
    t.equal(store.seriesCount, 3);
    store.add(idle, 2);
    t.equal(values(family)['{x="idle",y=""}'], 2);
    t.not(store.series(family, ['idle', '']).id, idle.id);
    store.stop();
    t.equal(clock.pendingCount(), 0);
  },
);
