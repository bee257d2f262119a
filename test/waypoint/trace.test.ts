/** A request in its trace: each try is a span of its own, and the endpoint's parent. */

import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import { createTracing, tracedSpan } from '../../src/telemetry/tracing.ts';
import { app, meshWith, retries } from './apps.ts';

const PARENT = `00-${'4'.repeat(32)}-${'5'.repeat(16)}-01`;

t.test('tries have spans of their own, whose ids the endpoints get', async (t) => {
  const tracing = createTracing(createSystemClock(), createSystemRandom(), 0);
  const target = app('app');
  const parents: string[] = [];
  target.handle = (request, response) => {
    const { traceparent } = request.headers;
    if (traceparent === undefined) {
      response.end();
      return;
    }
    const [, traceId, spanId = '', sampled] = String(traceparent).split('-');
    parents.push(spanId);
    t.strictSame([traceId, sampled], ['4'.repeat(32), '01']);
    if (parents.length === 1) request.socket.destroy();
    else response.writeHead(parents.length === 2 ? 503 : 200).end();
  };
  const { get, policy, rig } = await meshWith(t, { tracing }, target);
  policy(retries({ conditions: ['5xx', 'reset'], attempts: 3 }));
  t.equal((await get({ headers: { traceparent: PARENT } })).status, 200);
  const [record] = rig.records;
  const span = record && tracedSpan(record);
  t.match(span, { traceId: '4'.repeat(32), parentSpanId: '5'.repeat(16), sampled: true });
  t.strictSame(
    span?.tries.map(({ spanId }) => spanId),
    parents,
  );
  t.equal(new Set([...parents, span?.serverSpanId]).size, 4);
  const [pod] = [...rig.state.workloads.all()];
  t.match(span?.tries, [
    { principal: /\/sa\//, outcome: { status: 0, error: /^MESH_CONNECTION/ } },
    { outcome: { status: 503, error: undefined } },
    { outcome: { status: 200, grpcStatus: -1, error: undefined } },
  ]);
  t.ok(pod !== undefined && span?.tries.every(({ address }) => address.ip === pod.addresses[0]));
  t.equal((await get()).status, 200);
  t.equal(rig.records[1]?.trace, undefined, 'nobody asked for a trace');
});
