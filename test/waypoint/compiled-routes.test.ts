import t from 'tap';

import { createSeededRandom } from '../../src/base/random.ts';
import type { Cors, HttpFilter, HttpRule } from '../../src/core/route.ts';
import type { HeaderList } from '../../src/http/h2/contract.ts';
import {
  applyBackendFilters,
  applyRequestFilters,
  applyResponseFilters,
  chooseBackend,
  chooseMirrors,
  compileRoutes,
  type RoutedRequest,
} from '../../src/waypoint/compiled-routes.ts';
import {
  buildBackend,
  buildChange,
  buildMatch,
  buildRef,
  buildRequest,
  buildRule,
  buildSet,
  exactly,
  requestHeaders,
} from './build-routes.ts';

/** Names of the rules that serve each URL. */
function route(rules: readonly HttpRule[], request: RoutedRequest): string {
  return compileRoutes(buildSet(rules)).match(request)?.rule.name ?? '404';
}

void t.test('MeshHTTPRouteMatching: prefixes go by segments, headers by value', (t) => {
  const rules = [
    buildRule({
      name: 'v1',
      matches: [buildMatch(), buildMatch({ headers: [exactly('version', 'one')] })],
    }),
    buildRule({
      name: 'v2',
      index: 1,
      matches: [
        buildMatch({ path: { kind: 'prefix', value: '/v2' } }),
        buildMatch({ headers: [exactly('version', 'two')] }),
      ],
    }),
  ];
  const cases: readonly (readonly [string, HeaderList, string])[] = [
    ['/', [], 'v1'],
    ['/example', [], 'v1'],
    ['/', [['version', 'one']], 'v1'],
    ['/v2', [], 'v2'],
    ['/v2/', [], 'v2'],
    ['/v2/example', [], 'v2'],
    ['/', [['version', 'two']], 'v2'],
    ['/v2example', [], 'v1'],
    ['/foo/v2/example', [], 'v1'],
  ];
  for (const [path, headers, name] of cases) {
    t.equal(route(rules, buildRequest(`http://echo${path}`, headers)), name, path);
  }
  t.end();
});

void t.test('MeshHTTPRouteQueryParamMatching: none that matches is 404', (t) => {
  const query = (name: string, value: string): HttpRule['matches'][number] =>
    buildMatch({ queryParams: [exactly(name, value)] });
  const rules = [
    buildRule({ name: 'v1', matches: [query('animal', 'whale')] }),
    buildRule({
      name: 'v2',
      index: 1,
      matches: [
        buildMatch({ queryParams: [exactly('animal', 'dolphin'), exactly('color', 'blue')] }),
      ],
    }),
    buildRule({ name: 'v3', index: 2, matches: [query('ANIMAL', 'Whale')] }),
  ];
  const cases: readonly (readonly [string, string])[] = [
    ['/?animal=whale', 'v1'],
    ['/?animal=dolphin', '404'],
    ['/?animal=dolphin&color=blue', 'v2'],
    ['/?color=blue&animal=dolphin&x', 'v2'],
    ['/?ANIMAL=Whale', 'v3'],
    ['/?animal=whale&otherparam=irrelevant', 'v1'],
    ['/?animal=wh%61le', 'v1'],
    ['/?animal=cat&animal=whale', '404'],
    ['/', '404'],
    ['/?animal', '404'],
    ['/?=whale', '404'],
  ];
  for (const [path, name] of cases) {
    t.equal(route(rules, buildRequest(`http://echo${path}`)), name, path);
  }
  t.end();
});

void t.test('routes are merged by age, then name', (t) => {
  const old = buildRule({ name: 'old', route: buildRef({ name: 'z', createdMs: 1 }) });
  const young = buildRule({ name: 'young', route: buildRef({ name: 'a', createdMs: 2 }) });
  const twin = buildRule({ name: 'twin', route: buildRef({ name: 'y', createdMs: 1 }) });
  t.equal(route([young, old], buildRequest('http://echo/')), 'old');
  t.equal(route([young, old, twin], buildRequest('http://echo/')), 'twin');
  t.end();
});

void t.test('T86 escapes do not change which rule serves', (t) => {
  const rules = [
    buildRule({
      name: 'admin',
      matches: [buildMatch({ path: { kind: 'prefix', value: '/admin(1)' } })],
    }),
    buildRule({ name: 'rest', index: 1 }),
  ];
  for (const path of ['/admin(1)/x', '/admin%281%29/x', '/x/../%61dmin(1)', '//admin(1)']) {
    t.equal(route(rules, buildRequest(`http://echo${path}`)), 'admin', path);
  }
  t.equal(route(rules, buildRequest('http://echo/Admin(1)')), 'rest', 'case counts');
  t.end();
});

function forward(rule: HttpRule, request: RoutedRequest, port: number = 80): unknown {
  const choice = compileRoutes(buildSet([rule])).match(request);
  if (choice === undefined) return 404;
  const outcome = applyRequestFilters(choice, request, port);
  return outcome.kind === 'forward' ? outcome.request : outcome.answer;
}

function location(filter: HttpFilter, url: string, port: number, prefix: string = '/'): unknown {
  const rule = buildRule({
    filters: [filter],
    backends: [],
    matches: [buildMatch({ path: { kind: 'prefix', value: prefix } })],
  });
  const answer = forward(rule, buildRequest(url), port) as { status: number; headers: HeaderList };
  return `${answer.status} ${answer.headers.find(([name]) => name === 'location')?.[1] ?? ''}`;
}

const redirect = (
  change: Partial<Extract<HttpFilter, { kind: 'redirect' }>['redirect']>,
): HttpFilter => ({
  kind: 'redirect',
  redirect: {
    scheme: undefined,
    hostname: undefined,
    port: undefined,
    path: undefined,
    status: 302,
    ...change,
  },
});

void t.test('redirects: Location by the specification', (t) => {
  const prefix = (value: string): HttpFilter => redirect({ path: { kind: 'prefix', value } });
  const full = (value: string): HttpFilter => redirect({ path: { kind: 'full', value } });
  const cases: readonly (readonly [HttpFilter, string, number, string, string?])[] = [
    [
      redirect({ hostname: 'example.org' }),
      'http://echo/a?b=c',
      80,
      '302 http://example.org/a?b=c',
    ],
    [
      redirect({ hostname: 'example.org', status: 301 }),
      'http://echo/',
      80,
      '301 http://example.org/',
    ],
    [redirect({ status: 307, hostname: 'x' }), 'http://echo/', 80, '307 http://x/'],
    [redirect({ status: 308, hostname: 'x' }), 'http://echo/', 80, '308 http://x/'],
    [redirect({ status: 303, hostname: 'x' }), 'http://echo/', 80, '303 http://x/'],
    [redirect({ hostname: 'x' }), 'http://echo/', 8080, '302 http://x:8080/'],
    [redirect({ scheme: 'https' }), 'http://echo/a', 8080, '302 https://echo/a'],
    [redirect({ scheme: 'http' }), 'http://echo/a', 8080, '302 http://echo/a'],
    [redirect({ scheme: 'https', port: 8443 }), 'http://echo/', 80, '302 https://echo:8443/'],
    [redirect({ scheme: 'https', port: 443 }), 'http://echo/', 80, '302 https://echo/'],
    [redirect({ scheme: 'http', port: 443 }), 'http://echo/', 80, '302 http://echo:443/'],
    [redirect({ port: 80 }), 'http://echo:8080/', 8080, '302 http://echo/'],
    [redirect({ port: 8083 }), 'http://echo/', 80, '302 http://echo:8083/'],
    [
      prefix('/replacement'),
      'http://echo/original/a',
      80,
      '302 http://echo/replacement/a',
      '/original',
    ],
    [
      prefix('/replacement/'),
      'http://echo/original/a',
      80,
      '302 http://echo/replacement/a',
      '/original/',
    ],
    [prefix('/'), 'http://echo/original/a', 80, '302 http://echo/a', '/original'],
    [prefix(''), 'http://echo/original', 80, '302 http://echo/', '/original'],
    [prefix('/xyz'), 'http://echo/original/', 80, '302 http://echo/xyz/', '/original'],
    [prefix('/xyz'), 'http://echo/original', 80, '302 http://echo/xyz', '/original'],
    [prefix('/xyz'), 'http://echo/a', 80, '302 http://echo/xyz/a', '/'],
    [full('/whole'), 'http://echo/original/a?q', 80, '302 http://echo/whole?q', '/original'],
    [full(''), 'http://echo/original/a', 80, '302 http://echo/', '/original'],
  ];
  for (const [filter, url, port, wanted, path] of cases) {
    t.equal(location(filter, url, port, path), wanted, `${url} on ${port}: ${wanted}`);
  }
  t.end();
});

void t.test('rewrites: host, whole path, prefix', (t) => {
  const rewrite = (
    value: Partial<Extract<HttpFilter, { kind: 'rewrite' }>['rewrite']>,
    url: string,
  ): unknown => {
    const filter: HttpFilter = {
      kind: 'rewrite',
      rewrite: { hostname: undefined, path: undefined, ...value },
    };
    const matches = [buildMatch({ path: { kind: 'prefix', value: '/a(1)' } })];
    const { authority, path } = forward(
      buildRule({ filters: [filter], matches }),
      buildRequest(url),
    ) as {
      authority: string;
      path: string;
    };
    return `${authority} ${path}`;
  };
  t.equal(rewrite({ hostname: 'one' }, 'http://echo:81/a(1)/b?c'), 'one /a(1)/b?c');
  t.equal(rewrite({ path: { kind: 'full', value: '/x' } }, 'http://echo/a(1)/b?c'), 'echo /x?c');
  t.equal(
    rewrite({ path: { kind: 'prefix', value: '/x/' } }, 'http://echo/a(1)/b?c'),
    'echo /x/b?c',
  );
  t.equal(rewrite({ path: { kind: 'prefix', value: '/' } }, 'http://echo/a(1)'), 'echo /');
  t.equal(
    rewrite({ path: { kind: 'prefix', value: '/x' } }, 'http://echo/a%281%29/b%29'),
    'echo /x/b%29',
    'escapes are longer than what they stand for',
  );
  t.end();
});

void t.test('header changes: any case, joined, framing left alone (T82)', (t) => {
  const rule = buildRule({
    filters: [
      requestHeaders({
        set: [
          ['X-Set', 'new'],
          ['Content-Length', '1'],
          ['x-nodemesh-client', 'me'],
        ],
        add: [
          ['X-Add', 'more'],
          ['transfer-encoding', 'chunked'],
          ['Host', 'evil'],
        ],
        remove: ['X-Gone', 'Connection'],
      }),
    ],
  });
  const headers: HeaderList = [
    ['x-set', 'a'],
    ['x-gone', '1'],
    ['x-set', 'b'],
    ['x-add', 'one'],
    ['content-length', '7'],
    ['connection', 'close'],
  ];
  const request = forward(rule, buildRequest('http://echo/', headers)) as { headers: HeaderList };
  t.strictSame(request.headers, [
    ['x-set', 'new'],
    ['x-add', 'one,more'],
    ['content-length', '7'],
    ['connection', 'close'],
  ]);
  const backend = buildBackend('v1', 1, {
    filters: [requestHeaders({ add: [['x-backend', '1']] })],
  });
  const after = applyBackendFilters(backend, { authority: 'echo', path: '/', headers: [] });
  t.strictSame(after.headers, [['x-backend', '1']]);
  t.end();
});

void t.test('answers: backend first, then the rule; cookies are not joined', (t) => {
  const change = (value: Partial<Parameters<typeof buildChange>[0]>): HttpFilter => ({
    kind: 'response-headers',
    change: buildChange(value),
  });
  const backend = buildBackend('v1', 1, {
    filters: [
      change({
        set: [
          ['x', 'backend'],
          ['y', 'backend'],
        ],
      }),
    ],
  });
  const rule = buildRule({
    filters: [change({ set: [['x', 'rule']], add: [['set-cookie', 'b=2']] })],
    backends: [backend],
  });
  const request = buildRequest('http://echo/');
  const choice = compileRoutes(buildSet([rule])).match(request);
  if (choice === undefined) throw new Error('no rule');
  t.strictSame(applyResponseFilters(choice, backend, request, [['set-cookie', 'a=1']]), [
    ['set-cookie', 'a=1'],
    ['x', 'rule'],
    ['y', 'backend'],
    ['set-cookie', 'b=2'],
  ]);
  t.end();
});

const CORS: Cors = {
  allowOrigins: ['https://*.shop.test', 'https://exact.test'],
  allowCredentials: false,
  allowMethods: ['GET', 'PUT'],
  allowHeaders: ['x-a'],
  exposeHeaders: ['x-b'],
  maxAgeS: 5,
};

void t.test('CORS: preflights are answered for the method they ask about', (t) => {
  const rules = [
    buildRule({
      name: 'cors',
      filters: [{ kind: 'cors', cors: CORS }],
      matches: [buildMatch({ method: 'PUT' })],
    }),
  ];
  const routes = compileRoutes(buildSet(rules));
  const preflight = (origin: string): unknown => {
    const request = buildRequest(
      'http://echo/',
      [
        ['origin', origin],
        ['access-control-request-method', 'PUT'],
      ],
      'OPTIONS',
    );
    const choice = routes.match(request);
    if (choice === undefined) return 404;
    const outcome = applyRequestFilters(choice, request, 80);
    return outcome.kind === 'answer' ? [outcome.answer.status, ...outcome.answer.headers] : 'sent';
  };
  t.strictSame(preflight('https://a.shop.test'), [
    204,
    ['access-control-allow-origin', 'https://a.shop.test'],
    ['vary', 'Origin'],
    ['access-control-allow-methods', 'GET, PUT'],
    ['access-control-allow-headers', 'x-a'],
    ['access-control-max-age', '5'],
  ]);
  for (const origin of [
    'https://evil.test',
    'https://shop.test',
    'https://a.shop.test.evil.test',
    'http://a.shop.test',
    'https://evil.test/.shop.test',
    'null',
  ]) {
    t.strictSame(preflight(origin), [204, ['vary', 'Origin']], origin);
  }
  t.equal(
    routes.match(buildRequest('http://echo/', [], 'OPTIONS')),
    undefined,
    'a plain OPTIONS is not a preflight',
  );
  t.end();
});

void t.test('CORS: answers carry what the route says', (t) => {
  const mark = (cors: Cors, origin: string | undefined): HeaderList => {
    const rule = buildRule({ filters: [{ kind: 'cors', cors }] });
    const request = buildRequest('http://echo/', origin === undefined ? [] : [['origin', origin]]);
    const choice = compileRoutes(buildSet([rule])).match(request);
    if (choice === undefined) throw new Error('no rule');
    return applyResponseFilters(choice, undefined, request, [
      ['access-control-allow-origin', 'app'],
    ]);
  };
  t.strictSame(mark(CORS, 'https://exact.test'), [
    ['access-control-allow-origin', 'https://exact.test'],
    ['vary', 'Origin'],
    ['access-control-expose-headers', 'x-b'],
  ]);
  t.strictSame(
    mark(CORS, 'https://evil.test'),
    [],
    'the application cannot allow what the route does not',
  );
  t.strictSame(mark(CORS, undefined), []);
  t.strictSame(mark({ ...CORS, allowOrigins: ['*'], exposeHeaders: [] }, 'https://x'), [
    ['access-control-allow-origin', '*'],
  ]);
  t.strictSame(
    mark({ ...CORS, allowOrigins: ['*'], allowCredentials: true, exposeHeaders: [] }, 'https://x'),
    [
      ['access-control-allow-origin', 'https://x'],
      ['vary', 'Origin'],
      ['access-control-allow-credentials', 'true'],
    ],
  );
  t.end();
});

void t.test('backends are chosen by weight; 0 never', (t) => {
  const random = createSeededRandom(7);
  const rule = buildRule({
    backends: [buildBackend('v1', 70), buildBackend('none', 0), buildBackend('v2', 30)],
  });
  const counts = new Map<string, number>();
  for (let i = 0; i < 10_000; i++) {
    const name = chooseBackend(rule, random)?.backend.service.slice(5, 7) ?? '';
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  t.strictSame([...counts.keys()].toSorted(), ['v1', 'v2']);
  t.ok(Math.abs((counts.get('v1') ?? 0) - 7_000) < 200, `${counts.get('v1')} of 10,000 to 70 %`);
  t.equal(chooseBackend(buildRule({ backends: [] }), random), undefined);
  t.equal(chooseBackend(buildRule({ backends: [buildBackend('v1', 0)] }), random), undefined);
  const none = buildRule({ backends: [buildBackend('v1', 0), buildBackend('v2', 0)] });
  t.equal(chooseBackend(none, random), undefined);
  t.end();
});

void t.test('mirrors take their share, each by itself', (t) => {
  const random = createSeededRandom(8);
  const mirror = (numerator: number, denominator: number, invalid: string = ''): HttpFilter => ({
    kind: 'mirror',
    mirror: { backend: { ...buildBackend('copy').backend, invalid }, numerator, denominator },
  });
  const count = (filters: readonly HttpFilter[]): number => {
    let copies = 0;
    for (let i = 0; i < 10_000; i++)
      copies += chooseMirrors(buildRule({ filters }), undefined, random).length;
    return copies;
  };
  t.equal(count([mirror(100, 100)]), 10_000);
  t.equal(count([mirror(0, 100)]), 0);
  t.equal(count([mirror(100, 100, 'BackendNotFound')]), 0);
  const some = count([mirror(1, 10), mirror(1, 10)]);
  t.ok(Math.abs(some - 2_000) < 200, `${some} copies of 2 × 10 %`);
  t.end();
});

void t.test('an invalid rule answers 500; to gRPC in its own words', (t) => {
  const rule = buildRule({ invalid: 'UnknownFilter' });
  t.match(forward(rule, buildRequest('http://echo/')), { status: 500, grpcStatus: '' });
  const grpc = buildRequest(
    'http://echo/a.B/c',
    [['content-type', 'application/grpc+proto']],
    'POST',
  );
  t.match(forward(rule, grpc), { status: 200, grpcStatus: '13', body: '' });
  t.end();
});
