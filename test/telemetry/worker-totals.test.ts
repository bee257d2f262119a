/** Counts of workers summed by the agent: through lost, doubled and late reports, dead workers and dead agents. */

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createNullLogger, type Logger } from '../../src/base/logger.ts';
import { createMetricReports, type MetricReport } from '../../src/telemetry/metric-reports.ts';
import {
  createSeriesStore,
  IDLE_EXPIRY_MS,
  type FamilyOptions,
} from '../../src/telemetry/series-store.ts';
import { createTotalsFile } from '../../src/telemetry/totals-file.ts';
import { createTrafficMetrics, TRAFFIC_FAMILIES } from '../../src/telemetry/traffic-metrics.ts';
import { WORKER_FAMILIES } from '../../src/telemetry/worker-metrics.ts';
import { createWorkerTotals, type WorkerTotals } from '../../src/telemetry/worker-totals.ts';
import { buildEdge } from './connection-builder.ts';

const HITS: FamilyOptions = {
  name: 'hits_total',
  help: 'H',
  kind: 'counter',
  labels: ['who'],
  expires: true,
};
const OPEN: FamilyOptions = { name: 'open', help: 'O', kind: 'gauge', labels: ['who'] };
const FAMILIES = [HITS, OPEN];

function createAgent(saved?: string) {
  const store = createSeriesStore(createFakeClock());
  const totals = createWorkerTotals(store, FAMILIES);
  if (saved !== undefined && !totals.restore(saved).ok) throw new Error('cannot restore');
  const get = (options: FamilyOptions, who: string): number => {
    return store.families.get(options.name)?.series.get(who)?.value ?? 0;
  };
  return {
    store,
    totals,
    hits: (who: string) => get(HITS, who),
    open: (who: string) => get(OPEN, who),
  };
}

function createWorkerSide(name: string) {
  const clock = createFakeClock();
  const store = createSeriesStore(clock);
  const [hits, open] = FAMILIES.map((options) => store.family(options));
  const reports = createMetricReports(store, name);
  return {
    name,
    clock,
    store,
    hit: (who: string, count = 1) => store.add(store.series(hits!, [who]), count),
    setOpen: (who: string, value: number) => store.set(store.series(open!, [who]), value),
    last: undefined as MetricReport | undefined,
    /** Set it to another one: the agent is reached by a new stream. */
    stream: 1,
    /** Reports to `totals`; `outcome` says what happens on the way. */
    async report(totals: WorkerTotals, outcome: 'taken' | 'lost' | 'unanswered' = 'taken') {
      let size = 0;
      await reports.deliver(async (report) => {
        size = report.counters.length;
        if (outcome !== 'lost') totals.apply(report);
        this.last = report;
        return Promise.resolve(outcome === 'taken');
      }, this.stream);
      return size;
    },
  };
}

t.test('totals are sums over workers and keep what a dead one counted', async (t) => {
  const agent = createAgent();
  const [a, b] = [createWorkerSide('a1'), createWorkerSide('b1')];
  a.hit('x', 2);
  b.hit('x', 3);
  await a.report(agent.totals);
  await b.report(agent.totals);
  t.equal(agent.hits('x'), 5);
  agent.totals.forget('a1');
  agent.totals.forget('a1');
  t.equal(agent.hits('x'), 5);
  const successor = createWorkerSide('a2');
  successor.hit('x', 10);
  await successor.report(agent.totals);
  t.equal(agent.hits('x'), 15);
});

t.test('gauges are sums over living workers', async (t) => {
  const agent = createAgent();
  const [a, b] = [createWorkerSide('a1'), createWorkerSide('b1')];
  a.setOpen('x', 7);
  b.setOpen('x', 0.3);
  await a.report(agent.totals);
  await b.report(agent.totals);
  t.equal(agent.open('x'), 7.3);
  a.setOpen('x', 4);
  await a.report(agent.totals);
  t.equal(agent.open('x'), 4.3);
  agent.totals.forget('a1');
  t.equal(agent.open('x'), 0.3);
});

t.test('a worker that was only cut off counts on, its gauges too', async (t) => {
  const agent = createAgent();
  const worker = createWorkerSide('a1');
  worker.hit('x', 5);
  worker.setOpen('x', 2);
  await worker.report(agent.totals);
  agent.totals.forget('a1');
  t.equal(agent.open('x'), 0);
  worker.hit('x', 1);
  await worker.report(agent.totals);
  t.equal(agent.hits('x'), 6);
  t.equal(agent.open('x'), 2);
});

t.test('a report holds what changed, and everything again after one was not taken', async (t) => {
  const agent = createAgent();
  const worker = createWorkerSide('a1');
  for (let n = 0; n < 100; n++) worker.hit(`w${n}`);
  t.equal(await worker.report(agent.totals), 100);
  worker.hit('w7');
  t.equal(await worker.report(agent.totals), 21, 'one change, twenty refreshed');
  t.equal(await worker.report(agent.totals, 'lost'), 20);
  t.equal(await worker.report(agent.totals), 100);
});

t.test('reports are bounded in size and tell everything in turn', async (t) => {
  const store = createSeriesStore(createFakeClock());
  const big = { ...HITS, seriesMax: 5000 };
  const family = store.family(big);
  for (let n = 0; n < 1800; n++) store.add(store.series(family, [String(n)]), 1);
  const reports = createMetricReports(store, 'a');
  const sizes: number[] = [];
  const heard = new Set<string>();
  for (let n = 0; n < 4; n++) {
    await reports.deliver((report) => {
      sizes.push(report.counters.length);
      for (const { labels } of report.counters) heard.add(labels.join());
      return Promise.resolve(true);
    }, 1);
  }
  t.strictSame(sizes, [500, 500, 500, 320]);
  t.equal(heard.size, 1800);
});

t.test('an agent that forgot everything hears it again although nothing changes', async (t) => {
  const worker = createWorkerSide('a1');
  for (let n = 0; n < 90; n++) worker.hit(`w${n}`, 3);
  await worker.report(createAgent().totals);
  const successor = createAgent();
  for (let n = 0; n < 6; n++) await worker.report(successor.totals);
  for (let n = 0; n < 90; n++) t.equal(successor.hits(`w${n}`), 3);
});

t.test(
  'an agent that was replaced between two reports hears everything in the first',
  async (t) => {
    const worker = createWorkerSide('a1');
    for (let n = 0; n < 90; n++) worker.hit(`w${n}`, 3);
    worker.setOpen('x', 2);
    const killed = createAgent();
    await worker.report(killed.totals);
    const saved = killed.totals.save();
    worker.hit('w5');
    await worker.report(killed.totals);
    const successor = createAgent(saved);
    worker.stream++;
    await worker.report(successor.totals);
    for (let n = 0; n < 90; n++) t.equal(successor.hits(`w${n}`), n === 5 ? 4 : 3);
    t.equal(successor.open('x'), 2, 'gauges too, which nobody saves');
  },
);

t.test('only one report is under way at a time', async (t) => {
  const worker = createWorkerSide('a1');
  const reports = createMetricReports(worker.store, 'a1');
  let sent = 0;
  const gate = Promise.withResolvers<boolean>();
  const first = reports.deliver(() => (sent++, gate.promise), 1);
  await reports.deliver(() => (sent++, Promise.resolve(true)), 1);
  t.equal(sent, 1);
  gate.resolve(true);
  await first;
  await reports.deliver(() => (sent++, Promise.reject(new Error('broken'))), 1);
  await reports.deliver(() => (sent++, Promise.resolve(true)), 1);
  t.equal(sent, 3);
});

t.test("series that expired in a worker and came back go on in the agent's sum", async (t) => {
  const agent = createAgent();
  const worker = createWorkerSide('a1');
  worker.hit('x', 5);
  await worker.report(agent.totals);
  await worker.clock.advance(IDLE_EXPIRY_MS * 1.1);
  worker.hit('x', 2);
  await worker.report(agent.totals);
  t.equal(agent.hits('x'), 7);
});

t.test(
  'property: totals equal what was counted, whatever gets lost, doubled, saved or dies',
  async () => {
    type Step = { kind: string; worker: number; count: number };
    const step = fc.record({
      kind: fc.constantFrom(
        'hit',
        'report',
        'lost',
        'unanswered',
        'double',
        'worker dies',
        'agent dies',
      ),
      worker: fc.nat(2),
      count: fc.integer({ min: 1, max: 100 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps: Step[]) => {
        let agent = createAgent();
        let life = 0;
        let counted = 0;
        const fresh = () => createWorkerSide(`life-${life++}`);
        const workers = [fresh(), fresh(), fresh()];
        const settle = async (index: number): Promise<void> => {
          await workers[index]!.report(agent.totals);
        };
        for (const { kind, worker: index, count } of steps) {
          const worker = workers[index]!;
          if (kind === 'hit') {
            worker.hit('x', count);
            counted += count;
          } else if (kind === 'report') await settle(index);
          else if (kind === 'cut off') agent.totals.forget(worker.name);
          else if (kind === 'lost') await worker.report(agent.totals, 'lost');
          else if (kind === 'unanswered') await worker.report(agent.totals, 'unanswered');
          else if (kind === 'double' && worker.last !== undefined) agent.totals.apply(worker.last);
          else if (kind === 'worker dies') {
            await settle(index);
            if (count > 50) agent.totals.forget(worker.name);
            workers[index] = fresh();
          } else if (kind === 'agent dies') agent = createAgent(agent.totals.save());
        }
        for (const index of workers.keys()) await settle(index);
        // What was reported is there; reports of the same worker before are covered by its totals.
        return agent.hits('x') === counted;
      }),
      { numRuns: 200 },
    );
  },
);

t.test('hostile reports change nothing and are counted', async (t) => {
  const { totals, store } = createAgent();
  const bad = [
    { metric: 'unknown_total', labels: ['x'], value: 1 },
    { metric: 'hits_total', labels: [], value: 1 },
    { metric: 'hits_total', labels: ['x', 'y'], value: 1 },
    { metric: 'hits_total', labels: ['x'], value: Number.NaN },
    { metric: 'hits_total', labels: ['x'], value: -1 },
    { metric: 'hits_total', labels: ['x'], value: Infinity },
    { metric: '__proto__', labels: ['x'], value: 1 },
  ];
  t.equal(totals.apply({ worker: 'a', sequence: 1, counters: bad }), bad.length);
  t.equal(totals.apply({ worker: '', sequence: 1, counters: bad }), bad.length);
  t.equal(store.seriesCount, 0);
  const good = [{ metric: 'hits_total', labels: ['x'], value: 1 }];
  t.equal(totals.apply({ worker: 'a', sequence: 2, counters: good }), 0);
  t.equal(totals.apply({ worker: 'a', sequence: 2, counters: [{ ...good[0]!, value: 9 }] }), 0);
  t.equal(store.families.get('hits_total')?.series.get('x')?.value, 1, 'a sequence counts once');
});

t.test('lives are bounded: the one heard longest ago is forgotten', async (t) => {
  const { totals, hits, open } = createAgent();
  for (let n = 0; n < 100; n++) {
    const counters = [
      { metric: 'hits_total', labels: ['x'], value: 1 },
      { metric: 'open', labels: ['x'], value: 1 },
    ];
    totals.apply({ worker: `w${n}`, sequence: 1, counters });
  }
  t.equal(hits('x'), 100);
  t.equal(open('x'), 64);
});

t.test('connections that died with their worker count as closed by RESET', async (t) => {
  const clock = createFakeClock();
  const store = createSeriesStore(clock);
  const totals = createWorkerTotals(store, WORKER_FAMILIES);
  const worker = createSeriesStore(createFakeClock());
  const traffic = createTrafficMetrics(worker);
  const edge = buildEdge();
  for (let n = 0; n < 5; n++) traffic.opened(edge);
  traffic.ended(edge, '-', true);
  traffic.ended(edge, 'DENY', true);
  await createMetricReports(worker, 'a').deliver((report) => {
    totals.apply(report);
    return Promise.resolve(true);
  }, 1);
  totals.forget('a');
  await clock.advance(3 * 60_000);
  totals.save();
  totals.save();
  const sum = (options: FamilyOptions, flag?: string): number => {
    return [...(store.families.get(options.name)?.series.values() ?? [])]
      .filter(({ labels }) => flag === undefined || labels.includes(flag))
      .reduce((total, { value }) => total + value, 0);
  };
  t.equal(sum(TRAFFIC_FAMILIES.opened), 5);
  t.equal(sum(TRAFFIC_FAMILIES.closed), 5);
  t.equal(sum(TRAFFIC_FAMILIES.closed, 'RESET'), 3);
  t.equal(sum(TRAFFIC_FAMILIES.failed, 'RESET'), 3);
  t.equal(sum(TRAFFIC_FAMILIES.failed), 4);
});

t.test('saved totals are read strictly', async (t) => {
  const agent = createAgent();
  const worker = createWorkerSide('a1');
  worker.hit('x', 5);
  await worker.report(agent.totals);
  const saved = JSON.parse(agent.totals.save()) as Record<string, unknown>;
  const bad: unknown[] = [
    null,
    [],
    { ...saved, format: 2 },
    { ...saved, series: [['hits_total', 1]] },
    { ...saved, series: 'x' },
    { ...saved, sums: [[0, -1]] },
    { ...saved, sums: [[7, 1]] },
    { ...saved, sums: [[0.5, 1]] },
    { ...saved, sums: [[0, 1, 2]] },
    { ...saved, lives: [['', 1, []]] },
    { ...saved, lives: [['a', 1.5, []]] },
    { ...saved, lives: Array.from({ length: 100 }, () => ['a', 1, []]) },
  ];
  for (const value of [...bad.map((item) => JSON.stringify(item)), '{', '']) {
    const { totals, store } = createAgent();
    t.match(totals.restore(value), { ok: false, error: { code: 'MESH_CONFIG_INVALID' } });
    t.equal(store.seriesCount, 0);
  }
  t.ok(
    createAgent().totals.restore(JSON.stringify({ ...saved, series: [['gone_total', 'x']] })).ok,
  );
});

t.test('property: restore of any text never throws', async () => {
  const json = fc.oneof(
    fc.string(),
    fc.json(),
    fc.jsonValue().map((v) => JSON.stringify({ format: 1, series: v, sums: v, lives: v })),
  );
  fc.assert(
    fc.property(json, (text) => {
      createAgent().totals.restore(text);
    }),
  );
});

t.test('totals file carries counts over an agent restart', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-totals-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'totals.json');
  const clock = createFakeClock();
  const first = createAgent();
  const worker = createWorkerSide('a1');
  const file = createTotalsFile(clock, createNullLogger(), path, first.totals);
  await file.load();
  worker.hit('x', 5);
  await worker.report(first.totals);
  await clock.advance(15_000);
  while (!readable(path)) await new Promise((resolve) => setImmediate(resolve));
  t.equal(statSync(path).mode & 0o777, 0o600);
  file.stop();
  t.equal(clock.pendingCount(), 0);
  const second = createAgent();
  const next = createTotalsFile(clock, createNullLogger(), path, second.totals);
  await next.load();
  worker.hit('x', 1);
  await worker.report(second.totals);
  t.equal(second.hits('x'), 6);
  next.stop();
});

function readable(path: string): boolean {
  try {
    return readFileSync(path, 'utf8').endsWith('}');
  } catch {
    return false;
  }
}

t.test('F65: a totals file that cannot be read or written is a warning', async (t) => {
  const warnings: string[] = [];
  const warn = (message: string): void => void warnings.push(message);
  const logger: Logger = { ...createNullLogger(), warn };
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-totals-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const { totals } = createAgent();
  const clock = createFakeClock();
  const missing = createTotalsFile(clock, logger, join(folder, 'no', 'such', 'x'), totals);
  await missing.load();
  t.strictSame(warnings, [], 'a first start is no news');
  await missing.save();
  const damaged = join(folder, 'damaged');
  writeFileSync(damaged, '{"format":1');
  await createTotalsFile(clock, logger, damaged, totals).load();
  await createTotalsFile(clock, logger, folder, totals).load();
  t.strictSame(warnings, [
    'Cannot save metrics',
    'Starting metrics from 0',
    'Cannot read saved metrics',
  ]);
});
