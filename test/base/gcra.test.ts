/** The cell rate algorithm against a token bucket that is written the long way. */

import fc from 'fast-check';
import t from 'tap';

import { createRate, takeUnit } from '../../src/base/gcra.ts';

t.test('a burst, then one unit at a time', async (t) => {
  const rate = createRate(10, 1_000, 3);
  let fullAtMs = -Infinity;
  const take = (nowMs: number) => {
    const taking = takeUnit(rate, fullAtMs, nowMs);
    fullAtMs = taking.fullAtMs;
    return taking;
  };
  t.match(take(0), { allowed: true, remaining: 2, waitMs: 0, resetMs: 100 });
  t.match(take(0), { allowed: true, remaining: 1 });
  t.match(take(0), { allowed: true, remaining: 0, waitMs: 100, resetMs: 300 });
  t.match(take(0), { allowed: false, remaining: 0, waitMs: 100 });
  t.match(take(99), { allowed: false });
  t.match(take(100), { allowed: true, remaining: 0 });
  t.match(take(10_000), { allowed: true, remaining: 2 });
});

t.test('allows what a bucket with fractional tokens allows', async () => {
  const rates = fc.record({
    units: fc.integer({ min: 1, max: 1_000 }),
    intervalMs: fc.constantFrom(1_000, 60_000),
    burst: fc.integer({ min: 1, max: 50 }),
  });
  fc.assert(
    fc.property(rates, fc.array(fc.nat({ max: 3_000 }), { maxLength: 100 }), (of, gaps) => {
      const rate = createRate(of.units, of.intervalMs, of.burst);
      let fullAtMs = -Infinity;
      let tokens = of.burst;
      let nowMs = 0;
      return gaps.every((gapMs) => {
        nowMs += gapMs;
        tokens = Math.min(of.burst, tokens + (gapMs * of.units) / of.intervalMs);
        const taking = takeUnit(rate, fullAtMs, nowMs);
        fullAtMs = taking.fullAtMs;
        // Where the two differ by rounding alone, follow.
        if (Math.abs(tokens - 1) < 0.01) {
          tokens -= taking.allowed ? 1 : 0;
          return true;
        }
        const allowed = tokens >= 1;
        if (allowed) tokens -= 1;
        const close = Math.abs(taking.remaining - Math.max(0, tokens)) <= 1.01;
        return taking.allowed === allowed && close;
      });
    }),
  );
});
