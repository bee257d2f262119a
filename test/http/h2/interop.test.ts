import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';

import t from 'tap';

import type { H2ServerStream, HeaderList } from '../../../src/http/h2/contract.ts';
import { createH2Session } from '../../../src/http/h2/session.ts';
import { listenSessions, record, requestOn, sessionOptions } from './peers.ts';

const BIG = 4 * 1024 * 1024;

function pattern(bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 4) buffer.writeUInt32LE(at, at);
  return buffer;
}

/** Sends everything back, ends when the peer ends. */
function echo(stream: H2ServerStream): void {
  stream.setHandlers({
    onHeaders: () => {},
    onData(chunk) {
      stream.write(chunk);
      stream.consume(chunk.length);
    },
    onEnd: () => stream.end(),
    onReset: () => {},
    onDrain: () => {},
  });
  stream.sendHeaders([[':status', '200']], false);
}

async function nodeServer(
  onStream: (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void,
  settings: http2.Settings = {},
): Promise<{ port: number; close(): void }> {
  const server = http2.createServer({ settings });
  server.on('error', () => {});
  server.on('sessionError', () => {});
  server.on('stream', (stream: http2.ServerHttp2Stream, headers) => {
    stream.on('error', () => {});
    onStream(stream, headers);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as net.AddressInfo).port, close: () => server.close() };
}

void t.test('our server tunnels bytes of a node:http2 client both ways', async (t) => {
  const heads: HeaderList[] = [];
  const server = await listenSessions((stream, headers) => {
    heads.push(headers);
    echo(stream);
  });
  const client = http2.connect(`http://127.0.0.1:${server.port}`, {
    settings: { initialWindowSize: 20_000 },
  });
  client.on('error', () => {});
  const request = client.request({ ':method': 'CONNECT', ':authority': '10.0.0.1:80' });
  request.on('error', () => {});
  const [answer] = (await once(request, 'response')) as [http2.IncomingHttpHeaders];
  t.equal(answer[':status'], 200);
  const sent = pattern(BIG);
  request.end(sent);
  const received: Buffer[] = [];
  request.on('data', (chunk: Buffer) => received.push(chunk));
  await once(request, 'end');
  t.ok(Buffer.concat(received).equals(sent));
  t.same(heads, [
    [
      [':method', 'CONNECT'],
      [':authority', '10.0.0.1:80'],
    ],
  ]);
  client.close();
  server.close();
});

void t.test('our client tunnels bytes to a node:http2 server with small windows', async (t) => {
  const server = await nodeServer(
    (stream) => {
      stream.respond({ ':status': 200 });
      stream.pipe(stream);
    },
    { initialWindowSize: 1000 },
  );
  const socket = net.connect(server.port, '127.0.0.1');
  const session = createH2Session(socket, sessionOptions('client'));
  const { stream, answer } = requestOn(
    session,
    [
      [':method', 'CONNECT'],
      [':authority', 'a:1'],
    ],
    false,
  );
  const sent = pattern(1024 * 1024);
  stream.write(sent);
  stream.end();
  await answer.settled;
  t.ok(answer.ended);
  t.ok(Buffer.concat(answer.chunks).equals(sent));
  t.equal(session.openStreams, 0);
  session.destroy();
  server.close();
});

void t.test('gRPC shape: request, data both ways, trailers', async (t) => {
  const server = await nodeServer((stream, headers) => {
    stream.respond(
      { ':status': 200, 'content-type': 'application/grpc' },
      { waitForTrailers: true },
    );
    stream.on('wantTrailers', () =>
      stream.sendTrailers({ 'grpc-status': '0', echo: headers['x-a'] }),
    );
    stream.pipe(stream);
  });
  const session = createH2Session(net.connect(server.port, '127.0.0.1'), sessionOptions('client'));
  const { stream, answer } = requestOn(
    session,
    [
      [':method', 'POST'],
      [':scheme', 'http'],
      [':path', '/s/m'],
      [':authority', 'x'],
      ['te', 'trailers'],
      ['x-a', 'v'.repeat(20_000)],
    ],
    false,
  );
  stream.write(Buffer.from('hello'));
  stream.end();
  await answer.settled;
  t.equal(Buffer.concat(answer.chunks).toString(), 'hello');
  t.equal(answer.headers[0]?.[0]?.[1], '200');
  t.same(answer.headers[1], [
    ['grpc-status', '0'],
    ['echo', 'v'.repeat(20_000)],
  ]);
  session.destroy();
  server.close();
});

void t.test('our server answers with trailers after queued data', async (t) => {
  const server = await listenSessions((stream) => {
    stream.setHandlers(record(() => stream));
    stream.sendHeaders([[':status', '200']], false);
    stream.write(pattern(BIG));
    stream.sendHeaders([['grpc-status', '7']], true);
  });
  const client = http2.connect(`http://127.0.0.1:${server.port}`);
  client.on('error', () => {});
  const request = client.request({ ':path': '/x' });
  let bytes = 0;
  request.on('data', (chunk: Buffer) => (bytes += chunk.length));
  const trailers = once(request, 'trailers');
  await once(request, 'end');
  t.equal(bytes, BIG);
  t.equal(((await trailers)[0] as http2.IncomingHttpHeaders)['grpc-status'], '7');
  client.close();
  server.close();
});

void t.test('half close: each side may end first, the other goes on', async (t) => {
  const later = Promise.withResolvers<string>();
  const server = await listenSessions((stream) => {
    const seen = record(() => stream);
    stream.setHandlers(seen);
    stream.sendHeaders([[':status', '200']], false);
    stream.write(Buffer.from('first'));
    stream.end();
    void seen.settled.then(() => later.resolve(Buffer.concat(seen.chunks).toString()));
  });
  const socket = net.connect(server.port, '127.0.0.1');
  const session = createH2Session(socket, sessionOptions('client'));
  const connect: HeaderList = [
    [':method', 'CONNECT'],
    [':authority', 'a:1'],
  ];
  const { stream, answer } = requestOn(session, connect, false);
  await answer.settled;
  t.equal(Buffer.concat(answer.chunks).toString(), 'first');
  t.equal(session.openStreams, 1);
  stream.write(Buffer.from('later'));
  stream.end();
  t.equal(session.openStreams, 0);
  session.drain();
  await new Promise<void>((resolve) => {
    session.onClosed((error) => {
      t.equal(error, undefined);
      resolve();
    });
  });
  t.equal(await later.promise, 'later');
  server.close();
});
