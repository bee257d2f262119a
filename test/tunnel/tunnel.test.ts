import t from 'tap';

import { MeshError } from '../../src/base/errors.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { H2Stream, H2StreamHandlers } from '../../src/http/h2/contract.ts';
import { connectTunnel, type TunnelConnect } from '../../src/tunnel/client.ts';
import { formatBaggage, parseBaggage, type WorkloadMetadata } from '../../src/tunnel/metadata.ts';
import type { TunnelPool, TunnelTarget } from '../../src/tunnel/pool.ts';
import { CLIENT, clock, createTestCa, createTunnelEnds, credentialsOf, SERVER } from './fixture.ts';

const METADATA: WorkloadMetadata = {
  cluster: 'Kubernetes',
  namespace: 'shop',
  workloadType: 'deployment',
  workloadName: 'db',
  canonicalName: 'db',
  canonicalRevision: 'v1',
  region: 'eu',
  zone: 'eu-1',
};

const IDLE: H2StreamHandlers = {
  onHeaders: () => {},
  onData: () => {},
  onEnd: () => {},
  onReset: () => {},
  onDrain: () => {},
};

function request(target: TunnelTarget, authority = '127.0.0.1:5432'): TunnelConnect {
  return {
    target,
    authority,
    baggage: 'k8s.namespace.name=shop,service.name=web',
    forwarded: 'for="10.0.0.9:4711";host=db.shop.svc.cluster.local',
    traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-00`,
  };
}

function open(
  pool: TunnelPool,
  connect: TunnelConnect,
  handlers: H2StreamHandlers = IDLE,
): Promise<{ stream: H2Stream; destination: WorkloadMetadata }> {
  return new Promise((resolve, reject) => {
    connectTunnel(pool, clock, connect, {
      onOpen(stream, baggage) {
        stream.setHandlers(handlers);
        resolve({ stream, destination: parseBaggage(baggage) });
      },
      onError: reject,
    });
  });
}

async function errorOf(promise: Promise<unknown>): Promise<MeshError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

t.test('a tunnel carries identity, metadata and the first bytes of either side', async (t) => {
  const ends = await createTunnelEnds({
    onRequest(incoming) {
      t.equal(incoming.peer, CLIENT);
      t.same(incoming.authority, { kind: 'address', ip: '127.0.0.1', port: 5432 });
      t.equal(parseBaggage(incoming.baggage).canonicalName, 'web');
      t.equal(incoming.forwarded.host, 'db.shop.svc.cluster.local');
      t.equal(incoming.traceId, 'a'.repeat(32));
      incoming.accept(formatBaggage(METADATA), (stream) => {
        stream.write(Buffer.from('220 server speaks first\n'));
        return {
          ...IDLE,
          onData(chunk) {
            stream.consume(chunk.length);
            stream.write(Buffer.from(chunk));
          },
          onEnd: () => stream.end(),
        };
      });
    },
  });
  t.teardown(() => ends.close());
  let text = '';
  const ended = Promise.withResolvers<void>();
  const { stream, destination } = await open(ends.pool, request(ends.target), {
    ...IDLE,
    onData: (chunk) => void (text += chunk.toString()),
    onEnd: () => ended.resolve(),
  });
  stream.write(Buffer.from('hello'));
  stream.end();
  await ended.promise;
  t.equal(text, '220 server speaks first\nhello');
  t.same(destination, METADATA);
});

t.test('refusals carry status, flag and reason to the caller', async (t) => {
  const ends = await createTunnelEnds({
    onRequest: (incoming) => incoming.refuse(401, 'denied by AuthorizationPolicy shop/no-web'),
  });
  t.teardown(() => ends.close());
  const error = await errorOf(open(ends.pool, request(ends.target)));
  t.equal(error.code, 'MESH_TUNNEL_REFUSED');
  t.equal(error.flag, 'DENY');
  t.match(error.message, 'denied by AuthorizationPolicy shop/no-web');
});

t.test('T43 malformed authorities are answered with 400 before anybody acts', async (t) => {
  const ends = await createTunnelEnds({ onRequest: () => t.fail('was handed on') });
  t.teardown(() => ends.close());
  for (const authority of ['10.0.0.1', '0x7f.1:80', '127.1:80', '10.0.0.1:0', '10.0.0.1:80:90']) {
    const error = await errorOf(open(ends.pool, request(ends.target, authority)));
    t.equal(error.details['status'], '400', authority);
  }
  t.equal(ends.invalid.length, 5);
  t.ok(ends.invalid.every((error) => error.code === 'MESH_TUNNEL_REQUEST_INVALID'));
});

t.test('T46 a peer with another identity gets no request', async (t) => {
  const other = 'spiffe://cluster.local/ns/shop/sa/other' as SpiffeId;
  const ends = await createTunnelEnds({
    expected: [other],
    onRequest: () => t.fail('a request reached the wrong peer'),
  });
  t.teardown(() => ends.close());
  const error = await errorOf(open(ends.pool, request(ends.target)));
  t.equal(error.code, 'MESH_TUNNEL_IDENTITY_MISMATCH');
  t.match(error.message, SERVER);
});

t.test('T11 a client of a foreign CA is refused', async (t) => {
  const [ca, foreign] = await Promise.all([createTestCa(), createTestCa()]);
  const ends = await createTunnelEnds({
    server: credentialsOf(ca, SERVER),
    // It trusts the server's root, so only the server can refuse.
    client: credentialsOf(foreign, CLIENT, ca.bundle),
    onRequest: () => t.fail('a request was served'),
  });
  t.teardown(() => ends.close());
  const error = await errorOf(open(ends.pool, request(ends.target)));
  t.ok(error instanceof MeshError);
  t.equal(ends.peers.length, 0);
  t.match(ends.handshakeErrors[0]?.message, /certificate|chain|issuer/i);
});

t.test(
  'the pool shares one dial, fills a session, and uses it again when streams end',
  async (t) => {
    const ends = await createTunnelEnds({
      streamsPerSessionMax: 4,
      onRequest: (incoming) => void incoming.accept('', () => IDLE),
    });
    t.teardown(() => ends.close());
    const first = await Promise.all(
      Array.from({ length: 4 }, () => open(ends.pool, request(ends.target))),
    );
    t.equal(ends.accepted.length, 1, 'four callers shared one dial');
    await open(ends.pool, request(ends.target));
    t.equal(ends.accepted.length, 2, 'a fifth stream needs a second session');
    for (const { stream } of first) stream.reset(8);
    const again = await Promise.all(
      Array.from({ length: 6 }, () => open(ends.pool, request(ends.target))),
    );
    t.equal(again.length, 6);
    t.equal(ends.accepted.length, 2, 'slots were used again');
  },
);

t.test('T45 sessions are never shared between workloads or certificates', async (t) => {
  const ends = await createTunnelEnds({
    onRequest: (incoming) => void incoming.accept('', () => IDLE),
  });
  t.teardown(() => ends.close());
  const { target } = ends;
  await open(ends.pool, request(target));
  await open(ends.pool, request({ ...target, sourceWorkload: 'pod-2' }));
  await open(ends.pool, request({ ...target, generation: 'next' }));
  await open(ends.pool, request(target));
  t.equal(ends.accepted.length, 3);
});

t.test('all who wait for a dial share its error', async (t) => {
  const ends = await createTunnelEnds({ onRequest: () => {} });
  ends.close();
  const errors = await Promise.all(
    Array.from({ length: 5 }, () => errorOf(open(ends.pool, request(ends.target)))),
  );
  t.ok(errors.every((error) => error.code === 'MESH_CONNECT_FAILED'));
  t.equal(ends.pool.waiterCount, 0);
  t.equal(ends.pool.sessionCount, 0);
});

t.test('a drained server session gets no new stream and its streams go on', async (t) => {
  const ends = await createTunnelEnds({
    onRequest: (incoming) =>
      void incoming.accept('', (stream) => ({
        ...IDLE,
        onData(chunk) {
          stream.consume(chunk.length);
          stream.write(Buffer.from(chunk));
        },
      })),
  });
  t.teardown(() => ends.close());
  let echoed = Promise.withResolvers<string>();
  const { stream } = await open(ends.pool, request(ends.target), {
    ...IDLE,
    onData: (chunk) => echoed.resolve(chunk.toString()),
  });
  ends.accepted[0]?.drain();
  stream.write(Buffer.from('before'));
  t.equal(await echoed.promise, 'before');
  await open(ends.pool, request(ends.target));
  t.equal(ends.accepted.length, 2, 'the new stream went to a new session');
  echoed = Promise.withResolvers<string>();
  stream.write(Buffer.from('after'));
  t.equal(await echoed.promise, 'after');
});

t.test('an unused session is closed after the idle time', async (t) => {
  const ends = await createTunnelEnds({
    idleMs: 50,
    onRequest: (incoming) => incoming.refuse(503, 'nobody listens'),
  });
  t.teardown(() => ends.close());
  await errorOf(open(ends.pool, request(ends.target)));
  t.equal(ends.pool.sessionCount, 1);
  const closed = Promise.withResolvers<void>();
  ends.accepted[0]?.onClosed(() => closed.resolve());
  await closed.promise;
  t.equal(ends.accepted[0]?.state, 'closed');
});
