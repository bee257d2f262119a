import t from 'tap';

import { createFakeClock, createSystemClock, sleep } from '../../src/base/clock.ts';

void t.test('fake clock runs due timers in order and moves both times', async (t) => {
  const clock = createFakeClock(1_000_000);
  const heard: string[] = [];
  const note = (what: string) => () => void heard.push(`${what}@${clock.nowMs()}`);
  clock.after(30, note('c'));
  clock.after(10, note('a'));
  clock.after(10, note('b'));
  const every = clock.every(20, note('tick'));
  await clock.advance(25);
  t.same(heard, ['a@10', 'b@10', 'tick@20']);
  t.equal(clock.nowMs(), 25);
  t.equal(clock.wallMs(), 1_000_025);
  every.cancel();
  every.cancel();
  await clock.advance(100);
  t.same(heard.slice(3), ['c@30']);
  t.equal(clock.pendingCount(), 0);
});

void t.test('fake clock runs a timer that a timer made, and promise jobs between', async (t) => {
  const clock = createFakeClock();
  const heard: number[] = [];
  clock.after(10, () => {
    void Promise.resolve().then(() => clock.after(5, () => heard.push(clock.nowMs())));
  });
  await clock.advance(20);
  t.same(heard, [15]);
});

void t.test('fake clock keeps durations when the calendar jumps', async (t) => {
  const clock = createFakeClock(0);
  let fired = 0;
  clock.after(10, () => fired++);
  clock.jumpWall(-3_600_000);
  t.equal(clock.wallMs(), -3_600_000);
  t.equal(clock.nowMs(), 0);
  await clock.advance(9);
  t.equal(fired, 0);
  await clock.advance(1);
  t.equal(fired, 1);
});

void t.test('sleep resolves in time and leaves nothing behind when aborted', async (t) => {
  const clock = createFakeClock();
  const controller = new AbortController();
  const whole = sleep(clock, 50);
  const cut = sleep(clock, 50, controller.signal);
  controller.abort(new Error('enough'));
  await t.rejects(cut, { message: 'enough' });
  await t.rejects(sleep(clock, 50, controller.signal), { message: 'enough' });
  t.equal(clock.pendingCount(), 1);
  await clock.advance(50);
  await whole;
  const signal = new AbortController().signal;
  const quiet = sleep(clock, 1, signal);
  await clock.advance(1);
  await quiet;
});

void t.test('system clock fires, repeats and cancels', async (t) => {
  const clock = createSystemClock();
  const before = clock.nowMs();
  // Its timers do not keep the process alive, so something of the test must.
  const alive = setInterval(() => {}, 1000);
  t.teardown(() => clearInterval(alive));
  let ticks = 0;
  const cancelled = clock.after(1, () => t.fail('was cancelled'));
  cancelled.cancel();
  await new Promise<void>((resolve) => {
    const every = clock.every(1, () => {
      if (++ticks < 3) return;
      every.cancel();
      resolve();
    });
  });
  await new Promise<void>((resolve) => {
    clock.after(1, resolve);
  });
  t.equal(ticks, 3);
  t.ok(clock.nowMs() > before);
  t.ok(Math.abs(clock.wallMs() - Date.now()) < 1000);
});

void t.test(
  'system clock takes delays beyond what Node takes without firing at once',
  async (t) => {
    const clock = createSystemClock();
    const timers = [
      clock.after(2 ** 40, () => t.fail('fired')),
      clock.every(2 ** 40, () => t.fail('fired')),
    ];
    await new Promise((resolve) => setTimeout(resolve, 5));
    for (const timer of timers) timer.cancel();
  },
);
