import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createDrain } from '../../src/base/drain.ts';

const nothing = (): void => {};

void t.test('drain without watchers is done at once', async (t) => {
  const clock = createFakeClock();
  const drain = createDrain(clock);
  t.equal(drain.draining, false);
  t.equal(await drain.start(1000), 0);
  t.equal(drain.draining, true);
  t.equal(clock.pendingCount(), 0);
});

void t.test('drain tells every watcher once and ends when the last has released', async (t) => {
  const clock = createFakeClock();
  const drain = createDrain(clock);
  let told = 0;
  const watchers = [1, 2].map(() =>
    drain.watch(
      () => told++,
      () => t.fail('forced'),
    ),
  );
  const done = drain.start(1000);
  t.equal(drain.start(5), done, 'idempotent, the first deadline counts');
  t.equal(told, 2);
  t.equal(drain.activeCount, 2);
  watchers[0]?.release();
  watchers[0]?.release();
  t.equal(drain.activeCount, 1);
  watchers[1]?.release();
  t.equal(await done, 0);
  t.equal(clock.pendingCount(), 0);
});

void t.test('drain forces at its deadline those who are left', async (t) => {
  const clock = createFakeClock();
  const drain = createDrain(clock);
  let forced = 0;
  const quick = drain.watch(nothing, () => t.fail('was released'));
  const slow = drain.watch(nothing, () => forced++);
  const done = drain.start(1000);
  quick.release();
  await clock.advance(999);
  t.equal(forced, 0);
  await clock.advance(1);
  t.equal(await done, 1);
  t.equal(forced, 1);
  slow.release();
  t.equal(drain.activeCount, 0);
});

void t.test('drain tells late watchers at once and waits for them', async (t) => {
  const clock = createFakeClock();
  const drain = createDrain(clock);
  const first = drain.watch(nothing, nothing);
  const done = drain.start(1000);
  let told = 0;
  const late = drain.watch(() => told++, nothing);
  t.equal(told, 1);
  first.release();
  t.equal(drain.activeCount, 1);
  late.release();
  t.equal(await done, 0);
});

void t.test('drain bears watchers that release while they are told', async (t) => {
  const drain = createDrain(createFakeClock());
  const watchers = [0, 1].map((index) => drain.watch(() => watchers[index]?.release(), nothing));
  t.equal(await drain.start(1000), 0);
});

void t.test('drain lets idle watchers come and go before it starts', async (t) => {
  const drain = createDrain(createFakeClock());
  drain.watch(() => t.fail('was released'), nothing).release();
  t.equal(await drain.start(1000), 0);
});
