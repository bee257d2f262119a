import t from 'tap';

import { createBackoff } from '../../src/base/backoff.ts';
import { createSeededRandom, type Random } from '../../src/base/random.ts';

const fixed = (value: number): Random => ({
  next: () => value,
  bytes: (count) => Buffer.alloc(count),
});

void t.test(
  'backoff doubles its bound up to the cap and starts small after a success',
  async (t) => {
    const backoff = createBackoff(fixed(1), { initialMs: 10, maxMs: 100 });
    const delays = Array.from({ length: 6 }, () => backoff.nextMs());
    t.same(delays, [10, 20, 40, 80, 100, 100]);
    backoff.reset();
    t.equal(backoff.nextMs(), 10);
  },
);

void t.test('backoff waits at least its floor and at most its bound', async (t) => {
  const random = createSeededRandom(7);
  for (const floor of [0, 0.5, 1]) {
    const backoff = createBackoff(random, { initialMs: 100, maxMs: 100, floor });
    for (let round = 0; round < 100; round++) {
      const delay = backoff.nextMs();
      if (delay < 100 * floor || delay > 100) t.fail(`${delay} with floor ${floor}`);
    }
  }
  t.equal(createBackoff(fixed(0), { initialMs: 100, maxMs: 200 }).nextMs(), 50, 'floor is 0.5');
});
