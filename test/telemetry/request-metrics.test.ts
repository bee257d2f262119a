/** Istio's request metrics: names, labels and bounds. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { renderExpositions } from '../../src/telemetry/exposition.ts';
import { createHistogramStore } from '../../src/telemetry/histogram-store.ts';
import { createRegistry } from '../../src/telemetry/registry.ts';
import {
  createRequestMetrics,
  REQUEST_LABELS,
  REQUEST_SERIES_MAX,
} from '../../src/telemetry/request-metrics.ts';
import { createSeriesStore, SERIES_MAX } from '../../src/telemetry/series-store.ts';
import { parseExposition, type ParsedFamily } from './exposition-parser.ts';
import { buildRequestRecord } from './request-builder.ts';

function createRig() {
  const clock = createFakeClock();
  const store = createSeriesStore(clock);
  const histograms = createHistogramStore(store);
  const metrics = createRequestMetrics(store, histograms);
  const scrape = (): Map<string, ParsedFamily> => {
    const text = [
      ...renderExpositions(createRegistry(store, histograms).expositions(), 'prometheus'),
    ];
    return parseExposition(text.join(''), 'prometheus');
  };
  return { clock, store, histograms, metrics, scrape };
}

void t.test('metrics have the labels that Kiali and Istio read', (t) => {
  const { metrics, scrape } = createRig();
  metrics.count(buildRequestRecord());
  metrics.count(buildRequestRecord({ durationMs: 700, responseBytes: 99_999_999 }));
  const families = scrape();
  const [requests] = families.get('istio_requests_total')?.samples ?? [];
  t.equal(requests?.value, 2);
  t.strictSame([...(requests?.labels.keys() ?? [])], REQUEST_LABELS);
  t.match(Object.fromEntries(requests?.labels ?? []), {
    reporter: 'waypoint',
    source_workload: 'web-v1',
    source_workload_namespace: 'shop',
    source_principal: 'spiffe://cluster.local/ns/shop/sa/web',
    source_app: 'web',
    destination_workload: 'cart-v1',
    destination_service: 'cart.shop.svc.cluster.local',
    destination_service_name: 'cart',
    destination_service_namespace: 'shop',
    request_protocol: 'http',
    response_code: '200',
    grpc_response_status: '',
    response_flags: '-',
    connection_security_policy: 'mutual_tls',
  });
  const duration = families.get('istio_request_duration_milliseconds');
  t.equal(duration?.type, 'histogram');
  const bucket = (le: string): number | undefined =>
    duration?.samples.find(({ labels }) => labels.get('le') === le)?.value;
  t.strictSame(
    ['10', '25', '500', '1000', '+Inf'].map(bucket),
    [0, 1, 1, 2, 2],
    'buckets are cumulative',
  );
  const value = (family: string, name: string): number | undefined =>
    families.get(family)?.samples.find((sample) => sample.name === name)?.value;
  t.equal(
    value('istio_request_duration_milliseconds', 'istio_request_duration_milliseconds_sum'),
    712.44,
  );
  t.equal(value('istio_response_bytes', 'istio_response_bytes_sum'), 100_001_999);
  t.equal(value('istio_request_bytes', 'istio_request_bytes_count'), 2);
  const [route] = families.get('nodemesh_route_requests_total')?.samples ?? [];
  t.strictSame(Object.fromEntries(route?.labels ?? []), {
    route_kind: 'HTTPRoute',
    route_namespace: 'shop',
    route: 'cart',
    rule: '0',
    backend: 'shop/cart.shop.svc.cluster.local:80',
    code_class: '2xx',
    flag: '-',
  });
  t.end();
});

void t.test('metrics count gRPC by status', (t) => {
  const { metrics, scrape } = createRig();
  for (const grpcStatus of [0, 14, 100_000, -1]) {
    metrics.count(buildRequestRecord({ protocol: 'grpc', grpcStatus }));
  }
  const statuses = scrape()
    .get('istio_requests_total')
    ?.samples.map(({ labels }) => labels.get('grpc_response_status'));
  t.strictSame(statuses, ['0', '14', 'other', '']);
  t.end();
});

void t.test('connections carried as bytes are counted as connections', (t) => {
  const { metrics, scrape } = createRig();
  metrics.count(buildRequestRecord({ protocol: 'tcp', requestBytes: 3, responseBytes: 5 }));
  metrics.count(buildRequestRecord({ protocol: 'tcp', flag: 'DENY', policy: 'shop/p' }));
  const families = scrape();
  t.equal(families.get('istio_requests_total'), undefined);
  const values = (name: string): unknown => families.get(name)?.samples.map(({ value }) => value);
  t.strictSame(values('istio_tcp_connections_opened_total'), [1, 1]);
  t.strictSame(values('istio_tcp_connections_failed_total'), [1]);
  t.strictSame(values('istio_tcp_received_bytes_total'), [3, 10]);
  t.strictSame(values('istio_tcp_sent_bytes_total'), [5, 2_000]);
  t.strictSame(values('nodemesh_request_denied_total'), [1]);
  t.end();
});

void t.test('metrics name policies that refused, audited or would refuse', (t) => {
  const { metrics, scrape } = createRig();
  metrics.count(
    buildRequestRecord({
      flag: 'DENY',
      policy: 'shop/a',
      audited: ['shop/b'],
      wouldDeny: ['shop/c'],
    }),
  );
  const families = scrape();
  const labels = (name: string): unknown =>
    families.get(name)?.samples.map((sample) => Object.fromEntries(sample.labels));
  t.strictSame(labels('nodemesh_request_denied_total'), [{ policy: 'shop/a' }]);
  t.strictSame(labels('nodemesh_request_policy_observed_total'), [
    { policy: 'shop/b', effect: 'audited' },
    { policy: 'shop/c', effect: 'would_deny' },
  ]);
  t.end();
});

void t.test('T108 series stay bounded whatever clients and applications do', (t) => {
  const { metrics, store, histograms, scrape } = createRig();
  t.ok(REQUEST_SERIES_MAX <= SERIES_MAX - 1_000, `${REQUEST_SERIES_MAX} lines at most`);
  const requests = 20_000;
  for (let n = 0; n < requests; n++) {
    metrics.count(
      buildRequestRecord({
        destinationService: n % 2 === 0 ? 'cart' : `h${n}.evil.test`,
        protocol: 'grpc',
        status: 100 + (n % 900),
        grpcStatus: n % 100,
        policy: `shop/p${n}`,
        flag: 'DENY',
        backend: `b${n}`,
        routeRule: `r${n}`,
        authority: `a${n}`,
        path: `/path-${n}`,
      }),
    );
  }
  t.ok(
    store.seriesCount + histograms.lineCount <= REQUEST_SERIES_MAX,
    `${store.seriesCount} series, ${histograms.lineCount} lines`,
  );
  const samples = scrape().get('istio_requests_total')?.samples ?? [];
  t.equal(
    samples.reduce((sum, { value }) => sum + value, 0),
    requests,
    'nothing is lost',
  );
  t.ok(samples.some(({ labels }) => labels.get('reporter') === 'other'));
  t.notOk(
    JSON.stringify(
      [...scrape().values()].map((family) => family.samples.map((sample) => [...sample.labels])),
    ).includes('path-'),
  );
  t.end();
});

void t.test('histograms that are idle for an hour vanish and come back from 0', async (t) => {
  const { metrics, clock, store, scrape } = createRig();
  const lasting = { name: 'nodemesh_up', help: 'Up', kind: 'gauge', labels: [] } as const;
  store.set(store.series(store.family(lasting), []), 1);
  const record = buildRequestRecord();
  metrics.count(record);
  await clock.advance(62 * 60_000);
  t.equal(scrape().get('istio_request_bytes'), undefined);
  metrics.count(record);
  const families = scrape();
  t.equal(families.get('istio_requests_total')?.samples[0]?.value, 1);
  t.equal(families.get('istio_request_bytes')?.samples.at(-1)?.value, 1);
});

void t.test('gRPC messages: labels of their edge, without any outcome', (t) => {
  const { metrics, scrape } = createRig();
  metrics.countMessages(buildRequestRecord(), 3, 0);
  metrics.countMessages(buildRequestRecord({ status: 500 }), 2, 7);
  const families = scrape();
  const [requests, ...more] = families.get('istio_request_messages_total')?.samples ?? [];
  t.strictSame(more, []);
  t.equal(requests?.value, 5);
  t.equal(families.get('istio_response_messages_total')?.samples[0]?.value, 7);
  t.strictSame(
    [...(requests?.labels.keys() ?? [])],
    REQUEST_LABELS.filter(
      (name) => !name.startsWith('response_') && name !== 'grpc_response_status',
    ),
  );
  t.match(Object.fromEntries(requests?.labels ?? []), {
    reporter: 'waypoint',
    source_workload: 'web-v1',
    destination_service_name: 'cart',
    request_protocol: 'grpc',
    connection_security_policy: 'mutual_tls',
  });
  t.end();
});
