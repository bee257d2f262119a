import fc from 'fast-check';
import t from 'tap';

import { answerOk, createServerRig, tick } from './pipe.ts';

const GET = 'GET /a?b=c HTTP/1.1\r\nHost: app\r\nX-One: 1\r\n\r\n';
const CHUNKED =
  'POST /p HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n';

t.test('requests are the same however their bytes are cut', async (t) => {
  const text = GET + CHUNKED + 'PUT /l HTTP/1.1\r\nHost: app\r\nContent-Length: 3\r\n\r\nabc' + GET;
  const whole = createServerRig(answerOk);
  whole.stream.receive(text);
  await tick();
  t.equal(whole.seen.length, 4);
  t.same(
    whole.seen.map(({ body }) => body),
    ['', 'hello world', 'abc', ''],
  );
  t.same(whole.seen[1]?.trailers, [['x-sum', '7']]);
  t.same(whole.seen[0]?.headers, [
    [':method', 'GET'],
    [':scheme', 'http'],
    [':authority', 'app'],
    [':path', '/a?b=c'],
    ['x-one', '1'],
  ]);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: text.length - 1 }), { maxLength: 12 }),
      async (cuts) => {
        const rig = createServerRig(answerOk);
        let from = 0;
        for (const cut of [...new Set(cuts)].toSorted((a, b) => a - b)) {
          rig.stream.receive(text.slice(from, cut));
          from = cut;
          await tick();
        }
        rig.stream.receive(text.slice(from));
        await tick();
        await tick();
        t.same(
          rig.seen.map(({ headers, body, trailers }) => ({ headers, body, trailers })),
          whole.seen.map(({ headers, body, trailers }) => ({ headers, body, trailers })),
        );
        t.equal(rig.stream.written, whole.stream.written);
        t.equal(rig.stream.consumed, text.length, 'the window is given back to the byte');
      },
    ),
    { numRuns: 60 },
  );
});

t.test(
  'an answer leaves in one write: with the read it was made in, or at the end of its tick',
  async (t) => {
    const rig = createServerRig(answerOk);
    rig.stream.receive(GET);
    t.match(rig.stream.written, /got 0\r\n0\r\n\r\n$/);
    t.equal(rig.stream.writes, 1);
    const late = createServerRig();
    late.stream.receive(GET);
    const [asked] = late.seen;
    if (asked === undefined) throw new Error('nothing was asked');
    answerOk(asked);
    t.equal(late.stream.writes, 0);
    await tick();
    t.match(late.stream.written, /got 0\r\n0\r\n\r\n$/);
    t.equal(late.stream.writes, 1);
  },
);

t.test('one byte at a time', async (t) => {
  const rig = createServerRig(answerOk);
  for (const character of CHUNKED + GET) {
    rig.stream.receive(character);
    await tick();
  }
  t.same(
    rig.seen.map(({ body, ended }) => ({ body, ended })),
    [
      { body: 'hello world', ended: true },
      { body: '', ended: true },
    ],
  );
});

t.test('random bytes never throw, and nothing is served twice', async () => {
  const piece = fc.oneof(
    fc.constantFrom(
      'GET / HTTP/1.1\r\n',
      'Host: a\r\n',
      '\r\n',
      'Transfer-Encoding: chunked\r\n',
      'Content-Length: 3\r\n',
      '0\r\n\r\n',
      '3\r\nabc\r\n',
      ':',
      ' ',
      '\n',
    ),
    fc
      .string({ unit: 'binary', maxLength: 20 })
      .map((text) => Buffer.from(text).toString('latin1')),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(piece, { maxLength: 20 }), async (pieces) => {
      const rig = createServerRig(answerOk);
      for (const text of pieces) rig.stream.receive(text);
      await tick();
      rig.stream.receiveEnd();
      await rig.clock.advance(20_000);
      if (!rig.closed) throw new Error('it did not end');
      if (rig.refusals.length > 1) throw new Error('refused twice');
    }),
    { numRuns: 500 },
  );
});

const REFUSED: readonly (readonly [name: string, text: string, status: number])[] = [
  [
    'T80 both lengths',
    'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n',
    400,
  ],
  [
    'T80 two lengths',
    'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n',
    400,
  ],
  ['T80 a list of lengths', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n', 400],
  ['T80 a signed length', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n', 400],
  ['T80 a hex length', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n', 400],
  ['T80 an empty length', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n', 400],
  ['T80 an octal length', 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 03\r\n\r\n', 400],
  [
    'T80 an unknown coding',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n',
    501,
  ],
  ['T80 identity', 'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n', 501],
  [
    'T80 two codings',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n',
    400,
  ],
  [
    'T80 a hidden coding',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n',
    400,
  ],
  [
    'T80 a quoted coding',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "chunked"\r\n\r\n',
    400,
  ],
  [
    'T80 chunks in HTTP/1.0',
    'POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n',
    400,
  ],
  ['T80 space before the colon', 'GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n', 400],
  ['T80 a folded line', 'GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n', 400],
  ['T80 a lone LF', 'GET / HTTP/1.1\nHost: a\n\n', 400],
  ['T80 a lone LF in the head', 'GET / HTTP/1.1\r\nHost: a\r\nX: 1\nY: 2\r\n\r\n', 400],
  ['T80 a lone CR', 'GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n', 400],
  ['T80 NUL', 'GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n', 400],
  [
    'T80 a chunk extension',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\n\r\n',
    400,
  ],
  [
    'T80 a chunk size in hex notation',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n',
    400,
  ],
  [
    'T80 a chunk line with LF',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n',
    400,
  ],
  [
    'T80 a chunk without its end',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n',
    400,
  ],
  [
    'T80 an endless chunk size',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000001\r\n',
    400,
  ],
  [
    'T80 framing in trailers',
    'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n',
    400,
  ],
  ['T82 Connection names Host', 'GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n', 400],
  [
    'T83 Upgrade with a body',
    'GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc',
    400,
  ],
  ['T83 CONNECT', 'CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n', 501],
  ['T85 too many fields', `GET / HTTP/1.1\r\nHost: a\r\n${'X: 1\r\n'.repeat(300)}\r\n`, 431],
  ['T85 a head too large', `GET / HTTP/1.1\r\nHost: a\r\nX: ${'y'.repeat(70_000)}\r\n\r\n`, 431],
  ['T85 a line too long', `GET /${'y'.repeat(9000)} HTTP/1.1\r\nHost: a\r\n\r\n`, 414],
  ['T87 no Host', 'GET / HTTP/1.1\r\n\r\n', 400],
  ['T87 two Hosts', 'GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n', 400],
  ['T87 user information', 'GET / HTTP/1.1\r\nHost: a@b\r\n\r\n', 400],
  ['T87 another host in the target', 'GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n', 400],
  ['T86 a fragment', 'GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n', 400],
  ['T86 a target without a slash', 'GET a HTTP/1.1\r\nHost: a\r\n\r\n', 400],
  ['T80 a space in the target', 'GET /a b HTTP/1.1\r\nHost: a\r\n\r\n', 400],
  ['T80 two spaces', 'GET  / HTTP/1.1\r\nHost: a\r\n\r\n', 400],
  ['T80 another version', 'GET / HTTP/2.0\r\nHost: a\r\n\r\n', 505],
  ['T80 HTTP/0.9', 'GET /\r\n\r\n', 400],
  ['T80 an empty line first', '\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n', 400],
  ['T90 an underscore', 'GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 3\r\n\r\n', 400],
  ['T90 an empty name', 'GET / HTTP/1.1\r\nHost: a\r\n: 3\r\n\r\n', 400],
  ['another Expect', 'GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n', 417],
];

for (const [name, text, status] of REFUSED) {
  t.test(`refused with ${status} and closed: ${name}`, async (t) => {
    const rig = createServerRig(answerOk);
    rig.stream.receive(`${text}GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n`);
    await tick();
    t.match(
      rig.stream.written,
      new RegExp(
        `^HTTP/1\\.1 ${status} [^\\r]*\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n$`,
      ),
    );
    t.ok(rig.stream.ended);
    t.notOk(
      rig.seen.some(({ ended }) => ended),
      'nobody has seen a complete request',
    );
    t.notOk(rig.seen.some(({ headers }) => headers.some(([, value]) => value.includes('hidden'))));
    for (const { error } of rig.seen) t.equal(error?.code, 'MESH_HTTP1_PROTOCOL');
  });
}

t.test('pipelined requests are answered in order, one at a time', async (t) => {
  const rig = createServerRig();
  rig.stream.receive(GET + GET.replace('/a', '/second'));
  await tick();
  t.equal(rig.seen.length, 1);
  const first = rig.seen[0];
  if (first !== undefined) answerOk(first);
  await tick();
  await tick();
  t.equal(rig.seen.length, 2);
  t.match(
    rig.stream.written,
    /^HTTP\/1\.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ngot 0\r\n0\r\n\r\n$/,
  );
});

t.test('framing of answers', async (t) => {
  const rig = createServerRig(({ stream, headers }) => {
    const path = headers.find(([name]) => name === ':path')?.[1];
    if (path === '/length') {
      stream.sendHeaders(
        [
          [':status', '200'],
          ['content-length', '2'],
          ['connection', 'x-secret'],
          ['transfer-encoding', 'gzip'],
        ],
        false,
      );
      stream.write(Buffer.from('ok'));
      stream.end();
    } else if (path === '/head') {
      stream.sendHeaders(
        [
          [':status', '200'],
          ['content-length', '2'],
        ],
        true,
      );
    } else if (path === '/304')
      stream.sendHeaders(
        [
          [':status', '304'],
          ['content-length', '9'],
        ],
        true,
      );
    else stream.sendHeaders([[':status', '204']], true);
  });
  const get = (method: string, path: string, more = ''): string =>
    `${method} ${path} HTTP/1.1\r\nHost: a\r\n${more}\r\n`;
  rig.stream.receive(
    get('GET', '/length') +
      get('HEAD', '/head') +
      get('GET', '/304') +
      get('GET', '/204', 'Connection: close\r\n'),
  );
  for (let i = 0; i < 6; i++) await tick();
  t.equal(
    rig.stream.written,
    'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok' +
      'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n' +
      'HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n' +
      'HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n',
  );
  t.ok(rig.stream.ended);
});

t.test('F7 an answer that breaks its promise is reset, never ended', async (t) => {
  for (const body of ['short', 'far too long']) {
    const rig = createServerRig(({ stream }) => {
      stream.sendHeaders(
        [
          [':status', '200'],
          ['content-length', '7'],
        ],
        false,
      );
      stream.write(Buffer.from(body));
      stream.end();
    });
    rig.stream.receive(GET);
    await tick();
    t.ok(rig.stream.wasReset, body);
    t.notOk(rig.stream.ended);
  }
  const rig = createServerRig(({ stream }) => {
    stream.sendHeaders([[':status', '200']], false);
    stream.write(Buffer.from('part'));
    stream.reset(8);
  });
  rig.stream.receive(GET);
  await tick();
  t.ok(rig.stream.wasReset);
  t.notMatch(rig.stream.written, /0\r\n\r\n$/);
  t.equal(rig.seen[0]?.error?.code, 'MESH_HTTP1_STREAM_RESET');
});

t.test(
  'a client that ends inside its request gets a reset, and so does whoever serves it',
  async (t) => {
    const rig = createServerRig();
    rig.stream.receive('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc');
    rig.stream.receiveEnd();
    t.equal(rig.seen[0]?.error?.code, 'MESH_CONNECTION_CLOSED');
    t.ok(rig.stream.wasReset);
  },
);

t.test('a head must be complete in time, an idle connection ends', async (t) => {
  const slow = createServerRig();
  slow.stream.receive('GET / HT');
  for (let i = 0; i < 11; i++) {
    await slow.clock.advance(1000);
    if (!slow.stream.ended) slow.stream.receive('x');
  }
  t.ok(slow.stream.ended);
  const idle = createServerRig(answerOk);
  idle.stream.receive(GET);
  await idle.clock.advance(3_500_000);
  t.notOk(idle.stream.ended);
  await idle.clock.advance(200_000);
  t.ok(idle.stream.ended);
  t.ok(idle.closed);
});

t.test('an upgrade carries bytes both ways after 101 and no byte before', async (t) => {
  const rig = createServerRig();
  rig.stream.receive(
    'GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly',
  );
  await tick();
  const [seen] = rig.seen;
  t.equal(seen?.headers.find(([name]) => name === 'upgrade')?.[1], 'websocket');
  t.equal(seen?.body, '');
  seen?.stream.sendHeaders(
    [
      [':status', '101'],
      ['upgrade', 'websocket'],
    ],
    false,
  );
  t.equal(seen?.body, 'early', 'T83');
  rig.stream.receive('more');
  seen?.stream.write(Buffer.from('back'));
  await tick();
  t.equal(seen?.body, 'earlymore');
  t.equal(
    rig.stream.written,
    'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nback',
  );
  rig.stream.receiveEnd();
  seen?.stream.end();
  await tick();
  t.ok(rig.stream.ended);
  t.ok(rig.closed);
});

t.test('drain: the answer under way says close, an idle connection ends at once', async (t) => {
  const busy = createServerRig();
  busy.stream.receive(GET);
  busy.connection.drain();
  t.notOk(busy.stream.ended);
  const [seen] = busy.seen;
  if (seen !== undefined) answerOk(seen);
  await tick();
  t.match(busy.stream.written, /connection: close/);
  t.ok(busy.stream.ended);
  const idle = createServerRig();
  idle.connection.drain();
  t.ok(idle.stream.ended);
});

t.test('values that would become other bytes are not sent (T81)', (t) => {
  const rig = createServerRig();
  rig.stream.receive(GET);
  for (const value of ['a\r\nx: y', 'a\u010dx', 'a\nb', 'a\0b']) {
    t.throws(
      () =>
        rig.seen[0]?.stream.sendHeaders(
          [
            [':status', '200'],
            ['x', value],
          ],
          true,
        ),
      { code: 'MESH_MESSAGE_INVALID' },
    );
  }
  t.throws(
    () =>
      rig.seen[0]?.stream.sendHeaders(
        [
          [':status', '200'],
          ['x y', 'v'],
        ],
        true,
      ),
    { code: 'MESH_MESSAGE_INVALID' },
  );
  t.equal(rig.stream.written, '');
  t.end();
});
