/** Retries: what is retried, when, within which budget, and that no schedule of events gets past the budget. */

import fc from 'fast-check';
import t from 'tap';

import { createSeededRandom } from '../../src/base/random.ts';
import { DEFAULT_BUDGET, DEFAULT_RETRIES } from '../../src/core/traffic-policy.ts';
import { RetryAllowance } from '../../src/waypoint/retry-budget.ts';
import {
  parseRetryAfter,
  parseRetryPushback,
  RetryPolicy,
  withRouteRetry,
  type AttemptOutcome,
} from '../../src/waypoint/retry-policy.ts';

const response = (
  status: number,
  more: { grpc?: number; afterMs?: number } = {},
): AttemptOutcome => ({
  kind: 'response',
  status,
  grpcStatus: more.grpc,
  retryAfterMs: more.afterMs,
});
const CONNECT: AttemptOutcome = { kind: 'connect-failure' };
const REFUSED: AttemptOutcome = { kind: 'refused-stream' };
const RESET: AttemptOutcome = { kind: 'reset', requestSent: true };
const UNSENT: AttemptOutcome = { kind: 'reset', requestSent: false };
const TIMEOUT: AttemptOutcome = { kind: 'timeout' };
const random = createSeededRandom(1);

function decide(
  settings: Partial<typeof DEFAULT_RETRIES>,
  outcome: AttemptOutcome,
  attempt: number = 1,
): string {
  const policy = new RetryPolicy({ ...DEFAULT_RETRIES, ...settings }, random);
  return policy.next(outcome, attempt, new RetryAllowance(DEFAULT_BUDGET), 0, Infinity).kind;
}

t.test(
  'without a policy only what the application cannot have seen is tried again, once',
  async (t) => {
    for (const outcome of [CONNECT, REFUSED]) t.equal(decide({}, outcome), 'retry');
    for (const outcome of [RESET, UNSENT, TIMEOUT, response(503), response(200, { grpc: 14 })]) {
      t.equal(decide({}, outcome), 'stop');
    }
    t.equal(decide({}, CONNECT, 2), 'stop');
    t.equal(decide({ attempts: 0 }, CONNECT), 'stop');
  },
);

t.test('each condition covers its outcomes and no other', async (t) => {
  const outcomes = {
    connect: CONNECT,
    refused: REFUSED,
    reset: RESET,
    unsent: UNSENT,
    timeout: TIMEOUT,
    500: response(500),
    503: response(503),
    505: response(505),
    404: response(404),
    200: response(200),
  };
  const rows: [Partial<typeof DEFAULT_RETRIES>, string][] = [
    [{ conditions: ['5xx'] }, '500 503 505 connect refused reset unsent timeout'],
    [{ conditions: ['gateway-error'] }, '503 timeout'],
    [{ conditions: ['connect-failure'] }, 'connect'],
    [{ conditions: ['refused-stream'] }, 'refused'],
    [{ conditions: ['reset'] }, 'reset unsent'],
    [{ conditions: ['reset-before-request'] }, 'unsent'],
    [{ conditions: [], statusCodes: [404, 504] }, '404 timeout'],
    [{ conditions: [] }, ''],
  ];
  for (const [settings, wanted] of rows) {
    const retried = Object.entries(outcomes)
      .filter(([, outcome]) => decide(settings, outcome) === 'retry')
      .map(([name]) => name);
    t.equal(retried.toSorted().join(' '), wanted.split(' ').toSorted().join(' '), wanted);
  }
  t.equal(decide({ conditions: [], grpcStatuses: [14] }, response(200, { grpc: 14 })), 'retry');
  t.equal(decide({ conditions: [], grpcStatuses: [14] }, response(200, { grpc: 0 })), 'stop');
});

t.test('waits: full jitter below a doubling bound, never below the minimum', async () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10 }),
      fc.nat(),
      fc.nat({ max: 100 }),
      (attempt, seed, minMs) => {
        const settings = { ...DEFAULT_RETRIES, attempts: 10, backoffMinMs: minMs };
        const policy = new RetryPolicy(settings, createSeededRandom(seed));
        const allowance = new RetryAllowance(DEFAULT_BUDGET);
        const decision = policy.next(CONNECT, attempt, allowance, 0, Infinity);
        const boundMs = Math.min(250, 25 * 2 ** (attempt - 1));
        return (
          decision.kind === 'retry' &&
          decision.delayMs >= minMs &&
          decision.delayMs <= minMs + boundMs
        );
      },
    ),
  );
});

t.test(
  'Retry-After is waited for within its bound, and a longer one ends the retries',
  async (t) => {
    const policy = new RetryPolicy({ ...DEFAULT_RETRIES, statusCodes: [503] }, random);
    const next = (afterMs: number, remainingMs: number = Infinity) =>
      policy.next(
        response(503, { afterMs }),
        1,
        new RetryAllowance(DEFAULT_BUDGET),
        0,
        remainingMs,
      );
    const waited = next(500);
    t.ok(waited.kind === 'retry' && waited.delayMs >= 500 && waited.delayMs <= 525);
    t.equal(next(2_000).kind, 'stop');
    t.equal(next(Infinity).kind, 'stop');
    t.equal(next(500, 400).kind, 'stop', 'the request would be over before');
    const ignoring = new RetryPolicy(
      { ...DEFAULT_RETRIES, statusCodes: [503], retryAfterMaxMs: 0 },
      random,
    );
    const allowance = new RetryAllowance(DEFAULT_BUDGET);
    t.equal(
      ignoring.next(response(503, { afterMs: 9e9 }), 1, allowance, 0, Infinity).kind,
      'retry',
    );
  },
);

t.test('Retry-After and grpc-retry-pushback-ms as they are written', async (t) => {
  const wallMs = Date.UTC(2026, 0, 1);
  t.equal(parseRetryAfter('3', wallMs), 3_000);
  t.equal(parseRetryAfter('Thu, 01 Jan 2026 00:00:05 GMT', wallMs), 5_000);
  t.equal(parseRetryAfter('Wed, 31 Dec 2025 00:00:05 GMT', wallMs), 0);
  for (const text of ['', '-1', '1.5', 'soon', '2026-01-01', '12345678901']) {
    t.equal(parseRetryAfter(text, wallMs), undefined, text);
  }
  t.equal(parseRetryPushback('250'), 250);
  t.equal(parseRetryPushback('-1'), Infinity);
  t.equal(parseRetryPushback('x'), Infinity);
  fc.assert(
    fc.property(fc.string(), (text) => {
      const ms = parseRetryAfter(text, wallMs);
      return ms === undefined || (ms >= 0 && Number.isFinite(ms));
    }),
  );
});

t.test("a route's own retry replaces count, codes and wait, and keeps the budget", async (t) => {
  const budget = { ...DEFAULT_BUDGET, percent: 3 };
  const settings = { ...DEFAULT_RETRIES, budget, conditions: ['5xx'] as const };
  const own = withRouteRetry(settings, { attempts: 4, codes: [500], backoffMs: 100 });
  t.match(own, { attempts: 4, statusCodes: [500], backoffMinMs: 100, budget });
  const policy = new RetryPolicy(own, random);
  const allowance = new RetryAllowance(DEFAULT_BUDGET);
  t.equal(policy.next(response(503), 1, allowance, 0, Infinity).kind, 'stop');
  t.equal(policy.next(CONNECT, 4, allowance, 0, Infinity).kind, 'retry');
});

t.test('budget: 20 % of the last 10 s and 10 a second besides, then over budget', async (t) => {
  const allowance = new RetryAllowance(DEFAULT_BUDGET);
  const policy = new RetryPolicy({ ...DEFAULT_RETRIES, statusCodes: [503] }, random);
  const retries = (nowMs: number): number => {
    let count = 0;
    while (policy.next(response(503), 1, allowance, nowMs, Infinity).kind === 'retry') count++;
    t.equal(policy.next(response(503), 1, allowance, nowMs, Infinity).kind, 'over-budget');
    return count;
  };
  t.equal(retries(0), 10, 'a second of the constant rate');
  for (let i = 0; i < 100; i++) allowance.countRequest(0);
  t.equal(retries(0), 20, 'a fifth of the requests');
  t.equal(retries(500), 5, 'half a second later');
  t.equal(retries(20_000), 10, 'the window has passed');
});

t.test('no schedule of requests and retries exceeds the budget in any window', async () => {
  const event = fc.record({ gapMs: fc.nat({ max: 2_000 }), requests: fc.nat({ max: 50 }) });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const allowance = new RetryAllowance(DEFAULT_BUDGET);
      const made: { readonly atMs: number; readonly requests: number; readonly retries: number }[] =
        [];
      let nowMs = 0;
      for (const { gapMs, requests } of events) {
        nowMs += gapMs;
        for (let i = 0; i < requests; i++) allowance.countRequest(nowMs);
        let retries = 0;
        while (allowance.takeRetry(nowMs)) retries++;
        made.push({ atMs: nowMs, requests, retries });
      }
      return made.every(({ atMs }, index) => {
        // Retries of a window may answer to requests of the window before their own.
        const within = (ms: number) =>
          made.filter((entry, at) => at <= index && entry.atMs > atMs - ms);
        const retries = within(9_000).reduce((sum, entry) => sum + entry.retries, 0);
        const requests = within(20_000).reduce((sum, entry) => sum + entry.requests, 0);
        return retries <= requests * 0.2 + 10 * 9 + 10;
      });
    }),
  );
});
