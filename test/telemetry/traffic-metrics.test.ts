/** Istio's TCP metrics per edge, and their bound under hostile names. */

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import type { ConnectionReporter } from '../../src/core/connection-record.ts';
import { createAccessLog } from '../../src/telemetry/access-log.ts';
import { createConnectionReporter } from '../../src/telemetry/connection-reporter.ts';
import { renderExpositions } from '../../src/telemetry/exposition.ts';
import { createRegistry } from '../../src/telemetry/registry.ts';
import {
  createSeriesStore,
  IDLE_EXPIRY_MS,
  SERIES_MAX,
  type SeriesStore,
} from '../../src/telemetry/series-store.ts';
import { TRAFFIC_LABELS } from '../../src/telemetry/peer-labels.ts';
import { buildEdge, buildEdgeTo, buildRecord } from './connection-builder.ts';
import { floodWithHosts } from './hostile-flood.ts';
import { parseExposition, type ParsedSample } from './exposition-parser.ts';

interface Rig {
  readonly store: SeriesStore;
  readonly reporter: ConnectionReporter;
  readonly clock: ReturnType<typeof createFakeClock>;
  readonly samples: (name: string) => ParsedSample[];
  readonly sum: (name: string, flag?: string) => number;
}

function createRig(): Rig {
  const clock = createFakeClock();
  const store = createSeriesStore(clock);
  const reporter = createConnectionReporter(store, createAccessLog(createNullLogger()));
  const samples = (name: string): ParsedSample[] => {
    const text = [...renderExpositions(createRegistry(store).expositions(), 'prometheus')].join('');
    return parseExposition(text, 'prometheus').get(name)?.samples ?? [];
  };
  return {
    store,
    reporter,
    clock,
    samples,
    sum: (name, flag) =>
      samples(name)
        .filter(({ labels }) => flag === undefined || labels.get('response_flags') === flag)
        .reduce((total, { value }) => total + value, 0),
  };
}

t.test("traffic metrics carry exactly Istio's labels", async (t) => {
  const { reporter, samples } = createRig();
  reporter.opened(buildEdge());
  const [sample] = samples('istio_tcp_connections_opened_total');
  t.equal(sample?.value, 1);
  t.strictSame(Object.fromEntries(sample?.labels ?? []), {
    reporter: 'source',
    source_workload: 'web-v1',
    source_canonical_service: 'web',
    source_canonical_revision: 'v1',
    source_workload_namespace: 'shop',
    source_principal: 'spiffe://cluster.local/ns/shop/sa/web',
    source_app: 'web',
    source_version: 'v1',
    source_cluster: 'Kubernetes',
    destination_service: 'cart.shop.svc.cluster.local',
    destination_service_namespace: 'shop',
    destination_service_name: 'cart',
    destination_workload: 'cart-v1',
    destination_canonical_service: 'cart',
    destination_canonical_revision: 'v1',
    destination_workload_namespace: 'shop',
    destination_principal: 'spiffe://cluster.local/ns/shop/sa/cart',
    destination_app: 'cart',
    destination_version: 'v1',
    destination_cluster: 'Kubernetes',
    request_protocol: 'tcp',
    response_flags: '-',
    connection_security_policy: 'mutual_tls',
    source_region: 'eu',
    source_zone: 'unknown',
    destination_region: 'eu',
    destination_zone: 'unknown',
  });
  t.equal(TRAFFIC_LABELS.length, 27);
});

t.test('received bytes are what the source sent, whoever reports', async (t) => {
  for (const reporter of ['source', 'destination'] as const) {
    const rig = createRig();
    const edge = buildEdge({ reporter });
    rig.reporter.opened(edge);
    const isSource = reporter === 'source';
    const [bytesSent, bytesReceived] = isSource ? [100, 2000] : [2000, 100];
    rig.reporter.ended(buildRecord({ edge, bytesSent, bytesReceived }), 0, 0);
    t.equal(rig.sum('istio_tcp_received_bytes_total'), 100);
    t.equal(rig.sum('istio_tcp_sent_bytes_total'), 2000);
  }
});

t.test('bytes of a long connection show before its end and are counted once', async (t) => {
  const { reporter, sum } = createRig();
  const edge = buildEdge();
  reporter.opened(edge);
  reporter.progress(edge, 60, 1500);
  t.equal(sum('istio_tcp_received_bytes_total'), 60);
  t.equal(sum('istio_tcp_connections_closed_total'), 0);
  reporter.ended(buildRecord({ edge, bytesSent: 100, bytesReceived: 2000 }), 60, 1500);
  t.equal(sum('istio_tcp_received_bytes_total'), 100);
  t.equal(sum('istio_tcp_sent_bytes_total'), 2000);
  t.equal(sum('istio_tcp_connections_closed_total', '-'), 1);
  t.equal(sum('istio_tcp_connections_failed_total'), 0);
});

t.test(
  'a refused connection is failed, neither opened nor closed, and names its policy',
  async (t) => {
    const { reporter, sum, samples } = createRig();
    const errorCode = 'MESH_POLICY_DENIED';
    reporter.ended(
      buildRecord({
        opened: false,
        flag: 'DENY',
        policy: 'shop/no',
        errorCode,
        bytesSent: 0,
        bytesReceived: 0,
      }),
      0,
      0,
    );
    t.equal(sum('istio_tcp_connections_failed_total', 'DENY'), 1);
    t.equal(sum('istio_tcp_connections_opened_total'), 0);
    t.equal(sum('istio_tcp_connections_closed_total'), 0);
    t.equal(samples('nodemesh_policy_denied_total')[0]?.labels.get('policy'), 'shop/no');
    t.equal(samples('nodemesh_connection_errors_total')[0]?.labels.get('code'), errorCode);
    reporter.handshakeFailed('MESH_TUNNEL_HANDSHAKE_TIMEOUT');
    reporter.handshakeFailed('MESH_TUNNEL_HANDSHAKE_TIMEOUT');
    const [failed] = samples('nodemesh_handshake_failures_total');
    t.equal(failed?.value, 2);
    t.equal(failed?.labels.get('code'), 'MESH_TUNNEL_HANDSHAKE_TIMEOUT');
  },
);

t.test('open connections are opened minus closed, and a gauge', async (t) => {
  const { reporter, sum, samples } = createRig();
  for (let n = 0; n < 5; n++) reporter.opened(buildEdge());
  reporter.ended(buildRecord({ edge: buildEdge(), flag: 'RESET' }), 0, 0);
  reporter.ended(buildRecord({ edge: buildEdge() }), 0, 0);
  t.equal(sum('istio_tcp_connections_opened_total') - sum('istio_tcp_connections_closed_total'), 3);
  t.equal(
    samples('nodemesh_connections_open')
      .find(({ value }) => value === 3)
      ?.labels.get('direction'),
    'outbound',
  );
});

t.test('idle edges expire, edges with an open connection stay', async (t) => {
  const { reporter, clock, samples } = createRig();
  const [idle, open] = [buildEdgeTo('idle'), buildEdgeTo('open')];
  reporter.opened(idle);
  reporter.ended(buildRecord({ edge: idle }), 0, 0);
  reporter.opened(open);
  reporter.opened(open);
  reporter.ended(buildRecord({ edge: open }), 0, 0);
  await clock.advance(IDLE_EXPIRY_MS * 1.1);
  const names = (family: string): (string | undefined)[] =>
    samples(family).map(({ labels }) => labels.get('destination_service'));
  t.strictSame(names('istio_tcp_connections_opened_total'), ['open']);
  t.strictSame(names('istio_tcp_connections_closed_total'), ['open']);
  reporter.opened(idle);
  t.equal(names('istio_tcp_connections_opened_total').length, 2, 'and come back');
});

t.test('T108, G28: hostile hosts leave series flat, the rest is counted as other', async (t) => {
  const result = floodWithHosts(5_000, 40_000);
  t.equal(result.seriesAtEnd, result.seriesAfterWarmUp);
  t.ok(result.seriesAtEnd <= SERIES_MAX);
  t.equal(result.openedCount, 40_000, 'nothing is lost');
  t.equal(result.closedCount, 40_000);
  t.ok(result.otherCount > 38_000);
});

t.test('a connection on a known edge costs little', async (t) => {
  const { reporter } = createRig();
  const edge = buildEdge();
  const record = buildRecord({ edge });
  const rounds = 100_000;
  const startMs = performance.now();
  for (let n = 0; n < rounds; n++) {
    reporter.opened(edge);
    reporter.progress(edge, 10, 10);
    reporter.ended(record, 10, 10);
  }
  const nsEach = ((performance.now() - startMs) * 1e6) / rounds;
  t.comment(`${Math.round(nsEach)} ns for a connection, access log discarded`);
  t.ok(nsEach < 50_000);
});

t.test('T49 the count of bypassed waypoints is there at 0, for an alarm to look at', (t) => {
  const { reporter, samples } = createRig();
  const value = (): number | undefined => samples('nodemesh_waypoint_bypass_total')[0]?.value;
  t.equal(value(), 0);
  reporter.ended(buildRecord({ errorCode: 'MESH_WAYPOINT_BYPASSED', opened: false }), 0, 0);
  t.equal(value(), 1);
  t.end();
});
