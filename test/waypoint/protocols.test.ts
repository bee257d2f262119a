import { createServer as createHttpServer } from 'node:http';
import {
  connect as connectH2,
  createServer as createH2Server,
  type ClientHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import { createServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { createHash } from 'node:crypto';
import { connect as connectTls } from 'node:tls';

import t from 'tap';

import { DEFAULT_TIMEOUTS } from '../../src/core/traffic-policy.ts';
import { ask, rigFor } from './ask.ts';
import { connectStream, NO_ROUTES } from './rig.ts';
import { layer, traffic } from './traffic-builder.ts';
import { key } from '../state/build.ts';

function h2Over(connection: Duplex): ClientHttp2Session {
  const session = connectH2('http://app', { createConnection: () => connection });
  session.on('error', () => {});
  return session;
}

/** Errors that come before are what is looked for. */
function closed(stream: Duplex): Promise<void> {
  return new Promise((resolve) => stream.on('close', () => resolve()));
}

/** The next `bytes` bytes, or more when they came together. */
function read(stream: Duplex, bytes: number): Promise<string> {
  return new Promise((resolve) => {
    let seen = '';
    const take = (chunk: Buffer): void => {
      seen += chunk.toString('latin1');
      if (seen.length < bytes) return;
      stream.off('data', take);
      resolve(seen);
    };
    stream.on('data', take);
  });
}

/** Length-prefixed, as gRPC has it. */
function message(text: string): Buffer {
  const bytes = Buffer.alloc(5 + text.length);
  bytes.writeUInt32BE(text.length, 1);
  bytes.write(text, 5);
  return bytes;
}

for (const declared of ['GRPC', 'UNKNOWN'] as const) {
  t.test(`gRPC passes both ways with trailers, port declared ${declared}`, async (t) => {
    const server = createH2Server();
    server.on('stream', (stream: ServerHttp2Stream, headers) => {
      t.equal(headers['te'], 'trailers');
      t.equal(headers['x_meta'], 'kept', 'gRPC metadata may hold underscores');
      stream.respond(
        { ':status': 200, 'content-type': 'application/grpc' },
        { waitForTrailers: true },
      );
      stream.on('wantTrailers', () =>
        stream.sendTrailers({ 'grpc-status': '5', 'grpc-message': 'none' }),
      );
      stream.on('data', (chunk: Buffer) => stream.write(chunk.toString().toUpperCase()));
      stream.on('end', () => stream.end());
    });
    const rig = await rigFor(t, [server], ([port = 0]) => ({
      apps: [{ name: 'app', ports: [port], appProtocol: declared }],
    }));
    const session = h2Over(await rig.open('app'));
    t.teardown(() => session.destroy());
    const call = session.request({
      ':method': 'POST',
      ':path': '/shop.Cart/Get',
      'content-type': 'application/grpc',
      te: 'trailers',
      x_meta: 'kept',
    });
    const trailers = once(call, 'trailers');
    call.write(message('one'));
    t.match(await read(call, 8), /ONE$/, 'the answer begins before the request has ended');
    call.write(message('two'));
    t.match(await read(call, 8), /TWO$/);
    call.end();
    const [fields] = (await trailers) as [Record<string, string>];
    t.equal(fields['grpc-status'], '5');
    await rig.recorded(1);
    t.match(rig.records, [{ protocol: 'grpc', status: 200, grpcStatus: 5, flag: '-' }]);
    for (const direction of ['request', 'response']) {
      const edge = { destination_service_name: 'app', request_protocol: 'grpc' };
      t.equal(rig.metric(`istio_${direction}_messages_total`, edge), 2, direction);
    }
  });
}

t.test('HTTP/2 to HTTP/1.1 and back: bodies, trailers, many at once', async (t) => {
  const app = createHttpServer((request, response) => {
    let bytes = 0;
    request.on('data', (chunk: Buffer) => (bytes += chunk.length));
    request.on('end', () => {
      response.setHeader('trailer', 'x-sum');
      response.write(`${request.httpVersion} ${request.method} `);
      response.addTrailers({ 'x-sum': String(bytes), 'x-in': request.trailers['x-t'] ?? '' });
      response.end(request.headers.host);
    });
  });
  const rig = await rigFor(t, [app], ([port = 0]) => ({
    apps: [
      { name: 'app', ports: [port], appProtocol: 'HTTP11' },
      { name: 'h2', ports: [port] },
    ],
  }));
  rig.plans.apply(
    [
      {
        key: key('h2'),
        ports: [
          {
            port: 80,
            appProtocol: 'HTTP2',
            producer: { ...NO_ROUTES, http: [toApp()] },
            consumers: new Map(),
          },
        ],
      },
    ],
    [],
  );
  const session = h2Over(await rig.open('h2'));
  t.teardown(() => session.destroy());
  const one = async (size: number): Promise<void> => {
    const call = session.request({ ':method': 'POST', ':path': '/' }, { endStream: false });
    const trailers = once(call, 'trailers');
    call.end(Buffer.alloc(size, 1));
    const body = text(call);
    const [fields] = (await trailers) as [Record<string, string>];
    t.equal(fields['x-sum'], String(size));
    t.equal(await body, '1.1 POST app');
  };
  await Promise.all([1, 100, 70_000, 500_000, 3, 9].map((size) => one(size)));
});

function toApp() {
  return {
    route: { kind: 'HTTPRoute' as const, namespace: 'shop', name: 'to-app', createdMs: 0 },
    index: 0,
    name: '',
    hostnames: [],
    matches: [
      { path: { kind: 'prefix' as const, value: '/' }, method: '', headers: [], queryParams: [] },
    ],
    filters: [],
    backends: [{ backend: { service: key('app'), port: 80, invalid: '' }, weight: 1, filters: [] }],
    requestTimeoutMs: undefined,
    backendRequestTimeoutMs: undefined,
    retry: undefined,
    sessionPersistence: undefined,
    invalid: '',
  };
}

t.test('HTTP/1.1 to an HTTP/2 application', async (t) => {
  const server = createH2Server();
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.respond({ ':status': 200, 'x-method': headers[':method'] }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-end': 'yes' }));
    stream.pipe(stream);
  });
  const app = createHttpServer((_, response) => response.end('never'));
  const rig = await rigFor(t, [server, app], ([h2 = 0, h1 = 0]) => ({
    apps: [
      { name: 'app', ports: [h2], appProtocol: 'HTTP2' },
      {
        name: 'front',
        ports: [h1],
        appProtocol: 'HTTP11',
        routes: { ...NO_ROUTES, http: [toApp()] },
      },
    ],
  }));
  const answer = await ask(await rig.open('front'), { method: 'POST', body: 'over' });
  t.match(answer, {
    status: 200,
    body: 'over',
    headers: { 'x-method': 'POST' },
    trailers: { 'x-end': 'yes' },
  });
});

t.test('server-sent events arrive one by one', async (t) => {
  const app = createHttpServer((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('data: 1\n\n');
    again = () => response.end('data: 2\n\n');
  });
  let again = (): void => {};
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  const connection = await rig.open('app');
  connection.write('GET / HTTP/1.1\r\nHost: app\r\n\r\n');
  let seen = '';
  connection.on('data', (chunk: Buffer) => (seen += chunk.toString()));
  while (!seen.includes('data: 1')) await once(connection, 'data');
  t.notMatch(seen, 'data: 2');
  again();
  while (!seen.includes('data: 2')) await once(connection, 'data');
  connection.destroy();
});

t.test('a WebSocket outlives the time that a request has', async (t) => {
  const app = createHttpServer();
  app.on('upgrade', (_, socket: Socket) => {
    socket.on('error', () => {});
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n',
    );
    socket.pipe(socket);
  });
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  const timeouts = { ...DEFAULT_TIMEOUTS, requestMs: 100 };
  rig.traffic.apply([traffic('app', layer({ kind: 'service' }, { timeouts }))], []);
  const connection = await rig.open('app');
  connection.write(
    'GET /ws HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n',
  );
  await once(connection, 'data');
  await new Promise((resolve) => setTimeout(resolve, 250));
  connection.write('still here');
  t.equal(String((await once(connection, 'data'))[0]), 'still here');
  connection.destroy();
});

t.test('WebSocket: bytes both ways after 101, a declined upgrade is an answer', async (t) => {
  const app = createHttpServer((_, response) => response.writeHead(426).end('no'));
  app.on('upgrade', (request, socket: Socket) => {
    const accept = createHash('sha1')
      .update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest('base64');
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\nhello`,
    );
    socket.pipe(socket);
  });
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  const connection = await rig.open('app');
  connection.write(
    'GET /ws HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eHh4\r\n\r\n',
  );
  let seen = '';
  connection.on('data', (chunk: Buffer) => (seen += chunk.toString('latin1')));
  while (!seen.endsWith('hello')) await once(connection, 'data');
  t.match(seen, /^HTTP\/1\.1 101 /);
  connection.write('ping');
  while (!seen.endsWith('helloping')) await once(connection, 'data');
  connection.end();
  await once(connection, 'end');
  await rig.recorded(1);
  t.match(rig.records, [{ status: 101, flag: '-', responseBytes: 9 }]);
  const declined = await ask(await rig.open('app'), { path: '/plain' });
  t.equal(declined.status, 426);
});

t.test(
  'a server that speaks first, and a client that never speaks HTTP, pass as bytes',
  async (t) => {
    const app = createServer((socket) => {
      socket.write('220 hello\r\n');
      socket.pipe(socket);
    });
    const rig = await rigFor(t, [app], ([port = 0]) => ({
      apps: [{ name: 'app', ports: [port] }],
    }));
    const silent = await rig.open('app');
    t.equal(await read(silent, 11), '220 hello\r\n');
    silent.write('EHLO x\r\n');
    t.equal(await read(silent, 8), 'EHLO x\r\n');
    silent.end();
    await once(silent, 'end');
    const redis = await rig.open('app');
    redis.write('PING\r\n');
    t.equal(await read(redis, 17), '220 hello\r\nPING\r\n');
    redis.end();
    await once(redis, 'end');
    await rig.recorded(2);
    t.match(rig.records, [
      { protocol: 'tcp', flag: '-' },
      { protocol: 'tcp', requestBytes: 6 },
    ]);
  },
);

t.test('TLS is carried by the name its client asks for', async (t) => {
  const seen: string[] = [];
  const server = (name: string) =>
    createServer((socket) => {
      seen.push(name);
      socket.destroy();
    });
  const rule = (hostname: string, service: string) => ({
    route: { kind: 'TLSRoute' as const, namespace: 'shop', name: service, createdMs: 0 },
    index: 0,
    hostnames: [hostname],
    backends: [
      { backend: { service: key(service), port: 80, invalid: '' }, weight: 1, filters: [] },
    ],
  });
  const rig = await rigFor(t, [server('a'), server('b')], ([a = 0, b = 0]) => ({
    apps: [
      {
        name: 'a',
        ports: [a],
        appProtocol: 'TLS',
        routes: { ...NO_ROUTES, tls: [rule('*.wild.example', 'b'), rule('a.example', 'a')] },
      },
      { name: 'b', ports: [b] },
    ],
  }));
  for (const [name, to] of [
    ['a.example', 'a'],
    ['x.wild.example', 'b'],
    ['other.example', undefined],
  ] as const) {
    seen.length = 0;
    const tls = connectTls({ socket: await rig.open('a'), servername: name });
    tls.on('error', () => {});
    await closed(tls);
    t.same(seen, to === undefined ? [] : [to], name);
  }
});

t.test('F7 a response that is cut short never looks complete', async (t) => {
  const app = createServer((socket) => {
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart', () => socket.destroy());
    });
    socket.on('error', () => {});
  });
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  await t.rejects(ask(await rig.open('app')));
  const chunked = await rig.open('app');
  chunked.write('GET / HTTP/1.1\r\nHost: app\r\n\r\n');
  chunked.resume();
  await closed(chunked);
  t.ok((chunked as unknown as { reset: boolean }).reset, 'a reset, not an end');
  await rig.recorded(2);
  t.match(rig.records[0], { status: 200, flag: 'RESET' });
});

t.test('a client that is slow at the end costs the connection behind it nothing', async (t) => {
  const app = createHttpServer((_, response) => response.end(Buffer.alloc(60 * 1024)));
  const rig = await rigFor(t, [app], ([port = 0]) => ({
    apps: [{ name: 'app', ports: [port], appProtocol: 'HTTP11' }],
  }));
  const session = await rig.session();
  t.teardown(() => session.destroy());
  const get = 'GET / HTTP/1.1\r\nHost: app\r\n\r\n';
  for (let client = 0; client < 4; client++) {
    const stream = await connectStream(session, `${rig.vip('app')}:80`);
    stream.setHandlers({
      onHeaders: () => {},
      // The fifth answer does not fit into what is left of the window: its end waits here. One is less than is read
      // ahead of a client, the four of them are more.
      onData: () => {},
      onEnd: () => {},
      onReset: () => {},
      onDrain: () => {},
    });
    for (const answers of [1, 2, 3, 4, 5]) {
      stream.write(Buffer.from(get));
      await rig.recorded(client * 5 + answers);
    }
  }
  t.equal((await ask(await rig.open('app'))).status, 200, 'it serves others');
});

t.test('a client that goes away takes its request with it', async (t) => {
  const gone = Promise.withResolvers<void>();
  const app = createHttpServer((request) => request.on('close', () => gone.resolve()));
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  const connection = await rig.open('app');
  connection.write('GET / HTTP/1.1\r\nHost: app\r\n\r\n');
  await once(app, 'request');
  connection.destroy();
  await gone.promise;
  await rig.recorded(1);
  t.match(rig.records, [{ status: 0, flag: 'RESET' }]);
});

t.test('a stale keep-alive connection is replaced, an idempotent request not lost', async (t) => {
  let served = 0;
  const app = createServer((socket) => {
    socket.on('error', () => {});
    let here = 0;
    socket.on('data', () => {
      served++;
      if (++here > 1) socket.resetAndDestroy();
      else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    });
  });
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  t.equal((await ask(await rig.open('app'))).status, 200);
  t.equal((await ask(await rig.open('app'))).status, 200);
  t.equal(served, 3);
});

t.test('early and informational answers, Expect', async (t) => {
  const app = createHttpServer();
  app.on('checkContinue', (request, response) => {
    if (request.url === '/no') response.writeHead(417).end();
    else {
      response.writeContinue();
      request.pipe(response);
    }
  });
  app.on('request', (_, response) => {
    response.writeEarlyHints({ link: '</a>; rel=preload' }, () => response.end('after'));
  });
  const rig = await rigFor(t, [app], ([port = 0]) => ({ apps: [{ name: 'app', ports: [port] }] }));
  const connection = await rig.open('app');
  connection.write(
    'POST / HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n',
  );
  t.match(await read(connection, 25), /^HTTP\/1\.1 100 Continue\r\n\r\n/);
  connection.write('body');
  t.match(await read(connection, 60), /200 OK[^]*body/);
  const refused = await rig.open('app');
  refused.write(
    'POST /no HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n',
  );
  t.match(await read(refused, 20), /417/);
  const hints = await rig.open('app');
  hints.write('GET / HTTP/1.1\r\nHost: app\r\n\r\n');
  t.match(await read(hints, 120), /103 Early Hints\r\nlink: [^]*200 OK/);
  for (const one of [connection, refused, hints]) one.destroy();
});

t.test('a mirror gets a copy and can neither delay nor fail the original', async (t) => {
  const copies: string[] = [];
  const copied = Promise.withResolvers<void>();
  const app = createHttpServer((request, response) => void request.pipe(response));
  const copy = createHttpServer((request, response) => {
    text(request).then(
      (body) => {
        copies.push(`${request.method} ${request.url} ${body}`);
        if (copies.length === 2) copied.resolve();
        // The first copy is never answered.
        if (copies.length === 2) response.destroy();
      },
      () => {},
    );
  });
  const rule = toApp();
  const rig = await rigFor(t, [app, copy], ([port = 0, other = 0]) => ({
    apps: [
      {
        name: 'app',
        ports: [port],
        routes: {
          ...NO_ROUTES,
          http: [
            {
              ...rule,
              filters: [
                {
                  kind: 'mirror',
                  mirror: {
                    backend: { service: key('copy'), port: 80, invalid: '' },
                    numerator: 100,
                    denominator: 100,
                  },
                },
                {
                  kind: 'mirror',
                  mirror: {
                    backend: { service: key('nowhere'), port: 80, invalid: '' },
                    numerator: 100,
                    denominator: 100,
                  },
                },
              ],
            },
          ],
        },
      },
      { name: 'copy', ports: [other] },
    ],
  }));
  for (const body of ['one', 'two']) {
    t.match(await ask(await rig.open('app'), { method: 'PUT', path: '/x', body }), {
      status: 200,
      body,
    });
  }
  await copied.promise;
  t.same(copies.toSorted(), ['PUT /x one', 'PUT /x two']);
  await rig.recorded(2);
  t.equal(rig.records.length, 2, 'copies have no record');
});

t.test('a mirror gets also what came before it was known that there is one', async (t) => {
  const copied = Promise.withResolvers<string>();
  const app = createHttpServer((request, response) => void request.pipe(response));
  const copy = createHttpServer((request, response) => {
    text(request).then(copied.resolve, copied.reject);
    response.end();
  });
  const backend = { service: key('copy'), port: 80, invalid: '' };
  const filters = [
    { kind: 'mirror' as const, mirror: { backend, numerator: 100, denominator: 100 } },
  ];
  const rig = await rigFor(t, [app, copy], ([port = 0, other = 0]) => ({
    apps: [
      { name: 'app', ports: [port], routes: { ...NO_ROUTES, http: [{ ...toApp(), filters }] } },
      { name: 'copy', ports: [other] },
    ],
  }));
  const delay = { percent: 100, ms: 100 };
  const faults = [{ headers: [], delay, abort: undefined }];
  rig.traffic.apply([traffic('app', layer({ kind: 'service' }, { faults }))], []);
  const body = 'all of it';
  t.match(await ask(await rig.open('app'), { method: 'PUT', path: '/x', body }), { body });
  t.equal(await copied.promise, body);
});
