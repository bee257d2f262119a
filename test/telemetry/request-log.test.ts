/** The access log of requests: one line for each, whatever became of it. */

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createHistogramStore } from '../../src/telemetry/histogram-store.ts';
import { createLogger } from '../../src/telemetry/logger.ts';
import { createRequestLog } from '../../src/telemetry/request-log.ts';
import { createRequestMetrics } from '../../src/telemetry/request-metrics.ts';
import { createRequestReporter } from '../../src/telemetry/request-reporter.ts';
import { createSeriesStore } from '../../src/telemetry/series-store.ts';
import { buildRequestRecord, buildTrace } from './request-builder.ts';

function linesOf(parts: Parameters<typeof buildRequestRecord>[0]): {
  raw: readonly string[];
  lines: Record<string, unknown>[];
  traced: number;
} {
  const raw: string[] = [];
  const clock = createFakeClock(0);
  const store = createSeriesStore(clock);
  const logger = createLogger({ clock, writer: { write: (line) => void raw.push(line) } });
  let traced = 0;
  const reporter = createRequestReporter({
    metrics: createRequestMetrics(store, createHistogramStore(store)),
    log: createRequestLog(logger),
    spans: { add: () => void traced++ },
  });
  reporter.ended(buildRequestRecord(parts));
  return { raw, lines: raw.map((line) => JSON.parse(line) as Record<string, unknown>), traced };
}

void t.test('a request that was served, with every field and without its query', (t) => {
  const { lines, traced } = linesOf({
    trace: buildTrace(),
    path: '/items/1?token=secret',
    requestPrincipal: 'https://issuer/alice',
  });
  t.strictSame(lines, [
    {
      level: 'info',
      time: '1970-01-01T00:00:00.000Z',
      scope: 'access',
      'src.addr': '10.0.1.2:40000',
      'src.workload': 'web-v1',
      'src.namespace': 'shop',
      'src.identity': 'spiffe://cluster.local/ns/shop/sa/web',
      'src.cluster': 'Kubernetes',
      'dst.addr': '10.0.2.3:80',
      'dst.service': 'cart.shop.svc.cluster.local',
      'dst.workload': 'cart-v1',
      'dst.namespace': 'shop',
      'dst.identity': 'spiffe://cluster.local/ns/shop/sa/cart',
      'dst.cluster': 'Kubernetes',
      protocol: 'http',
      http_version: 'HTTP/1.1',
      method: 'GET',
      authority: 'cart',
      path: '/items/1',
      user_agent: 'curl/8',
      request_id: 'r-1',
      request_principal: 'https://issuer/alice',
      route: 'HTTPRoute/shop/cart',
      rule: '0',
      backend: 'shop/cart.shop.svc.cluster.local:80',
      status: 200,
      request_bytes: 10,
      response_bytes: 2000,
      duration: '12.4ms',
      upstream_time: '9.1ms',
      attempts: 1,
      flag: '-',
      trace_id: 'a'.repeat(32),
      msg: 'request complete',
    },
  ]);
  t.equal(traced, 1);
  t.end();
});

void t.test('refused, failed, audited', (t) => {
  const { lines, traced } = linesOf({
    flag: 'DENY',
    status: 403,
    policy: 'shop/only-web',
    error: 'denied by AuthorizationPolicy shop/only-web (rule 0)',
    errorCode: 'MESH_POLICY_DENIED',
    audited: ['shop/watch'],
    wouldDeny: ['shop/try'],
    attempts: 0,
    upstreamMs: undefined,
  });
  t.match(lines, [
    { scope: 'audit', msg: 'request audited', policies: ['shop/watch'] },
    { scope: 'audit', msg: 'request would be denied', policies: ['shop/try'] },
    {
      level: 'warn',
      msg: 'request denied',
      policy: 'shop/only-web',
      code: 'MESH_POLICY_DENIED',
      attempts: 0,
    },
  ]);
  t.equal(traced, 0);
  t.match(linesOf({ flag: 'CONNECT', status: 503, error: 'refused' }).lines, [
    { level: 'error', msg: 'request failed', flag: 'CONNECT', status: 503, error: 'refused' },
  ]);
  t.equal(String(linesOf({ userAgent: 'x'.repeat(5_000) }).lines[0]?.['user_agent']).length, 1_024);
  t.end();
});

void t.test(
  'T109 what a client or an application says comes back as it was, in ASCII',
  async (t) => {
    const texts = fc.string({ unit: 'binary', maxLength: 200 });
    fc.assert(
      fc.property(texts, texts, texts, (userAgent, authority, error) => {
        const { raw, lines } = linesOf({ userAgent, authority, error, flag: 'CONNECT' });
        t.match(raw, [/^[ -~]+\n$/]);
        const shown = { user_agent: userAgent, authority, error };
        const wanted = Object.entries(shown).filter(([, value]) => value !== '');
        t.match(lines[0], Object.fromEntries(wanted));
      }),
      { numRuns: 200 },
    );
  },
);

void t.test('a line that would be too long is shortened, and says so', async (t) => {
  const long = 'x'.repeat(1_024);
  const { raw, lines } = linesOf({
    userAgent: long,
    authority: long,
    path: `/${long}`,
    error: long,
  });
  t.equal(raw.length, 1);
  t.ok((raw[0]?.length ?? 0) <= 4_096);
  t.match(lines, [{ scope: 'access', shortened: true, 'src.workload': 'web-v1', status: 200 }]);
});
