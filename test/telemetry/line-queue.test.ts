/** Lines in, the same bytes out, whole lines in each piece. */

import fc from 'fast-check';
import t from 'tap';

import { LineQueue } from '../../src/telemetry/line-queue.ts';

t.test('lines come out in order, whole, and stay what they were', async (t) => {
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 40 }),
    fc.string({ minLength: 3_000, maxLength: 4_000 }),
  );
  const step = fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({ text: fc.option(text, { nil: '' }), take: fc.constant(0) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        text: fc.constant(undefined),
        take: fc.integer({ min: 1, max: 9_000 }),
      }),
    },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const queue = new LineQueue();
      const given: string[] = [];
      const taken: Buffer[] = [];
      const take = (maxBytes: number): boolean => {
        const piece = queue.take(maxBytes);
        if (piece === undefined) return false;
        t.equal(piece.at(-1), 0x0a, 'whole lines');
        const only = piece.indexOf(0x0a) === piece.length - 1;
        t.ok(piece.length <= maxBytes || only, 'within the bound, unless it is one line');
        taken.push(piece);
        return true;
      };
      for (const { text: line, take: maxBytes } of steps) {
        if (line === undefined) take(maxBytes);
        else {
          const whole = `${line.replaceAll('\n', ' ')}\n`;
          given.push(whole);
          queue.push(whole, Buffer.byteLength(whole));
        }
      }
      while (take(4_096));
      t.equal(Buffer.concat(taken).toString(), given.join(''));
    }),
    { numRuns: 200 },
  );
});
