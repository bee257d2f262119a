import fc from 'fast-check';
import t from 'tap';

import {
  decodeStatusMessage,
  encodeStatusMessage,
  GRPC_STATUS,
  grpcError,
  grpcStatusOf,
  statusFromHttp,
  statusFromReset,
} from '../../src/discovery/grpc-status.ts';
import { H2_ERROR } from '../../src/http/h2/contract.ts';

void t.test('grpc-message carries any text as printable ASCII', async () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 50 }), (text) => {
      const encoded = encodeStatusMessage(text);
      return /^[\x20-\x7e]*$/.test(encoded) && decodeStatusMessage(encoded) === text;
    }),
  );
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary' }),
      (text) => typeof decodeStatusMessage(text) === 'string',
    ),
  );
});

void t.test('gRPC errors carry their number', async (t) => {
  const error = grpcError(GRPC_STATUS.UNAVAILABLE, 'away');
  t.match(error, { code: 'MESH_GRPC_STATUS', retryable: true, details: { status: 14 } });
  t.equal(grpcStatusOf(error), 14);
  t.equal(grpcStatusOf(new Error('x')), undefined);
  t.equal(grpcError(99, 'odd').retryable, false);
  t.same(['400', '401', '403', '404', '503', '418'].map(statusFromHttp), [13, 16, 7, 12, 14, 2]);
  t.same(
    [undefined, H2_ERROR.REFUSED_STREAM, H2_ERROR.CANCEL, H2_ERROR.ENHANCE_YOUR_CALM, 12, 2].map(
      statusFromReset,
    ),
    [14, 14, 1, 8, 7, 13],
  );
});
