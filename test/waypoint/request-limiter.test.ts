/** Limits of requests and connections: the bound, the queue, its deadline, and its fairness. */

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { DEFAULT_LIMITS, type LimitSettings } from '../../src/core/traffic-policy.ts';
import { RequestLimiter, type Admission, type Permit } from '../../src/waypoint/request-limiter.ts';

function rig(settings: Partial<LimitSettings>) {
  const clock = createFakeClock();
  const limiter = new RequestLimiter({ ...DEFAULT_LIMITS, ...settings }, clock);
  const admitted: { client: string; permit: Permit; waitedMs: number }[] = [];
  const shed: { client: string; reason: string }[] = [];
  const take = (client: string, admission: Admission): void => {
    if (admission.kind === 'admitted') admitted.push({ client, ...admission });
    else shed.push({ client, reason: admission.reason });
  };
  const enter = (client: string, signal?: AbortSignal): void => {
    const admission = limiter.enter(client, signal);
    if (admission instanceof Promise) void admission.then((later) => take(client, later));
    else take(client, admission);
  };
  return { clock, limiter, admitted, shed, enter };
}

t.test('without limits everything passes', async (t) => {
  const { limiter, admitted, enter } = rig({});
  for (let i = 0; i < 1_000; i++) enter('a');
  t.equal(admitted.length, 1_000);
  t.equal(limiter.active, 1_000);
  for (const { permit } of admitted) permit.release();
  t.equal(limiter.active, 0);
  t.ok(limiter.openConnection());
});

t.test(
  'beyond the limit requests wait in turn, beyond the queue they are shed at once',
  async (t) => {
    const { clock, admitted, shed, enter, limiter } = rig({ requestsMax: 2, queueMax: 2 });
    for (let i = 0; i < 5; i++) enter('a');
    t.equal(admitted.length, 2);
    t.strictSame(shed, [{ client: 'a', reason: 'queue-full' }]);
    t.equal(limiter.waiting, 2);
    await clock.advance(300);
    admitted[0]?.permit.release();
    admitted[0]?.permit.release();
    await clock.advance(0);
    t.equal(admitted.length, 3, 'a permit counts once');
    t.equal(admitted[2]?.waitedMs, 300);
  },
);

t.test('who waits too long, or goes away, leaves the queue', async (t) => {
  const { clock, shed, enter, limiter } = rig({ requestsMax: 1, queueMax: 9, queueTimeoutMs: 500 });
  const leaving = new AbortController();
  enter('a');
  enter('b');
  enter('c', leaving.signal);
  leaving.abort();
  await clock.advance(499);
  t.strictSame(shed, [{ client: 'c', reason: 'aborted' }]);
  await clock.advance(1);
  t.strictSame(shed.at(-1), { client: 'b', reason: 'queue-timeout' });
  t.equal(limiter.waiting, 0);
  t.equal(clock.pendingCount(), 0);
});

t.test(
  "one client's burst costs that client: lines are served in turn, the longest is cut",
  async (t) => {
    const { clock, admitted, shed, enter } = rig({ requestsMax: 1, queueMax: 6 });
    for (let i = 0; i < 7; i++) enter('greedy');
    enter('a');
    enter('b');
    enter('b');
    t.strictSame(shed, [], 'those who were cut hear of it in a moment');
    await clock.advance(0);
    t.strictSame(
      shed,
      [1, 2, 3].map(() => ({ client: 'greedy', reason: 'queue-full' })),
    );
    for (let i = 0; i < 7; i++) {
      admitted.at(-1)?.permit.release();
      await clock.advance(0);
    }
    const order = admitted.map(({ client }) => client).join(' ');
    t.equal(order, 'greedy greedy a b greedy b greedy');
  },
);

t.test('a higher limit lets in those who wait', async (t) => {
  const { clock, admitted, enter, limiter } = rig({ requestsMax: 1, queueMax: 9 });
  for (let i = 0; i < 4; i++) enter('a');
  limiter.configure({ ...DEFAULT_LIMITS, requestsMax: 3, queueMax: 9 });
  await clock.advance(0);
  t.equal(admitted.length, 3);
  limiter.configure(DEFAULT_LIMITS);
  await clock.advance(0);
  t.equal(admitted.length, 4);
});

t.test('connections have a limit of their own', async (t) => {
  const { limiter } = rig({ connectionsMax: 2 });
  const first = limiter.openConnection();
  t.ok(limiter.openConnection());
  t.equal(limiter.openConnection(), undefined);
  first?.release();
  t.ok(limiter.openConnection());
  t.equal(limiter.connections, 2);
});

t.test('nothing exceeds its bound and nobody is forgotten, whatever happens', async () => {
  const event = fc.oneof(
    fc.record({ kind: fc.constant('enter' as const), client: fc.constantFrom('a', 'b', 'c') }),
    fc.record({ kind: fc.constant('release' as const) }),
    fc.record({ kind: fc.constant('pass' as const), ms: fc.nat({ max: 700 }) }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(event, { maxLength: 40 }),
      fc.integer({ min: 1, max: 3 }),
      fc.nat({ max: 3 }),
      async (events, requestsMax, queueMax) => {
        const { clock, limiter, admitted, shed, enter } = rig({ requestsMax, queueMax });
        let entered = 0;
        let released = 0;
        for (const step of events) {
          if (step.kind === 'enter') {
            enter(step.client);
            entered += 1;
          } else if (step.kind === 'release') {
            admitted[released]?.permit.release();
            released = Math.min(released + 1, admitted.length);
          } else await clock.advance(step.ms);
          if (limiter.active > requestsMax || limiter.waiting > queueMax) return false;
        }
        await clock.advance(0);
        return admitted.length + shed.length + limiter.waiting === entered;
      },
    ),
    { numRuns: 60 },
  );
});
