/** The table of streams beside a plain `Map`, and what it remembers of those that are gone. */

import fc from 'fast-check';
import t from 'tap';

import { StreamTable } from '../../../src/http/h2/stream-table.ts';
import type { Stream } from '../../../src/http/h2/stream.ts';

/** What the table reads of a stream. */
const streamOf = (id: number, resetHere = false): Stream =>
  ({ id, done: true, resetHere }) as unknown as Stream;

const ids = (streams: Iterable<Stream>): number[] =>
  [...streams].map(({ id }) => id).toSorted((a, b) => a - b);

t.test('finds exactly the open streams, old ones among many new ones (property)', (t) => {
  // Ids rise, or leap so that all meet in one slot; any of the open ones ends next, so that the oldest may outlive thousands.
  const step = fc.record({
    opens: fc.nat(40),
    leap: fc.constantFrom(2, 2, 6, 512),
    ends: fc.array(fc.nat(), { maxLength: 40 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      const table = new StreamTable(false);
      const open = new Map<number, Stream>();
      for (const { opens, leap, ends } of steps) {
        for (let i = 0; i < opens; i++) {
          const stream = streamOf(table.nextId);
          table.nextId += leap;
          table.add(stream);
          open.set(stream.id, stream);
        }
        for (const end of ends) {
          const stream = [...open.values()][end % Math.max(open.size, 1)];
          if (stream === undefined) break;
          table.remove(stream);
          open.delete(stream.id);
          t.equal(table.get(stream.id), undefined);
        }
        t.equal(table.size, open.size);
        t.strictSame(ids(table.values()), ids(open.values()));
        for (const [id, stream] of open) t.equal(table.get(id), stream);
        t.equal(table.get(table.nextId), undefined);
      }
    }),
  );
  t.end();
});

t.test('tells streams that have ended, were reset here, are idle, or forgotten apart', (t) => {
  const table = new StreamTable(false);
  const endNext = (resetHere: boolean): void => {
    const stream = streamOf(table.nextId, resetHere);
    table.nextId += 2;
    table.add(stream);
    table.remove(stream);
  };
  endNext(false);
  endNext(true);
  t.equal(table.absent(1), 'closed');
  t.equal(table.absent(3), 'reset-here');
  t.equal(table.absent(5), 'idle');
  t.equal(table.absent(2), 'idle', 'no even id is ever used');
  for (let i = 0; i < 63; i++) endNext(false);
  t.equal(table.absent(1), 'closed', 'the last 64 are known');
  endNext(false);
  t.equal(table.absent(1), 'skipped', 'the oldest is forgotten');
  t.equal(table.absent(5), 'closed');
  t.equal(table.absent(3), 'reset-here');
  t.end();
});
