import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { finished } from 'node:stream/promises';
import t from 'tap';

import { errorFromNode, ERROR_CODES, MeshError, RESPONSE_FLAGS } from '../../src/base/errors.ts';

const withCode = (code: unknown, message = 'failed'): Error =>
  Object.assign(new Error(message), { code });

void t.test(
  'MeshError carries code, flag, cause and details, and is not retryable by default',
  async (t) => {
    const cause = new Error('below');
    const error = new MeshError('MESH_POLICY_DENIED', 'Denied', {
      cause,
      flag: 'DENY',
      details: { policy: 'shop/p' },
    });
    t.match(error, { name: 'MeshError', message: 'Denied', flag: 'DENY', retryable: false });
    t.equal(error.cause, cause);
    t.same(error.details, { policy: 'shop/p' });
    const bare = new MeshError('MESH_ABORTED', 'Aborted');
    t.equal('cause' in bare, false);
    t.same([bare.flag, bare.details], [undefined, {}]);
  },
);

void t.test('the lists of codes and flags name each thing once', async (t) => {
  t.equal(new Set(ERROR_CODES).size, ERROR_CODES.length);
  t.equal(new Set(RESPONSE_FLAGS).size, RESPONSE_FLAGS.length);
  for (const code of ERROR_CODES) if (!/^MESH(_[A-Z0-9]+)+$/.test(code)) t.fail(code);
});

void t.test('errorFromNode returns a MeshError as it is', async (t) => {
  const error = new MeshError('MESH_DRAINED', 'Drained');
  t.equal(errorFromNode(error, 'Cannot write'), error);
});

void t.test('errorFromNode knows codes of Node and finds them below wrappers', async (t) => {
  const cases = [
    ['ECONNREFUSED', 'MESH_CONNECT_FAILED', 'CONNECT'],
    ['EHOSTUNREACH', 'MESH_CONNECT_FAILED', 'CONNECT'],
    ['ENETUNREACH', 'MESH_CONNECT_FAILED', 'CONNECT'],
    ['EADDRNOTAVAIL', 'MESH_CONNECT_FAILED', 'CONNECT'],
    ['ETIMEDOUT', 'MESH_CONNECT_TIMEOUT', 'CONNECT'],
    ['ECONNRESET', 'MESH_CONNECTION_RESET', 'RESET'],
    ['EPIPE', 'MESH_CONNECTION_RESET', 'RESET'],
    ['ERR_STREAM_PREMATURE_CLOSE', 'MESH_CONNECTION_CLOSED', 'RESET'],
  ] as const;
  for (const [code, meshCode, flag] of cases) {
    const plain = withCode(code);
    const wrapped = new Error('outer', { cause: new Error('middle', { cause: plain }) });
    for (const error of [plain, wrapped]) {
      t.match(errorFromNode(error, 'Cannot connect'), { code: meshCode, flag, retryable: true });
    }
  }
  t.equal(
    errorFromNode(withCode('EPIPE', 'write EPIPE'), 'Cannot write').message,
    'Cannot write: write EPIPE',
  );
});

void t.test('errorFromNode takes anything that can be thrown', async (t) => {
  const endless = new Error('endless');
  endless.cause = endless;
  const odd = [
    endless,
    new Error('plain'),
    withCode(7),
    withCode('toString'),
    withCode('__proto__'),
  ];
  for (const error of [...odd, 'text', undefined, null, 42, { code: 'EPIPE' }]) {
    const mesh = errorFromNode(error, 'Cannot read');
    t.match(mesh, { code: 'MESH_CONNECTION_RESET', flag: 'RESET' });
    t.equal(mesh.cause, error ?? mesh.cause);
  }
});

void t.test('errorFromNode translates what real sockets say', async (t) => {
  const server = createServer();
  server.on('error', (error) => t.fail(error.message));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const client = connect(port, '127.0.0.1');
  const reset = finished(client).then(
    () => undefined,
    (error: unknown) => error,
  );
  const peer = await accepted;
  peer.on('error', () => {});
  peer.resetAndDestroy();
  client.resume();
  t.match(errorFromNode(await reset, 'Cannot read'), { code: 'MESH_CONNECTION_RESET' });
  await new Promise((resolve) => server.close(resolve));
  const refused = connect(port, '127.0.0.1');
  const error: unknown = await new Promise((resolve) => refused.on('error', resolve));
  t.match(errorFromNode(error, 'Cannot connect'), {
    code: 'MESH_CONNECT_FAILED',
    flag: 'CONNECT',
    message: `Cannot connect: connect ECONNREFUSED 127.0.0.1:${port}`,
  });
});
