/** Which timeout counts, and which fault a request gets. */

import fc from 'fast-check';
import t from 'tap';

import { createSeededRandom } from '../../src/base/random.ts';
import { DEFAULT_RETRIES, DEFAULT_TIMEOUTS, type Fault } from '../../src/core/traffic-policy.ts';
import { chooseFault } from '../../src/waypoint/faults.ts';
import { requestTimes } from '../../src/waypoint/timeouts.ts';

t.test('a rule before a policy; 0 is none; one try never outlasts the request', async (t) => {
  const timeouts = { requestMs: 5_000, idleMs: 0, connectMs: 100 };
  const rule = (requestTimeoutMs?: number, backendRequestTimeoutMs?: number) => ({
    requestTimeoutMs,
    backendRequestTimeoutMs,
  });
  const perTry = { perTryTimeoutMs: 2_000 };
  t.strictSame(requestTimes(undefined, DEFAULT_TIMEOUTS, DEFAULT_RETRIES), {
    requestMs: undefined,
    perTryMs: undefined,
    perTryUntil: 'head',
    idleMs: undefined,
    connectMs: 1_000,
  });
  t.match(requestTimes(rule(), timeouts, perTry), { requestMs: 5_000, perTryMs: 2_000 });
  t.equal(requestTimes(rule(), timeouts, perTry).idleMs, undefined);
  t.equal(requestTimes(rule(), timeouts, perTry).perTryUntil, 'head', "as a policy's word is");
  t.equal(requestTimes(rule(0, 7_000), timeouts, perTry).perTryUntil, 'end', 'as Gateway API says');
  t.match(requestTimes(rule(1_000), timeouts, perTry), { requestMs: 1_000, perTryMs: 1_000 });
  t.match(requestTimes(rule(0, 7_000), timeouts, perTry), { perTryMs: 7_000 });
  t.equal(requestTimes(rule(0), timeouts, perTry).requestMs, undefined);
  t.equal(requestTimes(rule(1_000, 0), timeouts, perTry).perTryMs, undefined);
  fc.assert(
    fc.property(fc.option(fc.nat(), { nil: undefined }), fc.nat(), fc.nat(), (own, all, one) => {
      const times = requestTimes(
        rule(own),
        { ...timeouts, requestMs: all },
        { perTryTimeoutMs: one },
      );
      return times.perTryMs === undefined || times.perTryMs <= (times.requestMs ?? Infinity);
    }),
  );
});

const fault = (more: Partial<Fault>): Fault => ({
  headers: [],
  delay: undefined,
  abort: undefined,
  ...more,
});

t.test('the first fault whose headers fit counts', async (t) => {
  const random = createSeededRandom(1);
  const faults = [
    fault({
      headers: [{ name: 'x-fault', value: 'a' }],
      abort: { httpStatus: 418, grpcStatus: undefined, percent: 100 },
    }),
    fault({
      headers: [{ name: 'x-fault', value: 'b' }],
      delay: { ms: 300, percent: 100 },
      abort: { httpStatus: undefined, grpcStatus: 14, percent: 100 },
    }),
  ];
  const choose = (value: string | undefined) => chooseFault(faults, () => value, random);
  t.strictSame(choose('a'), { delayMs: 0, abort: { kind: 'http', status: 418 } });
  t.strictSame(choose('b'), { delayMs: 300, abort: { kind: 'grpc', status: 14 } });
  t.equal(choose('c'), undefined);
  t.equal(choose(undefined), undefined);
});

t.test('a percentage is drawn for delay and abort separately', async (t) => {
  const random = createSeededRandom(7);
  const faults = [
    fault({
      delay: { ms: 100, percent: 20 },
      abort: { httpStatus: 503, grpcStatus: undefined, percent: 30 },
    }),
  ];
  const drawn = Array.from({ length: 10_000 }, () => chooseFault(faults, () => undefined, random));
  const share = (matches: (choice: (typeof drawn)[number]) => boolean): number =>
    drawn.filter(matches).length / drawn.length;
  const close = (found: number, wanted: number): boolean => Math.abs(found - wanted) < 0.02;
  t.ok(
    close(
      share((choice) => (choice?.delayMs ?? 0) > 0),
      0.2,
    ),
  );
  t.ok(
    close(
      share((choice) => choice?.abort !== undefined),
      0.3,
    ),
  );
  t.ok(
    close(
      share((choice) => (choice?.delayMs ?? 0) > 0 && choice?.abort !== undefined),
      0.06,
    ),
  );
  const never = [fault({ delay: { ms: 1, percent: 0 } })];
  t.equal(
    chooseFault(never, () => undefined, random),
    undefined,
  );
});
