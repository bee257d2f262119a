/** Head sampling, spans as OTLP, and an exporter that never stands in the way. */

import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

import t from 'tap';

import { createFakeClock, createSystemClock } from '../../src/base/clock.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import { unwrap } from '../../src/base/result.ts';
import { parseSocketAddress } from '../../src/core/address.ts';
import { createOtlpPost } from '../../src/telemetry/otlp-post.ts';
import { formatSpans } from '../../src/telemetry/otlp-spans.ts';
import { createRegistry } from '../../src/telemetry/registry.ts';
import { createSeriesStore } from '../../src/telemetry/series-store.ts';
import { createSpanExporter, QUEUE_MAX } from '../../src/telemetry/span-exporter.ts';
import { createTracing } from '../../src/telemetry/tracing.ts';
import { buildRequestRecord, buildTrace, buildTry } from './request-builder.ts';

const ENDPOINT = unwrap(parseSocketAddress('10.0.2.3:80'));
const PARENT = `00-${'4'.repeat(32)}-${'5'.repeat(16)}-`;

void t.test('the caller decides, else the ratio', (t) => {
  const random = createSeededRandom(1);
  const clock = createFakeClock();
  const never = createTracing(clock, random, 0);
  t.equal(never.begin([]), undefined, 'without a ratio nothing is added');
  t.match(never.begin([['traceparent', `${PARENT}01`]]), {
    sampled: true,
    traceId: '4'.repeat(32),
    parentSpanId: '5'.repeat(16),
  });
  const refused = createTracing(clock, random, 1).begin([['traceparent', `${PARENT}00`]]);
  t.equal(refused?.sampled, false);
  t.equal(refused?.headers[0]?.[1], `00-${'4'.repeat(32)}-${refused?.serverSpanId}-00`);
  const unseen = refused?.beginTry(ENDPOINT, '');
  unseen?.ended(200, -1, undefined);
  t.match(unseen?.headers[0]?.[1], /^00-4{32}-[0-9a-f]{16}-00$/, 'the word of the caller goes on');
  t.strictSame(refused?.tries, [], 'nothing is kept');
  const some = createTracing(clock, random, 0.25);
  let sampled = 0;
  for (let i = 0; i < 4_000; i++) if (some.begin([])?.sampled === true) sampled++;
  t.ok(Math.abs(sampled - 1_000) < 120, `${sampled} of 4,000 at a quarter`);
  const root = createTracing(clock, random, 1).begin([]);
  t.match(root, { traceId: /^[0-9a-f]{32}$/, serverSpanId: /^[0-9a-f]{16}$/, parentSpanId: '' });
  const tried = root?.beginTry(ENDPOINT, 'spiffe://a/b');
  t.match(root?.tries, [{ address: ENDPOINT, principal: 'spiffe://a/b', outcome: undefined }]);
  t.not(root?.serverSpanId, root?.tries[0]?.spanId);
  t.equal(tried?.headers[0]?.[1].split('-')[2], root?.tries[0]?.spanId, 'the endpoint’s parent');
  tried?.ended(503, 14, 'MESH_CONNECTION_RESET');
  t.match(root?.tries[0]?.outcome, { status: 503, grpcStatus: 14, error: 'MESH_CONNECTION_RESET' });
  t.end();
});

interface Span {
  readonly name: string;
  readonly kind: number;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly status: { readonly code?: number };
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: readonly {
    readonly key: string;
    readonly value: { readonly stringValue?: string; readonly intValue?: string };
  }[];
}

function spansOf(body: string): readonly Span[] {
  const message = JSON.parse(body) as {
    resourceSpans: { scopeSpans: { spans: Span[] }[] }[];
  };
  return message.resourceSpans[0]?.scopeSpans[0]?.spans ?? [];
}

void t.test('a request is a SERVER span with a CLIENT span for each try below', (t) => {
  const record = buildRequestRecord({
    trace: buildTrace({
      parentSpanId: 'd'.repeat(16),
      tries: [
        buildTry('1', { status: 0, error: 'MESH_CONNECT_FAILED' }),
        buildTry('2', { status: 503 }),
        buildTry('3'),
      ],
    }),
    startWallMs: 1_764_000_000_123.5,
    method: 'BREW',
  });
  const [server, ...tries] = spansOf(formatSpans([record], { 'service.name': 'w' }, '1'));
  t.match(server, {
    kind: 2,
    spanId: 'b'.repeat(16),
    parentSpanId: 'd'.repeat(16),
    startTimeUnixNano: '1764000000123500000',
    endTimeUnixNano: '1764000000135940000',
    name: '_OTHER shop/cart',
  });
  const below = { kind: 3, parentSpanId: 'b'.repeat(16), traceId: 'a'.repeat(32) };
  t.match(tries, [
    { ...below, spanId: '1'.repeat(16), status: { code: 2 } },
    { ...below, spanId: '2'.repeat(16), status: { code: 2 } },
    { ...below, spanId: '3'.repeat(16), startTimeUnixNano: '1001000000', status: {} },
  ]);
  t.equal(tries[2]?.endTimeUnixNano, '1011000000');
  const attribute = (span: Span | undefined, key: string): unknown =>
    span?.attributes.find((entry) => entry.key === key)?.value;
  const ofTries = (key: string): unknown => tries.map((span) => attribute(span, key));
  t.strictSame(ofTries('http.request.resend_count'), [
    undefined,
    { intValue: '1' },
    { intValue: '2' },
  ]);
  t.strictSame(ofTries('http.response.status_code'), [
    undefined,
    { intValue: '503' },
    { intValue: '200' },
  ]);
  t.strictSame(ofTries('error.type'), [
    { stringValue: 'MESH_CONNECT_FAILED' },
    { stringValue: '503' },
    undefined,
  ]);
  t.strictSame(attribute(server, 'http.response.status_code'), { intValue: '200' });
  t.strictSame(attribute(server, 'url.path'), { stringValue: '/items/1' });
  const refused = buildRequestRecord({ trace: buildTrace({ tries: [] }), status: 403 });
  const spans = spansOf(formatSpans([refused, buildRequestRecord()], {}, '1'));
  t.match(spans, [{ kind: 2, status: {} }], 'nothing was sent, and 403 is not our error');
  t.equal(spans.length, 1);
  const open = { ...buildTry('c'), outcome: undefined };
  const failed = buildRequestRecord({ trace: buildTrace({ tries: [open] }), status: 503 });
  t.match(spansOf(formatSpans([failed], {}, '1')), [
    { status: { code: 2 } },
    { status: { code: 2 } },
  ]);
  t.end();
});

function createRig(post: (body: string) => Promise<void>) {
  const clock = createFakeClock();
  const store = createSeriesStore(clock);
  const registry = createRegistry(store);
  const exporter = createSpanExporter({ clock, registry, resource: {}, version: '1', post });
  const count = (name: string, label?: string): number => {
    const series = [...(store.families.get(name)?.series.values() ?? [])];
    return series.find(({ labels }) => label === undefined || labels[0] === label)?.value ?? 0;
  };
  return { clock, exporter, count };
}

void t.test('a collector that is away costs a counter, not memory', async (t) => {
  let posts = 0;
  const { clock, exporter, count } = createRig(() => {
    posts++;
    return Promise.reject(new Error('away'));
  });
  const record = buildRequestRecord({ trace: buildTrace() });
  for (let i = 0; i < QUEUE_MAX + 100; i++) exporter.add(record);
  t.equal(count('nodemesh_traced_requests_dropped_total', 'overflow'), 100);
  await clock.advance(60_000);
  t.equal(posts, 12, 'each of four batches is tried three times');
  t.equal(count('nodemesh_traced_requests_dropped_total', 'failed'), QUEUE_MAX);
  await clock.advance(60_000);
  t.equal(posts, 12);
  exporter.close();
});

void t.test('batches go one at a time, full ones at once', async (t) => {
  const bodies: string[] = [];
  let release = (): void => {};
  const { clock, exporter, count } = createRig((body) => {
    bodies.push(body);
    return new Promise((resolve) => (release = resolve));
  });
  const record = buildRequestRecord({ trace: buildTrace() });
  for (let i = 0; i < 600; i++) exporter.add(record);
  t.equal(bodies.length, 1);
  await clock.advance(10_000);
  t.equal(bodies.length, 1, 'the first is still on its way');
  release();
  await clock.advance(2_000);
  t.equal(bodies.length, 2);
  release();
  await clock.advance(1);
  t.equal(spansOf(bodies[1] ?? '{}').length, 2 * (600 - 512));
  t.equal(count('nodemesh_traced_requests_sent_total'), 600);
  exporter.close();
});

void t.test('posts to a real server; anything but 2xx and every failure rejects', async (t) => {
  const seen: string[] = [];
  let status = 200;
  const server = createServer((request, response) => {
    request.setEncoding('utf8').on('data', (text: string) => seen.push(`${request.url} ${text}`));
    request.on('end', () => {
      if (status === 0) request.socket.destroy();
      else response.writeHead(status).end('{}');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const url = new URL(`http://127.0.0.1:${port}/v1/traces`);
  const post = createOtlpPost(createSystemClock(), url);
  await post('{"a":1}');
  t.strictSame(seen, ['/v1/traces {"a":1}']);
  status = 429;
  await t.rejects(post('{}'), /status 429/);
  status = 0;
  await t.rejects(post('{}'), { code: 'MESH_CONNECTION_RESET' });
  await new Promise((resolve) => server.close(resolve));
  await t.rejects(post('{}'), { code: 'MESH_CONNECT_FAILED' });
});
