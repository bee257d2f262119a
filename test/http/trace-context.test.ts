import fc from 'fast-check';
import t from 'tap';

import { readTraceContext, traceFields } from '../../src/http/trace-context.ts';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const SPAN = '00f067aa0ba902b7';

void t.test('W3C traceparent', (t) => {
  const read = (value: string): unknown => readTraceContext([['traceparent', value]]);
  const context = { traceId: TRACE, parentId: SPAN, forms: ['w3c'] };
  t.strictSame(read(`00-${TRACE}-${SPAN}-01`), { ...context, sampled: true });
  t.strictSame(read(`00-${TRACE}-${SPAN}-00`), { ...context, sampled: false });
  t.strictSame(read(`00-${TRACE}-${SPAN}-03`), { ...context, sampled: true });
  t.strictSame(read(`cc-${TRACE}-${SPAN}-01-what`), { ...context, sampled: true }, 'later version');
  for (const bad of [
    '',
    `00-${TRACE}-${SPAN}`,
    `00-${TRACE}-${SPAN}-01-x`,
    `ff-${TRACE}-${SPAN}-01`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE}-${SPAN}-1`,
  ]) {
    t.equal(read(bad), undefined, bad);
  }
  const twice = readTraceContext([
    ['traceparent', `00-${TRACE}-${SPAN}-01`],
    ['traceparent', `00-${TRACE}-${SPAN}-00`],
  ]);
  t.equal(twice, undefined, 'two are none');
  t.end();
});

void t.test('B3 in one field and in several', (t) => {
  const one = (value: string): unknown => readTraceContext([['b3', value]])?.sampled;
  t.strictSame(
    ['1', '0', 'd'].map((state) => one(`${TRACE}-${SPAN}-${state}`)),
    [true, false, true],
  );
  t.strictSame(readTraceContext([['b3', `${SPAN}-${SPAN}`]]), {
    traceId: `${'0'.repeat(16)}${SPAN}`,
    parentId: SPAN,
    sampled: undefined,
    forms: ['b3'],
  });
  t.strictSame(
    readTraceContext([
      ['x-b3-traceid', TRACE.toUpperCase()],
      ['x-b3-spanid', SPAN],
      ['x-b3-sampled', '0'],
      ['x-b3-flags', '1'],
    ]),
    { traceId: TRACE, parentId: SPAN, sampled: true, forms: ['b3-multi'] },
  );
  t.equal(readTraceContext([['b3', '0']]), undefined, 'a decision without ids names no trace');
  t.equal(readTraceContext([['x-b3-traceid', TRACE]]), undefined);
  t.end();
});

void t.test('the next hop hears the forms that the caller speaks', (t) => {
  const context = readTraceContext([
    ['x-b3-traceid', TRACE],
    ['x-b3-spanid', SPAN],
    ['traceparent', `00-${TRACE}-${SPAN}-01`],
    ['b3', `${TRACE}-${SPAN}-1`],
  ]);
  t.strictSame(context?.forms, ['w3c', 'b3', 'b3-multi']);
  t.strictSame(traceFields(TRACE, SPAN, false, context?.forms ?? []), [
    ['traceparent', `00-${TRACE}-${SPAN}-00`],
    ['b3', `${TRACE}-${SPAN}-0`],
    ['x-b3-traceid', TRACE],
    ['x-b3-spanid', SPAN],
    ['x-b3-sampled', '0'],
  ]);
  t.end();
});

void t.test('property: whatever is read can be written and read again', (t) => {
  const name = fc.constantFrom('traceparent', 'b3', 'x-b3-traceid', 'x-b3-spanid', 'x-b3-sampled');
  const value = fc.oneof(
    fc.string({ maxLength: 60 }),
    fc.stringMatching(/^0[0-9a-f]-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/),
    fc.stringMatching(/^[0-9a-f]{16}-[0-9a-f]{16}-[01d]$/),
    fc.stringMatching(/^[0-9a-f]{16}$/),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(name, value), { maxLength: 5 }), (headers) => {
      const first = readTraceContext(headers);
      if (first === undefined) return;
      const { traceId, parentId, forms } = first;
      const sampled = first.sampled ?? false;
      const second = readTraceContext(traceFields(traceId, parentId, sampled, forms));
      if (
        second?.traceId !== traceId ||
        second.parentId !== parentId ||
        second.sampled !== sampled
      ) {
        throw new Error(`${JSON.stringify(first)} became ${JSON.stringify(second)}`);
      }
    }),
    { numRuns: 5_000 },
  );
  t.pass('held for 5,000 lists');
  t.end();
});
