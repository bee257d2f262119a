import t from 'tap';

import type { HeaderField, HeaderList } from '../../../src/http/h2/contract.ts';
import { checkRequest, checkResponse, checkTrailers } from '../../../src/http/h2/header-rules.ts';

const CONNECT: HeaderList = [
  [':method', 'CONNECT'],
  [':authority', '10.0.0.1:80'],
];
const GET: HeaderList = [
  [':method', 'GET'],
  [':scheme', 'http'],
  [':path', '/'],
  [':authority', 'a'],
];

function without(name: string): HeaderList {
  return GET.filter((field) => field[0] !== name);
}

function replaced(name: string, value: string): HeaderList {
  return GET.map((field) => (field[0] === name ? ([name, value] as const) : field));
}

void t.test('header rules: well-formed requests pass, with their facts', (t) => {
  t.same(checkRequest(CONNECT), { method: 'CONNECT', status: 0, contentLength: undefined });
  t.same(checkRequest(GET), { method: 'GET', status: 0, contentLength: undefined });
  const post: HeaderList = [...replaced(':method', 'POST'), ['content-length', '12']];
  t.same(checkRequest(post), { method: 'POST', status: 0, contentLength: 12 });
  const more: readonly HeaderField[] = [
    ['te', 'trailers'],
    ['x', ''],
    ['x', 'a b\tc'],
    ['cookie', 'a=b'],
    ['cookie', 'c=d'],
    ['x', '\u00e9'],
  ];
  for (const field of more) t.type(checkRequest([...GET, field]), 'object', JSON.stringify(field));
  t.type(
    checkRequest([
      [':method', 'OPTIONS'],
      [':scheme', 'http'],
      [':path', '*'],
    ]),
    'object',
  );
  t.end();
});

void t.test('header rules: malformed requests are refused (T43, T81)', (t) => {
  const bad: readonly (readonly [string, HeaderList])[] = [
    ['no method', without(':method')],
    ['no scheme', without(':scheme')],
    ['no path', without(':path')],
    ['empty path', replaced(':path', '')],
    ['path without a slash', replaced(':path', 'a')],
    ['path with a space', replaced(':path', '/a b')],
    ['path with a line', replaced(':path', '/a\r\nx: y')],
    ['* for GET', replaced(':path', '*')],
    ['method with a space', replaced(':method', 'GET /x')],
    ['scheme with a space', replaced(':scheme', 'ht tp')],
    ['authority with a space', replaced(':authority', 'a b')],
    ['empty authority', replaced(':authority', '')],
    ['pseudo header twice', [...GET, [':path', '/b']]],
    ['pseudo header late', [...without(':path'), ['x', 'y'], [':path', '/']]],
    ['unknown pseudo header', [[':x', 'y'], ...GET]],
    ['response pseudo header', [[':status', '200'], ...GET]],
    ['CONNECT without authority', [[':method', 'CONNECT']]],
    ['CONNECT with path', [...CONNECT, [':path', '/']]],
    ['CONNECT with scheme', [...CONNECT, [':scheme', 'http']]],
    ['extended CONNECT', GET.map(([n, v]) => [n, n === ':method' ? 'CONNECT' : v] as const)],
    ['extended CONNECT with :protocol', [...CONNECT, [':protocol', 'websocket']]],
    ['upper case name', [...GET, ['X-A', 'y']]],
    ['empty name', [...GET, ['', 'y']]],
    ['name with a colon', [...GET, ['a:b', 'y']]],
    ['name with a space', [...GET, ['a b', 'y']]],
    ['value with LF', [...GET, ['x', 'a\nb']]],
    ['value with NUL', [...GET, ['x', 'a\0b']]],
    ['value with a leading space', [...GET, ['x', ' a']]],
    ['value with a trailing tab', [...GET, ['x', 'a\t']]],
    ['connection', [...GET, ['connection', 'close']]],
    ['transfer-encoding', [...GET, ['transfer-encoding', 'chunked']]],
    ['keep-alive', [...GET, ['keep-alive', '1']]],
    ['proxy-connection', [...GET, ['proxy-connection', 'x']]],
    ['upgrade', [...GET, ['upgrade', 'h2c']]],
    ['te other than trailers', [...GET, ['te', 'gzip']]],
    ['content-length twice', [...GET, ['content-length', '1'], ['content-length', '1']]],
    ['content-length list', [...GET, ['content-length', '1, 1']]],
    ['content-length signed', [...GET, ['content-length', '+1']]],
    ['content-length huge', [...GET, ['content-length', '9'.repeat(16)]]],
  ];
  for (const [title, headers] of bad) t.type(checkRequest(headers), 'string', title);
  t.end();
});

void t.test('header rules: responses and what their length means', (t) => {
  const length = (status: string, method: string): unknown => {
    const list: HeaderList = [
      [':status', status],
      ['content-length', '5'],
    ];
    const facts = checkResponse(list, method);
    return typeof facts === 'string' ? facts : facts.contentLength;
  };
  t.equal(length('200', 'GET'), 5);
  for (const [status, method] of [
    ['200', 'HEAD'],
    ['204', 'GET'],
    ['304', 'GET'],
    ['103', 'GET'],
    ['200', 'CONNECT'],
  ] as const) {
    t.equal(length(status, method), undefined, `${status} to ${method}`);
  }
  for (const status of ['', '20', '2000', '099', '600', '101', 'abc']) {
    t.type(checkResponse([[':status', status]], 'GET'), 'string', `status "${status}"`);
  }
  t.type(checkResponse([], 'GET'), 'string');
  t.type(
    checkResponse(
      [
        [':status', '200'],
        [':path', '/'],
      ],
      'GET',
    ),
    'string',
  );
  t.end();
});

void t.test('header rules: trailers have no pseudo headers', (t) => {
  t.equal(checkTrailers([['grpc-status', '0']]), undefined);
  t.type(checkTrailers([[':status', '200']]), 'string');
  t.type(checkTrailers([['connection', 'close']]), 'string');
  t.end();
});
