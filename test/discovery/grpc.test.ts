import { once } from 'node:events';
import * as http2 from 'node:http2';
import type { AddressInfo } from 'node:net';

import t from 'tap';

import { callUnary, openGrpcCall } from '../../src/discovery/grpc-client.ts';
import { unaryMethod, type GrpcMethod } from '../../src/discovery/grpc-server.ts';
import { GRPC_STATUS, grpcError } from '../../src/discovery/grpc-status.ts';
import type { H2Session } from '../../src/http/h2/contract.ts';
import { clock, createListLogger, dialLoopback, serveLoopback, type Loopback } from './loopback.ts';

const echo: GrpcMethod<string> = unaryMethod(async (request) => request, 1_000_000);
const methods = new Map<string, GrpcMethod<string>>([
  ['/t.T/Echo', echo],
  [
    '/t.T/EchoAll',
    {
      async handle(call) {
        for (let one = await call.read(); one !== undefined; one = await call.read()) {
          await call.write(one);
        }
      },
    },
  ],
  [
    '/t.T/Refuse',
    unaryMethod(async () => {
      throw grpcError(GRPC_STATUS.PERMISSION_DENIED, 'not you: "ü"');
    }),
  ],
  [
    '/t.T/Break',
    unaryMethod(async () => {
      throw new Error('secret reason');
    }),
  ],
  [
    '/t.T/Sleep',
    {
      async handle(call) {
        await once(call.signal, 'abort');
        throw call.signal.reason;
      },
    },
  ],
  [
    '/t.T/Metadata',
    unaryMethod(async (_request, call) =>
      Buffer.from(JSON.stringify([...call.metadata, ['peer', call.peer]])),
    ),
  ],
]);

const base = (session: H2Session, path: string) =>
  ({ session, path: `/t.T/${path}`, authority: 'localhost', scheme: 'http', clock }) as const;

const withStatus = (status: number) => ({ code: 'MESH_GRPC_STATUS', details: { status } });

async function withServer(
  run: (loopback: Loopback, session: H2Session) => Promise<void>,
  logger = createListLogger(),
): Promise<void> {
  const loopback = await serveLoopback(methods, logger);
  const session = await loopback.dial();
  try {
    await run(loopback, session);
  } finally {
    session.destroy();
    await loopback.close();
  }
}

void t.test('gRPC unary call carries messages of any size both ways', async (t) => {
  await withServer(async (_loopback, session) => {
    for (const size of [0, 1, 65_530, 65_536, 700_000]) {
      const message = Buffer.alloc(size, 7);
      const answer = await callUnary(base(session, 'Echo'), message);
      t.ok(answer.equals(message), `${size} bytes`);
    }
  });
});

void t.test('gRPC stream keeps order in both directions', async (t) => {
  await withServer(async (loopback, session) => {
    const call = openGrpcCall(base(session, 'EchoAll'));
    for (let index = 0; index < 50; index++) void call.write(Buffer.from(`message ${index}`));
    call.end();
    for (let index = 0; index < 50; index++) {
      t.equal((await call.read())?.toString(), `message ${index}`);
    }
    t.equal(await call.read(), undefined);
    t.equal(loopback.grpc.activeCalls, 0);
  });
});

void t.test('gRPC status and message reach the client (MESH_GRPC_STATUS)', async (t) => {
  const logger = createListLogger();
  await withServer(async (_loopback, session) => {
    const refused = callUnary(base(session, 'Refuse'), Buffer.alloc(1));
    await t.rejects(refused, {
      code: 'MESH_GRPC_STATUS',
      details: { status: GRPC_STATUS.PERMISSION_DENIED, statusMessage: 'not you: "ü"' },
    });
    const broken = callUnary(base(session, 'Break'), Buffer.alloc(1));
    await t.rejects(broken, {
      code: 'MESH_GRPC_STATUS',
      details: { status: GRPC_STATUS.INTERNAL, statusMessage: 'Internal error' },
    });
    t.match(logger.lines, [{ fields: { error: { message: 'secret reason' } } }], 'in the log only');
    const unknown = callUnary(base(session, 'Nothing'), Buffer.alloc(1));
    await t.rejects(unknown, withStatus(GRPC_STATUS.UNIMPLEMENTED));
  }, logger);
});

void t.test('gRPC message limits hold on both sides', async (t) => {
  await withServer(async (_loopback, session) => {
    const large = Buffer.alloc(1_000_001);
    await t.rejects(
      callUnary(base(session, 'Echo'), large),
      withStatus(GRPC_STATUS.RESOURCE_EXHAUSTED),
    );
    const small = { ...base(session, 'Echo'), responseMaxBytes: 10 };
    await t.rejects(callUnary(small, Buffer.alloc(11)), withStatus(GRPC_STATUS.RESOURCE_EXHAUSTED));
    t.equal((await callUnary(small, Buffer.alloc(10))).length, 10, 'the session lives on');
  });
});

void t.test('gRPC deadline ends the call on both sides', async (t) => {
  await withServer(async (loopback, session) => {
    const call = callUnary({ ...base(session, 'Sleep'), deadlineMs: 30 }, Buffer.alloc(0));
    await t.rejects(call, withStatus(GRPC_STATUS.DEADLINE_EXCEEDED));
    while (loopback.grpc.activeCalls > 0) await new Promise((resolve) => setImmediate(resolve));
  });
});

void t.test('gRPC cancel, loss of the session and closing servers end calls', async (t) => {
  await withServer(async (loopback, session) => {
    const abort = new AbortController();
    const cancelled = callUnary(
      { ...base(session, 'Sleep'), signal: abort.signal },
      Buffer.alloc(0),
    );
    abort.abort();
    await t.rejects(cancelled, withStatus(GRPC_STATUS.CANCELLED));
    const closed = callUnary(base(session, 'Sleep'), Buffer.alloc(0));
    while (loopback.grpc.activeCalls === 0) await new Promise((resolve) => setImmediate(resolve));
    await loopback.grpc.close();
    await t.rejects(closed, withStatus(GRPC_STATUS.UNAVAILABLE));
    await t.rejects(
      callUnary(base(session, 'Echo'), Buffer.alloc(0)),
      withStatus(GRPC_STATUS.UNAVAILABLE),
    );
  });
  await withServer(async (_loopback, session) => {
    const lost = callUnary(base(session, 'Sleep'), Buffer.alloc(0));
    setImmediate(() => session.destroy());
    await t.rejects(lost, withStatus(GRPC_STATUS.UNAVAILABLE));
    await t.rejects(
      callUnary(base(session, 'Echo'), Buffer.alloc(0)),
      withStatus(GRPC_STATUS.UNAVAILABLE),
    );
  });
});

void t.test('gRPC metadata and the peer reach the handler', async (t) => {
  await withServer(async (_loopback, session) => {
    const metadata = new Map([['clusterid', 'c1']]);
    const answer = await callUnary({ ...base(session, 'Metadata'), metadata }, Buffer.alloc(0));
    const seen = new Map(JSON.parse(answer.toString()) as [string, string][]);
    t.equal(seen.get('clusterid'), 'c1');
    t.equal(seen.get('peer'), 'loopback');
    t.notOk([...seen.keys()].some((name) => name.startsWith(':')));
  });
});

void t.test('gRPC stops a sender whose reader does not read', async (t) => {
  await withServer(async (_loopback, session) => {
    const call = openGrpcCall(base(session, 'EchoAll'));
    let written = 0;
    const piece = Buffer.alloc(60_000, 1);
    const writing = (async (): Promise<void> => {
      for (; written < 400; written++) await call.write(piece);
      call.end();
    })();
    await new Promise((resolve) => setTimeout(resolve, 100));
    t.ok(written < 100, `${written} of 400 messages went out unread`);
    let read = 0;
    while ((await call.read()) !== undefined) read++;
    await writing;
    t.equal(read, 400);
  });
});

/** A raw request through node's own HTTP/2. */
async function rawCall(
  port: number,
  headers: http2.OutgoingHttpHeaders,
  body: Buffer,
): Promise<{ headers: http2.IncomingHttpHeaders; trailers: http2.IncomingHttpHeaders }> {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  session.on('error', () => {});
  const stream = session.request({
    ':method': 'POST',
    ':path': '/t.T/Echo',
    'content-type': 'application/grpc',
    te: 'trailers',
    ...headers,
  });
  stream.on('error', () => {});
  stream.end(body);
  let trailers: http2.IncomingHttpHeaders = {};
  stream.on('trailers', (got) => (trailers = got));
  const [response] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders];
  stream.resume();
  await once(stream, 'close');
  session.close();
  return { headers: response, trailers };
}

void t.test('gRPC server answers a foreign client as the protocol says', async (t) => {
  await withServer(async ({ port }) => {
    const frame = Buffer.from([0, 0, 0, 0, 1, 42]);
    const good = await rawCall(port, {}, frame);
    t.equal(good.trailers['grpc-status'], '0');
    t.equal(good.headers['content-type'], 'application/grpc');
    const status = async (headers: http2.OutgoingHttpHeaders, body = frame): Promise<unknown> => {
      const answer = await rawCall(port, headers, body);
      return answer.trailers['grpc-status'] ?? answer.headers['grpc-status'];
    };
    t.equal(await status({ 'grpc-encoding': 'gzip' }), '12');
    t.equal(await status({}, Buffer.from([1, 0, 0, 0, 1, 42])), '12', 'compressed flag');
    t.equal(await status({}, Buffer.from([0, 0, 0, 0, 9, 42])), '13', 'cut short');
    t.equal(await status({}, Buffer.alloc(0)), '3', 'no message');
    t.equal(await status({}, Buffer.from([0, 255, 255, 255, 255])), '8', 'too large');
    const plain = await rawCall(port, { 'content-type': 'text/html' }, frame);
    t.equal(plain.headers[':status'], 415);
  });
});

void t.test('gRPC client understands a foreign server', async (t) => {
  const server = http2.createServer();
  server.on('sessionError', () => {});
  server.on('stream', (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
    stream.on('error', () => {});
    const ok = { ':status': 200, 'content-type': 'application/grpc+proto' } as const;
    const path = headers[':path'];
    if (path === '/t.T/Trailers') {
      stream.respond(
        { ...ok, 'grpc-status': '7', 'grpc-message': 'no%20way' },
        { endStream: true },
      );
    } else if (path === '/t.T/Http') {
      stream.respond({ ':status': 503 }, { endStream: true });
    } else if (path === '/t.T/Nothing') {
      stream.respond(ok);
      stream.end();
    } else if (path === '/t.T/Reset') {
      stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
    } else if (path === '/t.T/Gzip') {
      stream.respond({ ...ok, 'grpc-encoding': 'gzip' }, { endStream: true });
    } else {
      stream.respond(ok, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      for (const byte of [0, 0, 0, 0, 2, 65]) stream.write(Buffer.from([byte]));
      stream.end('B');
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const session = await dialLoopback((server.address() as AddressInfo).port);
  t.teardown(() => {
    session.destroy();
    server.close();
  });
  const call = (path: string): Promise<Buffer> => callUnary(base(session, path), Buffer.alloc(3));
  t.equal((await call('Echo')).toString(), 'AB', 'a message in seven frames');
  await t.rejects(call('Trailers'), {
    code: 'MESH_GRPC_STATUS',
    details: { status: 7, statusMessage: 'no way' },
  });
  await t.rejects(call('Http'), withStatus(GRPC_STATUS.UNAVAILABLE));
  await t.rejects(call('Nothing'), withStatus(GRPC_STATUS.UNKNOWN));
  await t.rejects(call('Reset'), withStatus(GRPC_STATUS.UNAVAILABLE));
  await t.rejects(call('Gzip'), withStatus(GRPC_STATUS.UNIMPLEMENTED));
});
