/** Messages in forms that are rare and allowed: what the application and the client get of them. */

import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';

import t from 'tap';

import { askH2, rigFor } from './ask.ts';
import { buildBackend, buildRule, buildSet } from './build-routes.ts';

const EMPTY_CHUNKED = 'POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n';

t.test('a chunked body without a byte ends, also before an upstream is open', async (t) => {
  const ended: string[] = [];
  const make = (name: string) =>
    createServer((request, response) => {
      request.resume();
      request.on('end', () => {
        ended.push(name);
        response.end(name);
      });
    });
  const rig = await rigFor(t, [make('app'), make('copy')], ([app = 0, copy = 0]) => ({
    apps: [
      { name: 'app', ports: [app] },
      { name: 'copy', ports: [copy] },
    ],
  }));
  const mirror = { backend: buildBackend('copy').backend, numerator: 1, denominator: 1 };
  const filters = [{ kind: 'mirror', mirror } as const];
  rig.setRoutes('app', buildSet([buildRule({ backends: [buildBackend('app')], filters })]));
  const connection = await rig.open('app');
  connection.write(EMPTY_CHUNKED);
  const [answer] = (await once(connection, 'data')) as [Buffer];
  t.match(String(answer), /^HTTP\/1\.1 200 OK/);
  while (ended.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  t.same(ended.toSorted(), ['app', 'copy'], 'and so does its copy');
  connection.destroy();
});

t.test('an answer of our own to HEAD has no body (RFC 9110 section 9.3.2)', async (t) => {
  const rig = await rigFor(t, [], () => ({ apps: [{ name: 'app', ports: [] }] }));
  const path = { kind: 'exact', value: '/x' } as const;
  rig.setRoutes(
    'app',
    buildSet([buildRule({ matches: [{ path, method: '', headers: [], queryParams: [] }] })]),
  );
  const nowhere = await askH2(rig, 'app', { ':method': 'HEAD', ':path': '/nowhere' });
  t.match(nowhere, { ':status': 404, 'content-length': '17' });
  const refused = await askH2(rig, 'app', { ':method': 'HEAD', ':path': '/a', bad_name: '1' });
  t.match(refused, { ':status': 400 }, 'nor where the request could not be read');
});

t.test('a call whose backend cannot be used is UNAVAILABLE, as Gateway API says', async (t) => {
  const rig = await rigFor(t, [], () => ({ apps: [{ name: 'app', ports: [] }] }));
  const backend = { ...buildBackend('nobody').backend, invalid: 'BackendNotFound' };
  const backends = [buildBackend('nobody', 1, { backend })];
  rig.setRoutes('app', buildSet([buildRule({ backends })]));
  const call = { ':method': 'POST', ':path': '/a.B/c', 'content-type': 'application/grpc' };
  t.match(await askH2(rig, 'app', call), { ':status': 200, 'grpc-status': '14' });
});

t.test('lines of one field that applications read as one', async (t) => {
  let got: IncomingMessage['rawHeaders'] = [];
  const server = createServer((request, response) => {
    got = request.rawHeaders;
    response.end();
  });
  const rig = await rigFor(t, [server], ([port = 0]) => ({
    apps: [
      { name: 'front', ports: [] },
      { name: 'back', ports: [port], appProtocol: 'HTTP11' },
    ],
    trustedHops: new Set(['shop/web']),
  }));
  const match = { kind: 'regex', value: '(.*; )?user=jason(;.*)?' } as const;
  const path = { kind: 'prefix', value: '/' } as const;
  const headers = [{ name: 'cookie', match }];
  rig.setRoutes(
    'front',
    buildSet([
      buildRule({
        matches: [{ path, method: '', headers, queryParams: [] }],
        backends: [buildBackend('back')],
      }),
    ]),
  );
  const cookie = ['a=1', 'user=jason', 'b=2'];
  const answer = await askH2(rig, 'front', { ':path': '/', cookie });
  t.equal(answer[':status'], 200, 'a route sees the cookies as one (RFC 9113 section 8.2.3)');
  const values = (name: string): string[] =>
    got.filter((_, index) => index % 2 === 1 && got[index - 1]?.toLowerCase() === name);
  t.same(values('cookie'), ['a=1; user=jason; b=2']);

  const connection = await rig.open('front');
  const lines = 'X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 198.51.100.1\r\n';
  connection.write(`GET / HTTP/1.1\r\nHost: app\r\nCookie: user=jason\r\n${lines}\r\n`);
  await once(connection, 'data');
  t.same(values('x-forwarded-for'), ['203.0.113.7, 198.51.100.1, 127.0.0.1'], 'of a trusted hop');
  connection.destroy();
});
