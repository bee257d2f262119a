import t from 'tap';

import { createLocalAnswer, isGrpcContent } from '../../src/waypoint/local-answer.ts';

void t.test('gRPC calls are told in one header block', (t) => {
  const statuses = [400, 401, 403, 404, 429, 500, 502, 503, 504, 418];
  t.strictSame(
    statuses.map((status) => createLocalAnswer(status, '', true).grpcStatus),
    ['13', '16', '7', '12', '14', '13', '14', '14', '4', '2'],
  );
  t.strictSame(createLocalAnswer(403, 'no: 100 % é', true, [['x', 'y']]), {
    status: 200,
    grpcStatus: '7',
    body: '',
    headers: [
      ['content-type', 'application/grpc'],
      ['grpc-status', '7'],
      ['grpc-message', 'no: 100 %25 %C3%A9'],
      ['x', 'y'],
    ],
  });
  t.strictSame(createLocalAnswer(404, 'none', false), {
    status: 404,
    grpcStatus: '',
    body: 'none',
    headers: [['content-type', 'text/plain']],
  });
  t.end();
});

void t.test('what is gRPC', (t) => {
  const is = (type: string): boolean => isGrpcContent([['content-type', type]]);
  t.ok(['application/grpc', 'application/grpc+proto', 'application/grpc;x=1'].every(is));
  t.notOk(['application/grpc-web', 'application/json', ''].some(is));
  t.notOk(isGrpcContent([]));
  t.end();
});
