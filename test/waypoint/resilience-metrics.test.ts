/** What each section of a TrafficPolicy did: its metric's value, the record's flag, and the reason in the access log. */

import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { createServer as createNetServer, type Socket } from 'node:net';

import t, { type Test } from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import type { ErrorCode, ResponseFlag } from '../../src/base/errors.ts';
import {
  DEFAULT_BALANCING,
  DEFAULT_LIMITS,
  DEFAULT_OUTLIERS,
  DEFAULT_TIMEOUTS,
  type StoreFailure,
} from '../../src/core/traffic-policy.ts';
import { key } from '../state/build.ts';
import { app, mesh, meshWith, retries, status, type App } from './apps.ts';
import { listen, type Rig } from './rig.ts';
import { rateLimit } from './traffic-builder.ts';

const SERVICE = String(key('app'));
type Labels = Readonly<Record<string, string>>;

/** `labels`: beside the service. */
function metric(rig: Rig, name: string, labels: Labels = {}): number {
  return rig.metric(`nodemesh_${name}`, { service: SERVICE, ...labels });
}

/** The last request, as record and log tell of it. */
function told(
  t: Test,
  rig: Rig,
  { flag, code, reason }: { flag: ResponseFlag; code: ErrorCode; reason: RegExp },
): void {
  t.match(rig.records.at(-1), { flag, errorCode: code, error: reason });
  t.match(rig.lines.at(-1), { message: 'request failed', fields: { flag, code, error: reason } });
}

async function hit(target: App, hits: number): Promise<void> {
  while (target.hits < hits) await new Promise((resolve) => setImmediate(resolve));
}

t.test('retries and their budget', async (t) => {
  const bad = app('bad');
  bad.handle = status(500);
  const { get, policy, rig } = await mesh(t, bad);
  const budget = { percent: 100, intervalMs: 60_000, minPerSecond: 0 };
  policy(retries({ conditions: ['5xx'], attempts: 2, budget }));
  t.equal((await get()).status, 503);
  t.equal(metric(rig, 'retries_total', { outcome: 'retried' }), 1);
  t.equal(metric(rig, 'retries_total', { outcome: 'over_budget' }), 1);
  told(t, rig, { flag: 'RETRY_BUDGET', code: 'MESH_LIMIT_EXCEEDED', reason: /retry budget/ });
  t.match(rig.lines.at(-1)?.fields, { attempts: 2, status: 503 });
});

t.test('timeouts: of a request, a try, and a connection', async (t) => {
  const clock = createFakeClock();
  const slow = app('slow');
  slow.handle = () => {};
  const { get, policy, rig } = await meshWith(t, { clock }, slow);
  const late = (reason: RegExp) =>
    ({ flag: 'TIMEOUT', code: 'MESH_DEADLINE_EXCEEDED', reason }) as const;
  policy({ timeouts: { ...DEFAULT_TIMEOUTS, requestMs: 5_000 } });
  const whole = get();
  await hit(slow, 1);
  await clock.advance(5_000);
  t.equal((await whole).status, 504);
  told(t, rig, late(/ran out of time/));
  t.equal(metric(rig, 'request_timeouts_total', { kind: 'request' }), 1);

  policy(retries({ conditions: ['gateway-error'], perTryTimeoutMs: 400 }));
  const tries = get();
  await hit(slow, 2);
  await clock.advance(450);
  await hit(slow, 3);
  await clock.advance(450);
  t.equal((await tries).status, 504);
  told(t, rig, late(/did not answer in time/));
  t.equal(metric(rig, 'request_timeouts_total', { kind: 'per_try' }), 2);

  // A tunnel port that takes connections and never says a word.
  const accepted = new Set<Socket>();
  const silent = createNetServer((socket) => {
    socket.on('error', () => {});
    accepted.add(socket);
  });
  const host = `127.90.${process.pid % 250}.1`;
  await listen(silent, host, 15_008);
  t.teardown(() => {
    silent.close();
    for (const socket of accepted) socket.destroy();
  });
  const [pod] = [...rig.state.services.endpoints(key('app'))];
  if (pod === undefined) throw new Error('No endpoint');
  rig.state.applyAddresses({
    workloads: [{ ...pod, addresses: [host as never], tunnelProtocol: 'hbone' }],
  });
  policy({ ...retries({ attempts: 0 }), timeouts: { ...DEFAULT_TIMEOUTS, connectMs: 700 } });
  const connecting = get();
  await once(silent, 'connection');
  await clock.advance(700);
  t.equal((await connecting).status, 504);
  told(t, rig, late(/did not answer in time/));
  t.equal(metric(rig, 'request_timeouts_total', { kind: 'connect' }), 1);
});

t.test('limits: a queue, what waits too long in it, and connections', async (t) => {
  const clock = createFakeClock();
  const slow = app('slow');
  const waiting: ServerResponse[] = [];
  slow.handle = (_, response) => void waiting.push(response);
  const { get, policy, rig } = await meshWith(t, { clock }, slow);
  const shed = (reason: RegExp) =>
    ({ flag: 'OVERFLOW', code: 'MESH_LIMIT_EXCEEDED', reason }) as const;
  policy({ limits: { ...DEFAULT_LIMITS, requestsMax: 1, queueMax: 1, queueTimeoutMs: 900 } });
  const running = get();
  await hit(slow, 1);
  const queued = get();
  while (metric(rig, 'requests_queued_total') < 1) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.equal((await get()).status, 503, 'beyond the queue');
  told(t, rig, shed(/Too many requests/));
  t.equal(metric(rig, 'requests_shed_total', { reason: 'requests' }), 1);
  await clock.advance(900);
  t.equal((await queued).status, 503, 'waited in vain');
  told(t, rig, shed(/Too many requests/));
  t.equal(metric(rig, 'requests_shed_total', { reason: 'queue_timeout' }), 1);
  t.equal(metric(rig, 'requests_queued_total'), 1);
  policy({ limits: { ...DEFAULT_LIMITS, connectionsMax: 1 } });
  // The one that is open has been made before the limit, and does not count.
  const counted = get();
  await hit(slow, 2);
  t.equal((await get()).status, 503, 'one connection is in use');
  told(t, rig, shed(/as many connections as its policy allows/));
  t.equal(metric(rig, 'requests_shed_total', { reason: 'connections' }), 1);
  for (const response of waiting) response.end();
  await Promise.all([running, counted]);
});

t.test('outlier detection: how often, and how many are out now', async (t) => {
  const [sick, good] = [app('sick'), app('good')];
  sick.handle = status(500);
  const { get, policy, rig } = await mesh(t, sick, good);
  policy({
    balancing: { ...DEFAULT_BALANCING, algorithm: 'round-robin' },
    outliers: { ...DEFAULT_OUTLIERS, consecutiveFailures: 2, ejectionBaseMs: 60_000 },
  });
  while (sick.hits < 2) await get();
  t.equal(metric(rig, 'outlier_ejections_total'), 1);
  t.equal(metric(rig, 'outlier_endpoints_ejected'), 1);
  policy({});
  t.equal(metric(rig, 'outlier_endpoints_ejected'), 0, 'without the section nobody is out');
});

t.test('rate limits, and a shared one whose store is away', async (t) => {
  const { get, policy, rig } = await mesh(t, app('app'));
  const limited = { flag: 'RATE_LIMIT', code: 'MESH_LIMIT_EXCEEDED', reason: /"l"/ } as const;
  policy({ rateLimits: [rateLimit()] });
  t.equal((await get()).status, 200);
  t.equal((await get()).status, 429);
  told(t, rig, limited);
  t.equal(metric(rig, 'requests_rate_limited_total', { scope: 'local' }), 1);
  for (const [onFailure, expected, shared] of [
    ['allow', 200, 0],
    ['deny', 429, 1],
    ['local', 200, 1],
  ] as const satisfies readonly [StoreFailure, number, number][]) {
    policy({ rateLimits: [rateLimit({ shared: true, onFailure })] });
    t.equal((await get()).status, expected, onFailure);
    t.equal(metric(rig, 'rate_limit_store_failures_total', { action: onFailure }), 1);
    t.equal(metric(rig, 'requests_rate_limited_total', { scope: 'shared' }), shared);
    if (expected === 429) told(t, rig, limited);
  }
});

t.test('faults: a delay is only counted, an abort is told', async (t) => {
  const clock = createFakeClock();
  const target = app('app');
  const { get, policy, rig } = await meshWith(t, { clock }, target);
  const abort = { httpStatus: 418, grpcStatus: undefined, percent: 100 };
  policy({
    faults: [
      { headers: [{ name: 'x-fault', value: 'both' }], delay: { ms: 300, percent: 100 }, abort },
      { headers: [], delay: { ms: 300, percent: 100 }, abort: undefined },
    ],
  });
  const delays = async (count: number): Promise<void> => {
    while (metric(rig, 'faults_injected_total', { kind: 'delay' }) < count) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const both = get({ headers: { 'x-fault': 'both' } });
  await delays(1);
  await clock.advance(300);
  t.equal((await both).status, 418);
  told(t, rig, { flag: 'FAULT', code: 'MESH_ABORTED', reason: /a fault of a policy/ });
  t.equal(metric(rig, 'faults_injected_total', { kind: 'abort' }), 1);
  const delayed = get();
  await delays(2);
  t.equal(target.hits, 0);
  await clock.advance(300);
  t.equal((await delayed).status, 200);
  t.match(rig.records.at(-1), { flag: '-', durationMs: 300 });
});
