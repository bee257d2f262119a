/** Rate limits: per key, bounded in memory, in order, and what a client is told. */

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import type { RateLimit } from '../../src/core/traffic-policy.ts';
import type { HeaderList } from '../../src/http/h2/contract.ts';
import {
  rateLimitHeaders,
  RateLimiter,
  type RateLimiterOptions,
} from '../../src/waypoint/rate-limiter.ts';

const limit = (more: Partial<RateLimit> = {}): RateLimit => ({
  name: 'l',
  key: { kind: 'identity' },
  requests: 10,
  intervalMs: 1_000,
  burst: 2,
  shared: false,
  onFailure: 'local',
  ...more,
});

function rig(limits: readonly RateLimit[], more: Partial<RateLimiterOptions> = {}) {
  const clock = createFakeClock();
  const failures: string[] = [];
  const limiter = new RateLimiter({
    scope: 'shop/cart',
    limits,
    clock,
    store: undefined,
    onStoreFailure: ({ name }) => failures.push(name),
    ...more,
  });
  const passes = async (identity: string, headers: HeaderList = []): Promise<boolean> =>
    (await limiter.take(identity, headers)) === undefined;
  return { clock, limiter, failures, passes };
}

t.test('each identity has a budget of its own, and it comes back', async (t) => {
  const { clock, limiter, passes } = rig([limit()]);
  t.ok(await passes('a'));
  t.ok(await passes('a'));
  t.notOk(limiter.take('a', []) instanceof Promise, 'a local limit answers at once');
  t.ok(await passes('b'));
  await clock.advance(100);
  t.ok(await passes('a'));
  t.notOk(await passes('a'));
});

t.test('a flood that its own limit stops takes nothing from the others', async (t) => {
  const asked: string[] = [];
  const store = {
    take: (key: string) => {
      asked.push(key);
      return Promise.resolve({ allowed: true, remaining: 1, waitMs: 0, resetMs: 0 });
    },
  };
  const { passes } = rig(
    [
      limit({ name: 'everywhere', key: { kind: 'all' }, shared: true }),
      limit({ name: 'all', key: { kind: 'all' }, burst: 4 }),
      limit({ name: 'client', burst: 2 }),
    ],
    { store },
  );
  let flood = 0;
  for (let i = 0; i < 100; i++) if (await passes('flood')) flood++;
  t.equal(flood, 2);
  t.ok((await passes('quiet')) && (await passes('quiet')));
  t.equal(asked.length, 4, 'nor does it reach the store');
});

t.test('one budget for all; one per value of a header, those without share one', async (t) => {
  const all = rig([limit({ key: { kind: 'all' }, burst: 1 })]);
  t.ok(await all.passes('a'));
  t.notOk(await all.passes('b'));
  const byHeader = rig([limit({ key: { kind: 'header', name: 'x-key' }, burst: 1 })]);
  t.ok(await byHeader.passes('a', [['x-key', '1']]));
  t.ok(await byHeader.passes('a', [['x-key', '2']]));
  t.notOk(await byHeader.passes('b', [['x-key', '1']]));
  t.ok(await byHeader.passes('a'));
  t.notOk(await byHeader.passes('b'));
});

t.test('every limit must let it pass; the refusal names the one that did not', async (t) => {
  const wide = limit({ name: 'wide', key: { kind: 'all' }, burst: 3 });
  const { limiter, passes } = rig([limit({ name: 'own' }), wide]);
  t.ok(await passes('a'));
  t.ok(await passes('a'));
  t.match(limiter.take('a', []), { limit: { name: 'own' } });
  t.ok(await passes('b'));
  t.match(limiter.take('b', []), { limit: { name: 'wide' } });
});

t.test('a client is told the limit, what is left, and when to come again', async (t) => {
  const { limiter, passes } = rig([
    limit({ name: 'per-client', requests: 60, intervalMs: 60_000 }),
  ]);
  await passes('a');
  await passes('a');
  const refusal = await limiter.take('a', []);
  t.strictSame(refusal && rateLimitHeaders(refusal), [
    ['ratelimit-policy', '"per-client";q=60;w=60'],
    ['ratelimit', '"per-client";r=0;t=2'],
    ['retry-after', '1'],
  ]);
});

t.test(
  'memory is bounded: newcomers beyond it share one budget, nobody is freed early',
  async (t) => {
    const { clock, passes } = rig([limit({ burst: 1 })], { keysMax: 3 });
    for (const identity of ['a', 'b', 'c', 'd']) t.ok(await passes(identity), identity);
    t.notOk(await passes('e'), 'd has taken what newcomers share');
    t.notOk(await passes('a'), 'a is still remembered');
    await clock.advance(1_000);
    for (const identity of ['x', 'y', 'z']) t.ok(await passes(identity), 'old ones gave way');
  },
);

t.test('no flood of new keys lets an old key exceed its rate', async () => {
  const event = fc.record({ key: fc.nat({ max: 30 }), gapMs: fc.nat({ max: 60 }) });
  await fc.assert(
    fc.asyncProperty(fc.array(event, { maxLength: 200 }), async (events) => {
      const { clock, passes } = rig([limit({ burst: 3 })], { keysMax: 5 });
      const allowed: { key: number; atMs: number }[] = [];
      for (const { key, gapMs } of events) {
        if (gapMs > 30) await clock.advance(gapMs);
        if (await passes(String(key))) allowed.push({ key, atMs: clock.nowMs() });
      }
      // By the shared budget once more, at worst.
      return allowed.every(({ key, atMs }, index) => {
        const before = allowed.filter(
          (entry, at) => at <= index && entry.key === key && entry.atMs > atMs - 1_000,
        );
        return before.length <= 2 * (3 + 10);
      });
    }),
    { numRuns: 40 },
  );
});

t.test('without a store a shared limit does what its policy says, and says so', async (t) => {
  for (const [onFailure, wanted] of [
    ['local', [true, false]],
    ['allow', [true, true]],
    ['deny', [false, false]],
  ] as const) {
    const { failures, passes } = rig([limit({ shared: true, burst: 1, onFailure })]);
    t.strictSame([await passes('a'), await passes('a')], wanted, onFailure);
    t.strictSame(failures, ['l', 'l']);
  }
});
