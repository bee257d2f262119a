import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import type { CaptureReport, PodUid } from '../../src/core/pod.ts';
import { createStuckPods, STUCK_MS } from '../../src/node/stuck-pods.ts';

function reports(states: Readonly<Record<string, CaptureReport['state']>>): CaptureReport[] {
  return Object.entries(states).map(([uid, state]) => ({
    podUid: uid as PodUid,
    state,
    reason: '',
  }));
}

t.test('a pod that stays failed holds nobody back for longer than a while', async (t) => {
  const clock = createFakeClock(0);
  let changes = 0;
  const stuck = createStuckPods(clock, createNullLogger(), () => changes++);
  const bad = reports({ good: 'captured', bad: 'failed', late: 'pending' });
  t.same([...stuck.of(bad)], []);
  await clock.advance(STUCK_MS - 1);
  t.same([...stuck.of(bad)], []);
  t.equal(changes, 0);
  await clock.advance(1);
  t.equal(changes, 1, 'time alone tells');
  t.same([...stuck.of(bad)], ['bad', 'late']);
  t.same(
    [...stuck.of(reports({ good: 'captured', bad: 'failed', late: 'captured' }))],
    [],
    'something moves',
  );
  await clock.advance(STUCK_MS);
  t.same([...stuck.of(reports({ good: 'captured', bad: 'failed', late: 'captured' }))], ['bad']);
  t.same([...stuck.of(reports({ good: 'captured', late: 'captured' }))], []);
  t.same([...stuck.of(bad)], [], 'seen anew');
  stuck.stop();
  t.equal(clock.pendingCount(), 0);
});

t.test('when every pod fails it is the proxy that is wrong', async (t) => {
  const clock = createFakeClock(0);
  const stuck = createStuckPods(clock, createNullLogger(), () => {});
  const all = reports({ a: 'failed', b: 'pending' });
  stuck.of(all);
  await clock.advance(10 * STUCK_MS);
  t.same([...stuck.of(all)], []);
  t.same([...stuck.of([])], []);
  stuck.stop();
});
