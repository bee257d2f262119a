/** Outlier detection: what trips, for how long, the way back, and that never too many are out. */

import fc from 'fast-check';
import t from 'tap';

import { createSeededRandom } from '../../src/base/random.ts';
import { DEFAULT_OUTLIERS, type OutlierSettings } from '../../src/core/traffic-policy.ts';
import { OutlierDetector } from '../../src/waypoint/outlier-detector.ts';

function rig(settings: Partial<OutlierSettings> = {}, total = 10) {
  const ejections: { name: string; durationMs: number }[] = [];
  const returns: string[] = [];
  const detector = new OutlierDetector(
    { ...DEFAULT_OUTLIERS, ...settings },
    createSeededRandom(3),
    {
      ejected: (name, durationMs) => ejections.push({ name, durationMs }),
      returned: (name) => returns.push(name),
    },
  );
  detector.setTotal(total);
  const send = (name: string, success: boolean | undefined, nowMs: number) => {
    const passage = detector.begin(name, nowMs);
    if (passage !== undefined) detector.report(name, passage, success, nowMs);
    return passage;
  };
  const fail = (name: string, times: number, nowMs: number) => {
    for (let i = 0; i < times; i++) send(name, false, nowMs);
  };
  return { detector, ejections, returns, send, fail };
}

t.test(
  'seven failures in a row take an endpoint out; a success in between starts anew',
  async (t) => {
    const { detector, send, fail } = rig();
    fail('a', 6, 0);
    send('a', true, 0);
    fail('a', 6, 0);
    t.notOk(detector.isAway('a'));
    send('a', undefined, 0);
    fail('a', 1, 0);
    t.ok(detector.isAway('a'), 'what ended without an answer counts for neither');
    t.equal(detector.begin('a', 0), undefined);
  },
);

t.test(
  'time out: half of it jitter, doubling with each failed probe up to the maximum',
  async (t) => {
    const { detector, ejections, send, fail } = rig();
    fail('a', 7, 0);
    let nowMs = 0;
    for (const boundMs of [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]) {
      const durationMs = ejections.at(-1)?.durationMs ?? 0;
      t.ok(durationMs > boundMs / 2 && durationMs <= boundMs, `${durationMs} of ${boundMs}`);
      t.equal(detector.begin('a', nowMs + durationMs - 1), undefined);
      t.equal(detector.dueProbe(nowMs + durationMs - 1), undefined);
      nowMs += durationMs;
      t.equal(detector.dueProbe(nowMs), 'a');
      t.equal(send('a', false, nowMs), 'probe');
    }
  },
);

t.test(
  'one probe at a time; a good one brings it back, one without an answer does not',
  async (t) => {
    const { detector, returns, fail } = rig();
    fail('a', 7, 0);
    t.equal(detector.begin('a', 1_000), 'probe');
    t.equal(detector.begin('a', 1_000), undefined, 'one at a time');
    t.equal(detector.dueProbe(1_000), undefined);
    detector.report('a', 'probe', undefined, 1_000);
    t.equal(detector.begin('a', 1_000), 'probe', 'the next may try');
    detector.report('a', 'probe', true, 1_100);
    t.notOk(detector.isAway('a'));
    t.strictSame(returns, ['a']);
    fail('a', 6, 1_200);
    t.notOk(detector.isAway('a'), 'its slate is clean');
  },
);

t.test('success rate: below the share, once there were enough, within the interval', async (t) => {
  const settings = { consecutiveFailures: 0, successPercent: 80, successRequestsMin: 10 };
  const { detector, send } = rig(settings);
  for (let i = 0; i < 7; i++) send('a', true, 0);
  send('a', false, 0);
  send('a', false, 0);
  t.notOk(detector.isAway('a'), 'nine are not enough');
  send('a', false, 0);
  t.ok(detector.isAway('a'), '70 % of ten');
  for (let i = 0; i < 3; i++) send('b', false, 0);
  for (let i = 0; i < 20; i++) send('b', true, 11_000);
  for (let i = 0; i < 5; i++) send('b', false, 11_000);
  t.notOk(detector.isAway('b'), 'old failures are forgotten: 20 of 25');
  send('b', false, 11_000);
  t.ok(detector.isAway('b'));
});

t.test('what was sent before the ejection and fails later does not prolong it', async (t) => {
  const { detector, ejections, fail } = rig();
  const late = detector.begin('a', 0);
  fail('a', 7, 0);
  if (late !== undefined) detector.report('a', late, false, 10);
  t.equal(ejections.length, 1);
});

t.test(
  'one that is alone is never out, and when the well ones leave the others come back',
  async (t) => {
    const { detector, fail } = rig({}, 1);
    fail('a', 100, 0);
    t.notOk(detector.isAway('a'));
    detector.setTotal(4);
    fail('a', 7, 0);
    fail('b', 7, 0);
    t.equal(detector.awayCount, 2);
    detector.setTotal(2);
    t.equal(detector.awayCount, 1);
    detector.setTotal(1);
    t.equal(detector.awayCount, 0);
  },
);

t.test('no history takes out more than the cap, or all', async () => {
  const names = ['a', 'b', 'c', 'd', 'e'];
  const event = fc.record({
    name: fc.constantFrom(...names),
    success: fc.constantFrom(true, false, false, false, undefined),
    gapMs: fc.nat({ max: 500 }),
  });
  const percent = fc.integer({ min: 1, max: 100 });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 200 }), percent, (events, ejectedPercentMax) => {
      const { detector, send } = rig({ ejectedPercentMax, consecutiveFailures: 2 }, names.length);
      let nowMs = 0;
      return events.every(({ name, success, gapMs }) => {
        nowMs += gapMs;
        send(name, success, nowMs);
        const max = Math.max(1, Math.floor((names.length * ejectedPercentMax) / 100));
        return detector.awayCount <= Math.min(max, names.length - 1);
      });
    }),
  );
});
