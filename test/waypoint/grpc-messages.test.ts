/** Messages are counted alike, however their bytes are cut. */

import fc from 'fast-check';
import t from 'tap';

import { GrpcMessages } from '../../src/waypoint/grpc-messages.ts';

const message = (length: number): Buffer => {
  const bytes = Buffer.alloc(5 + length, 0xff);
  bytes[0] = length % 2;
  bytes.writeUInt32BE(length, 1);
  return bytes;
};

/** A call, and what it has reported. */
function counted(): { call: GrpcMessages; reports: [requests: number, responses: number][] } {
  const reports: [number, number][] = [];
  return { call: new GrpcMessages((...counts) => void reports.push(counts)), reports };
}

const answered = (call: GrpcMessages, type: string): void =>
  call.answered([
    [':status', '200'],
    ['content-type', type],
  ]);

void t.test('property: any messages in any pieces', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.integer({ min: 0, max: 12 }), fc.constant(70_000)), { maxLength: 90 }),
      fc.array(fc.integer({ min: 1, max: 40_000 }), { minLength: 1, maxLength: 20 }),
      (lengths, cuts) => {
        const all = Buffer.concat(lengths.map(message));
        const { call, reports } = counted();
        let turn = 0;
        for (let at = 0; at < all.length;) {
          const step = cuts[turn++ % cuts.length] ?? 1;
          call.pushRequest(all.subarray(at, at + step));
          at += step;
        }
        call.report();
        return reports.reduce((sum, [requests]) => sum + requests, 0) === lengths.length;
      },
    ),
    { numRuns: 300 },
  );
  t.end();
});

void t.test('a message counts with its prefix, and shows before the call ends', (t) => {
  const { call, reports } = counted();
  answered(call, 'application/grpc+proto');
  call.report();
  t.strictSame(reports, [], 'nothing is no report');
  call.pushResponse(message(0xffff).subarray(0, 4));
  call.report();
  t.strictSame(reports, [], 'not before its prefix is complete');
  call.pushResponse(Buffer.from([0xff]));
  call.report();
  t.strictSame(reports, [[0, 1]]);
  call.pushResponse(Buffer.alloc(0xffff));
  for (let i = 0; i < 63; i++) call.pushResponse(message(0));
  t.equal(reports.length, 1, 'the bytes of a message are no prefixes');
  call.pushRequest(message(3));
  call.pushResponse(message(0));
  t.strictSame(reports[1], [1, 64]);
  const other = counted();
  answered(other.call, 'text/html');
  other.call.pushResponse(Buffer.from('<html>bad gateway</html>'));
  other.call.report();
  t.strictSame(other.reports, [], 'a page is no message');
  t.end();
});
