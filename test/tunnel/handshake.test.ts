import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server } from 'node:net';
import { connect as connectTls } from 'node:tls';

import t from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import type { MeshError } from '../../src/base/errors.ts';
import {
  createHandshakes,
  HANDSHAKE_TIMEOUT_MS,
  type Handshakes,
} from '../../src/tunnel/handshake.ts';
import { createTestCa, createTunnelEnds, credentialsOf, CLIENT, clock, SERVER } from './fixture.ts';
import type { IpAddress } from '../../src/core/address.ts';
import type { H2Stream } from '../../src/http/h2/contract.ts';
import { connectTunnel } from '../../src/tunnel/client.ts';
import type { TunnelPool } from '../../src/tunnel/pool.ts';

interface Rig {
  readonly clock: FakeClock;
  readonly handshakes: Handshakes;
  readonly server: Server;
  readonly port: number;
  readonly errors: MeshError[];
  readonly whenError: () => Promise<MeshError>;
}

async function createRig(t: { teardown: (fn: () => void) => void }): Promise<Rig> {
  const ca = await createTestCa();
  const credentials = credentialsOf(ca, SERVER);
  // Certificates are judged by the calendar, so it is the real one.
  const fake = createFakeClock(Date.now());
  const handshakes = createHandshakes(fake);
  const errors: MeshError[] = [];
  const wake = new Set<() => void>();
  const server = createServer({ pauseOnConnect: true }, (raw) => {
    handshakes.accept(raw, credentials, {
      onSecure: (socket) => socket.destroy(),
      onError(error) {
        errors.push(error);
        for (const listener of wake) listener();
      },
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => void server.close());
  return {
    clock: fake,
    handshakes,
    server,
    port: (server.address() as AddressInfo).port,
    errors,
    async whenError() {
      if (errors.length === 0) {
        await new Promise<void>((resolve) => void wake.add(resolve));
      }
      const [error] = errors;
      if (error === undefined) throw new Error('no error');
      return error;
    },
  };
}

t.test('T67 a silent client is gone at the deadline', async (t) => {
  const rig = await createRig(t);
  const client = connect(rig.port, '127.0.0.1');
  client.on('error', () => {});
  await once(rig.server, 'connection');
  t.equal(rig.handshakes.unfinishedCount, 1);
  await rig.clock.advance(HANDSHAKE_TIMEOUT_MS - 1);
  t.equal(rig.handshakes.unfinishedCount, 1);
  await rig.clock.advance(1);
  const error = await rig.whenError();
  t.equal(error.code, 'MESH_TUNNEL_HANDSHAKE_TIMEOUT');
  t.equal(rig.handshakes.unfinishedCount, 0);
  await once(client, 'close');
});

t.test('T21 who is no mesh peer fails the handshake, whatever it sends', async (t) => {
  const attempts: readonly (readonly [string, (port: number) => void])[] = [
    [
      'plain HTTP',
      (port) =>
        void connect(port, '127.0.0.1')
          .on('error', () => {})
          .end('GET / HTTP/1.1\r\n\r\n'),
    ],
    [
      'an HTTP/2 preface',
      (port) =>
        void connect(port, '127.0.0.1')
          .on('error', () => {})
          .end('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    ],
    [
      'no certificate',
      (port) =>
        void connectTls({
          port,
          host: '127.0.0.1',
          ALPNProtocols: ['h2'],
          checkServerIdentity: () => undefined,
        }).on('error', () => {}),
    ],
    [
      'TLS 1.2',
      (port) =>
        void connectTls({ port, host: '127.0.0.1', maxVersion: 'TLSv1.2' }).on('error', () => {}),
    ],
    [
      'a client that leaves',
      (port) =>
        void connect(port, '127.0.0.1')
          .on('error', () => {})
          .end(),
    ],
  ];
  for (const [name, attempt] of attempts) {
    const rig = await createRig(t);
    attempt(rig.port);
    const error = await rig.whenError();
    const codes = ['MESH_TUNNEL_HANDSHAKE_FAILED', 'MESH_CERTIFICATE_INVALID'];
    t.ok(codes.includes(error.code), `${name}: ${error.code}`);
    t.equal(error.flag, 'TLS_FAILURE', name);
    t.equal(rig.handshakes.unfinishedCount, 0, name);
  }
});

t.test('a tunnel that ends before an answer is told so', async (t) => {
  const ends = await createTunnelEnds({
    onRequest: () => {
      for (const session of ends.accepted) session.destroy();
    },
  });
  t.teardown(() => ends.close());
  const error = await new Promise<MeshError>((resolve) => {
    connectTunnel(
      ends.pool,
      clock,
      {
        target: ends.target,
        authority: '127.0.0.1:80',
        baggage: '',
        forwarded: 'for="10.0.0.1:1"',
        traceparent: '',
      },
      { onOpen: () => t.fail('was opened'), onError: resolve },
    );
  });
  t.match(error.message, 'the tunnel ended before an answer');
  t.equal(error.flag, 'CONNECT');
  t.ok(error.retryable);
});

t.test('a request that dies before it is answered is not answered', async (t) => {
  const aborted = Promise.withResolvers<MeshError>();
  const asked = Promise.withResolvers<void>();
  const ends = await createTunnelEnds({
    onRequest(request) {
      request.onAbort((error) => {
        t.equal(
          request.accept('', () => {
            throw new Error('was accepted');
          }),
          undefined,
        );
        request.refuse(503, 'too late');
        aborted.resolve(error);
      });
      asked.resolve();
    },
  });
  t.teardown(() => ends.close());
  const cancel = connectTunnel(
    ends.pool,
    clock,
    {
      target: ends.target,
      authority: '127.0.0.1:80',
      baggage: '',
      forwarded: 'for="10.0.0.1:1"',
      traceparent: '',
    },
    { onOpen: () => t.fail('was opened'), onError: () => t.fail('was told after giving up') },
  );
  await asked.promise;
  cancel();
  t.equal((await aborted.promise).code, 'MESH_HTTP2_STREAM_RESET');
  t.equal(CLIENT, ends.target.source);
});

t.test('a stream that ends without an answer is no connection', (t) => {
  const errors: MeshError[] = [];
  const stream = { reset: () => {}, end: () => {} } as unknown as H2Stream;
  const pool: Pick<TunnelPool, 'request'> = {
    request(_target, _headers, handlers, onStream) {
      onStream(stream);
      handlers.onHeaders([[':status', '103']], true);
      handlers.onEnd();
      return () => {};
    },
  };
  connectTunnel(
    pool as TunnelPool,
    createFakeClock(),
    {
      target: {
        source: CLIENT,
        sourceWorkload: 'pod-1',
        generation: '1',
        destinations: [SERVER],
        address: { ip: '10.0.0.1' as IpAddress, port: 15_008 },
      },
      authority: '10.0.0.1:80',
      baggage: '',
      forwarded: 'for="10.0.0.2:1"',
      traceparent: '',
    },
    { onOpen: () => t.fail('was opened'), onError: (error) => void errors.push(error) },
  );
  t.equal(errors.length, 1);
  t.equal(errors[0]?.code, 'MESH_TUNNEL_CLOSED');
  t.ok(errors[0]?.retryable);
  t.end();
});
