/** The scrape endpoint over real HTTP, its two formats read back strictly, and its bounds. */

import { connect } from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { text } from 'node:stream/consumers';

import fc from 'fast-check';
import t from 'tap';

import { createFakeClock, createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import {
  CONTENT_TYPES,
  formatLabelPairs,
  negotiateFormat,
  renderExpositions,
} from '../../src/telemetry/exposition.ts';
import { serveMetrics } from '../../src/telemetry/metrics-server.ts';
import { createProcessGauges } from '../../src/telemetry/process-gauges.ts';
import { createProcessMetrics, declareBuild } from '../../src/telemetry/process-metrics.ts';
import { createRegistry } from '../../src/telemetry/registry.ts';
import { createSeriesStore } from '../../src/telemetry/series-store.ts';
import { createTrafficMetrics } from '../../src/telemetry/traffic-metrics.ts';
import { buildEdge, buildEdgeTo } from './connection-builder.ts';
import { parseExposition } from './exposition-parser.ts';

const OPENMETRICS = { accept: 'application/openmetrics-text; version=1.0.0' };

async function serve(t: Pick<typeof import('tap').t, 'teardown'>) {
  const store = createSeriesStore(createFakeClock());
  const registry = createRegistry(store);
  const processMetrics = createProcessMetrics();
  const logger = createNullLogger();
  const server = await serveMetrics({
    host: '127.0.0.1',
    port: 0,
    logger,
    registry,
    processMetrics,
  });
  t.teardown(() => server.close());
  const url = `http://127.0.0.1:${server.port}`;
  return { store, registry, server, url };
}

t.test('scrape shows own, traffic and process metrics in both formats', async (t) => {
  const { registry, store, url } = await serve(t);
  registry
    .counter({ name: 'nodemesh_x_total', help: 'With "quotes" \\ and\nlines', labels: ['a'] })
    .add(3, ['é"\\\n']);
  registry.gauge({ name: 'nodemesh_g', help: 'G' }).set(-1.5);
  registry.observedGauge({ name: 'nodemesh_now', help: 'N' }, () => 42);
  createTrafficMetrics(store).opened(buildEdge());
  for (const [format, headers] of [
    ['prometheus', {}],
    ['openmetrics', OPENMETRICS],
  ] as const) {
    const response = await fetch(`${url}/metrics`, { headers });
    t.equal(response.headers.get('content-type'), CONTENT_TYPES[format]);
    const families = parseExposition(await response.text(), format);
    const suffix = format === 'prometheus' ? '_total' : '';
    const [sample] = families.get(`nodemesh_x${suffix}`)?.samples ?? [];
    t.equal(sample?.value, 3);
    t.equal(sample?.labels.get('a'), 'é"\\\n');
    t.equal(families.get('nodemesh_g')?.samples[0]?.value, -1.5);
    t.equal(families.get('nodemesh_now')?.samples[0]?.value, 42);
    t.equal(families.get(`istio_tcp_connections_opened${suffix}`)?.samples[0]?.value, 1);
    t.ok((families.get('process_resident_memory_bytes')?.samples[0]?.value ?? 0) > 1e6);
    t.ok(families.has('nodejs_gc_duration_seconds'));
  }
});

t.test("scrape answers on the path of Istio's proxies, with query, HEAD and gzip", async (t) => {
  const { url, registry } = await serve(t);
  registry.gauge({ name: 'nodemesh_g', help: 'G' }).set(1);
  const istio = await fetch(`${url}/stats/prometheus?usedonly`);
  t.match(await istio.text(), /nodemesh_g 1\n/);
  t.equal(istio.headers.get('content-encoding'), 'gzip', 'fetch asks for it');
  const plain = await fetch(`${url}/metrics`, { headers: { 'accept-encoding': 'gzip;q=0' } });
  t.equal(plain.headers.get('content-encoding'), null);
  const head = await fetch(`${url}/metrics`, { method: 'HEAD' });
  t.equal(head.status, 200);
  t.equal(await head.text(), '');
});

t.test('T110: scrape endpoint changes nothing and has nothing else', async (t) => {
  const { url } = await serve(t);
  for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
    const response = await fetch(`${url}/metrics`, { method });
    t.equal(response.status, 405);
    t.equal(response.headers.get('allow'), 'GET, HEAD');
  }
  for (const path of [
    '/',
    '/quitquitquit',
    '/config_dump',
    '/logging',
    '/metrics/',
    '/metrics%2e',
  ]) {
    t.equal((await fetch(`${url}${path}`)).status, 404);
  }
});

t.test('scrape endpoint ends requests that are malformed, large or slow', async (t) => {
  const { server, url } = await serve(t);
  const raw = (bytes: string): Promise<string> => {
    const socket = connect(server.port, '127.0.0.1');
    socket.on('error', () => {});
    socket.write(bytes);
    return text(socket).catch(() => 'reset');
  };
  t.notMatch(await raw(`GET /metrics HTTP/1.1\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`), /200 OK/);
  t.notMatch(await raw('\u0016\u0003\u0001\u0000'), /200 OK/);
  t.equal((await fetch(`${url}/metrics`)).status, 200);
});

t.test('scrape endpoint takes a bounded number of connections', async (t) => {
  const { server } = await serve(t);
  const closed = new Set<number>();
  const sockets = Array.from({ length: 100 }, (_, n) => {
    const socket = connect(server.port, '127.0.0.1');
    socket.on('error', () => {});
    socket.on('close', () => closed.add(n));
    socket.resume();
    return socket;
  });
  while (closed.size < 36) await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal(closed.size, 36);
  for (const socket of sockets) socket.destroy();
});

t.test('a port in use is refused with MESH_CONNECT_FAILED or reset', async (t) => {
  const { server, registry } = await serve(t);
  const again = serveMetrics({
    host: '127.0.0.1',
    port: server.port,
    logger: createNullLogger(),
    registry,
  });
  await t.rejects(again, {
    name: 'MeshError',
    message: /Cannot listen on "127\.0\.0\.1:\d+": .*EADDRINUSE/,
  });
});

t.test('a gauge that cannot be read does not take the scrape down', async (t) => {
  const { registry, url } = await serve(t);
  registry.gauge({ name: 'nodemesh_g', help: 'G' }).set(1);
  registry.observedGauge({ name: 'nodemesh_bad', help: 'B' }, () => {
    throw new Error('broken');
  });
  t.match(await (await fetch(`${url}/metrics`)).text(), /nodemesh_g 1\n/);
});

t.test('build is shown under the name that Istio tools ask for', async (t) => {
  const { registry, url } = await serve(t);
  declareBuild(registry, 'nodemesh', '0.1.0');
  const text = await (await fetch(`${url}/metrics`)).text();
  t.match(text, 'istio_build{component="nodemesh",tag="0.1.0"} 1\n');
});

t.test('counters take no negative numbers', async (t) => {
  const registry = createRegistry(createSeriesStore(createFakeClock()));
  const counter = registry.counter({ name: 'a_total', help: 'A' });
  for (const value of [2, -1, Number.NaN]) counter.add(value);
  t.equal(
    [...renderExpositions(registry.expositions(), 'prometheus')].join(''),
    '# HELP a_total A\n# TYPE a_total counter\na_total 2\n',
  );
});

t.test('format follows the Accept header of the scraper', async (t) => {
  const prometheus3 =
    'application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2';
  const cases: [string | undefined, string][] = [
    [undefined, 'prometheus'],
    ['', 'prometheus'],
    ['*/*', 'prometheus'],
    ['text/html', 'prometheus'],
    [prometheus3, 'openmetrics'],
    ['application/openmetrics-text', 'openmetrics'],
    ['text/plain, application/openmetrics-text; q=0.5', 'prometheus'],
    ['text/plain;q=0.5, application/openmetrics-text; q=0.5', 'openmetrics'],
    ['application/openmetrics-text; version=2.0.0', 'prometheus'],
    ['application/openmetrics-text; q=0', 'prometheus'],
    ['application/openmetrics-text; q=junk', 'prometheus'],
    [`${'x,'.repeat(1e5)}application/openmetrics-text`, 'prometheus'],
  ];
  for (const [accept, format] of cases)
    t.equal(negotiateFormat(accept), format, accept === undefined ? 'none' : accept.slice(0, 80));
});

t.test('property: any label values and numbers come back from both formats', async () => {
  const samples = fc.uniqueArray(
    fc.record({
      label: fc.string({ unit: 'grapheme' }),
      value: fc.double({ min: 0, noNaN: true }),
    }),
    { selector: ({ label }) => label },
  );
  fc.assert(
    fc.property(
      samples,
      fc.string(),
      fc.constantFrom('prometheus', 'openmetrics'),
      (given, help, format) => {
        const exposition = {
          name: 'a_total',
          help,
          type: 'counter' as const,
          samples: given.map(({ label, value }) => ({
            name: 'a_total',
            labelText: formatLabelPairs({ l: label }),
            value,
          })),
        };
        if (given.length === 0) return true;
        const parsed = parseExposition(
          [...renderExpositions([exposition], format)].join(''),
          format,
        );
        const back = parsed.get(format === 'prometheus' ? 'a_total' : 'a')?.samples ?? [];
        return given.every(
          ({ label, value }, index) =>
            back[index]?.labels.get('l') === label && Object.is(back[index].value + 0, value + 0),
        );
      },
    ),
  );
});

t.test('a full store renders fast and in pieces', async (t) => {
  const store = createSeriesStore(createFakeClock());
  const traffic = createTrafficMetrics(store);
  for (let n = 0; n < 10_000; n++) {
    const edge = buildEdgeTo(`host-${n}`);
    traffic.opened(edge);
    traffic.ended(edge, n % 2 === 0 ? 'RESET' : '-', true);
  }
  const startMs = performance.now();
  const pieces = [...renderExpositions(createRegistry(store).expositions(), 'openmetrics')];
  const spentMs = performance.now() - startMs;
  const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
  t.comment(
    `${store.seriesCount} series, ${Math.round(bytes / 1024)} KiB in ${Math.round(spentMs)} ms`,
  );
  t.ok(pieces.every((piece) => piece.length < 128 * 1024));
  t.ok(spentMs < 1000);
});

t.test('process gauges show memory and the longest block of the loop', async (t) => {
  const clock = createSystemClock();
  const store = createSeriesStore(clock);
  const gauges = createProcessGauges(clock, store, 'worker-0');
  const value = (name: string): number =>
    store.families.get(name)?.series.get('worker-0')?.value ?? -1;
  // A block before the first tick of the watch is not seen. Ours was started after it and ticks after it: what ours has
  // counted, it has too.
  const ticks = monitorEventLoopDelay({ resolution: 20 });
  ticks.enable();
  const untilMoreThan = async (count: number): Promise<void> => {
    while (ticks.count <= count) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await untilMoreThan(0);
  const before = ticks.count;
  const endMs = performance.now() + 120;
  while (performance.now() < endMs);
  await untilMoreThan(before);
  ticks.disable();
  gauges.observe();
  t.ok(value('nodemesh_eventloop_lag_seconds') > 0.08);
  t.ok(value('nodemesh_resident_memory_bytes') > 1e6);
  const cores = value('nodemesh_cpu_cores');
  t.ok(cores > 0 && cores < 64, `${cores} cores`);
  gauges.observe();
  t.ok(value('nodemesh_eventloop_lag_seconds') < 0.08, 'each reading starts anew');
  gauges.stop();
  store.stop();
});
