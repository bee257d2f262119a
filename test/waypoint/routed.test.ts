/**
 * What the conformance suite does not look at, from the objects of Gateway API to the bytes on a socket: Location, rewritten
 * paths, backends that cannot be resolved, grants.
 */

import type { AddressInfo } from 'node:net';

import t from 'tap';

import { compileRoutes } from '../../src/waypoint/compiled-routes.ts';
import { gatewayApi, namespace, service, type Json } from '../controlplane/build.ts';
import { key, service as meshService, workload } from '../state/build.ts';
import { ask, type Answer } from './ask.ts';
import { buildRequest } from './build-routes.ts';
import { shop, type Shop } from './shop.ts';

const V1 = { name: 'cart-v1', port: 80 };

function httpRoute(...rules: readonly Json[]): Json {
  return {
    apiVersion: 'gateway.networking.k8s.io/v1',
    kind: 'HTTPRoute',
    metadata: { name: 'cart', namespace: 'shop' },
    spec: { parentRefs: [{ group: '', kind: 'Service', name: 'cart' }], rules },
  };
}

const under = (value: string, type = 'PathPrefix'): Json => ({ path: { type, value } });

async function fetchFrom({ rig }: Shop, path: string, host = 'cart'): Promise<Answer> {
  return ask(await rig.open('cart'), { path, headers: { host } });
}

t.test('Location: scheme, host, port and path, each kept or replaced', async (t) => {
  const made = await shop(t);
  const prefix = (replacePrefixMatch: string): Json => ({
    path: { type: 'ReplacePrefixMatch', replacePrefixMatch },
  });
  const cases: readonly (readonly [Json, string, string, string])[] = [
    [{ hostname: 'new.test' }, 'cart', '/old/a?b=c', '302 http://new.test/old/a?b=c'],
    [{ statusCode: 301, hostname: 'new.test' }, 'cart:80', '/old', '301 http://new.test/old'],
    // The port that was addressed counts, whatever the client writes into its Host.
    [{ hostname: 'new.test' }, 'cart:8443', '/old', '302 http://new.test/old'],
    [{ scheme: 'https' }, 'cart', '/old?x', '302 https://cart/old?x'],
    [{ scheme: 'https' }, 'CART.', '/old', '302 https://cart/old'],
    [{ scheme: 'https', port: 8443 }, 'cart', '/old', '302 https://cart:8443/old'],
    [{ scheme: 'https', port: 443 }, 'cart', '/old', '302 https://cart/old'],
    [{ port: 443 }, 'cart', '/old', '302 http://cart:443/old'],
    [{ port: 80 }, 'cart', '/old', '302 http://cart/old'],
    [prefix('/new'), 'cart', '/old/a/b?q=1', '302 http://cart/new/a/b?q=1'],
    [prefix('/new/'), 'cart', '/old/', '302 http://cart/new/'],
    [prefix('/'), 'cart', '/old', '302 http://cart/'],
    [prefix('/'), 'cart', '/old?q', '302 http://cart/?q'],
    [prefix('/new'), 'cart', '/%6Fld/a%20b', '302 http://cart/new/a%20b'],
    [
      { path: { type: 'ReplaceFullPath', replaceFullPath: '/all' } },
      'cart',
      '/old/a?q',
      '302 http://cart/all?q',
    ],
  ];
  for (const [requestRedirect, host, path, expected] of cases) {
    const filters = [{ type: 'RequestRedirect', requestRedirect }];
    made.apply(httpRoute({ matches: [under('/old')], filters }));
    const { status, headers, body } = await fetchFrom(made, path, host);
    t.equal(`${status} ${headers.location}`, expected, JSON.stringify(requestRedirect));
    t.equal(body, '');
  }
  t.ok(made.rig.records.every(({ attempts, flag }) => attempts === 0 && flag === '-'));
});

t.test('paths and hosts arrive as the rewrite says, by segments', async (t) => {
  const made = await shop(t);
  const app = made.servers.get('cart-v1');
  app?.removeAllListeners('request');
  app?.on('request', (request, response) => {
    response.end(`${request.headers.host} ${request.url}`);
  });
  const rule = (prefix: string, urlRewrite: Json): Json => ({
    matches: [under(prefix)],
    filters: [{ type: 'URLRewrite', urlRewrite }],
    backendRefs: [V1],
  });
  const prefix = (replacePrefixMatch: string): Json => ({
    path: { type: 'ReplacePrefixMatch', replacePrefixMatch },
  });
  made.apply(
    httpRoute(
      rule('/api', prefix('/v1')),
      rule('/api/deep', { hostname: 'deep.test', ...prefix('/') }),
      rule('/slash/', prefix('/to/')),
      rule('/full', { path: { type: 'ReplaceFullPath', replaceFullPath: '/one' } }),
    ),
  );
  for (const [path, expected] of [
    ['/api', 'cart /v1'],
    ['/api/', 'cart /v1/'],
    ['/api?a=/api', 'cart /v1?a=/api'],
    ['/api/a%20b/%C3%A9?x=%2F', 'cart /v1/a%20b/%C3%A9?x=%2F'],
    ['/a%70i/x', 'cart /v1/x'],
    ['/api/deep', 'deep.test /'],
    ['/api/deep/er?y', 'deep.test /er?y'],
    ['/api/deeper', 'cart /v1/deeper'],
    ['/slash', 'cart /to'],
    ['/slash/x/', 'cart /to/x/'],
    ['/full/a/b?c', 'cart /one?c'],
  ] as const) {
    t.equal((await fetchFrom(made, path)).body, expected, path);
  }
  t.equal((await fetchFrom(made, '/apix')).status, 404, 'a prefix ends with its segment');
  const [served] = made.rig.records;
  t.equal(served?.path, '/api', 'the log has what the client asked for');
});

t.test('a backend that cannot be resolved costs its share, and says why', async (t) => {
  const made = await shop(t);
  const broken: readonly (readonly [Json, RegExp])[] = [
    [{ name: 'nobody', port: 80 }, /BackendNotFound/],
    [{ name: 'cart-v2', port: 81 }, /BackendNotFound/],
    [{ kind: 'Thing', group: 'example.org', name: 'cart-v2' }, /InvalidKind/],
    [{ name: 'vault', namespace: 'bank', port: 80 }, /RefNotPermitted/],
  ];
  for (const [ref, reason] of broken) {
    const seen = made.rig.records.length;
    made.apply(
      httpRoute({
        backendRefs: [
          { ...V1, weight: 1 },
          { ...ref, weight: 1 },
        ],
      }),
    );
    for (let i = 0; i < 100; i++) await fetchFrom(made, '/');
    const records = made.rig.records.slice(seen);
    const failed = records.filter(({ status }) => status === 500);
    t.ok(failed.length >= 20 && failed.length <= 80, `${failed.length} of 100`);
    t.match(failed[0], { flag: 'NO_ENDPOINT', error: reason, attempts: 0 });
    t.ok(records.every(({ status }) => status === 200 || status === 500));
  }
});

t.test('GRPCRoute: the service counts before the method', async (t) => {
  const { apply, model } = await shop(t);
  const rules = [
    { name: 'call', matches: [{ method: { service: 'a.B', method: 'Get' } }], backendRefs: [V1] },
    { name: 'service', matches: [{ method: { service: 'a.B' } }], backendRefs: [V1] },
    { name: 'method', matches: [{ method: { method: 'Get' } }], backendRefs: [V1] },
    { name: 'all', backendRefs: [{ name: 'nobody', port: 80 }] },
  ];
  const metadata = { name: 'cart', namespace: 'shop' };
  const parentRefs = [{ group: '', kind: 'Service', name: 'cart' }];
  const apiVersion = 'gateway.networking.k8s.io/v1';
  // In either order: precedence decides, not the place.
  for (const list of [rules, rules.toReversed()]) {
    apply({ apiVersion, kind: 'GRPCRoute', metadata, spec: { parentRefs, rules: list } });
    const found = (path: string): string | undefined => {
      const set = model.waypoints.get('shop/way')?.get(key('cart'))?.ports[0]?.producer;
      const request = buildRequest(`http://cart${path}`, [], 'POST');
      return set && compileRoutes(set).match(request)?.rule.name;
    };
    t.equal(found('/a.B/Get'), 'call');
    t.equal(found('/a.B/Put'), 'service');
    t.equal(found('/c.D/Get'), 'method');
    t.equal(found('/c.D/Put'), 'all');
    apply({
      apiVersion,
      kind: 'GRPCRoute',
      metadata,
      spec: { parentRefs, rules: list.filter(({ name }) => name !== 'call') },
    });
    t.equal(found('/a.B/Get'), 'service', 'though a method is named, too');
  }
});

t.test('a backend of another namespace takes a grant, as long as it is there', async (t) => {
  const made = await shop(t);
  const { model, rig, servers } = made;
  const { port } = (servers.get('cart-v2')?.address() ?? {}) as AddressInfo;
  rig.state.applyAddresses({
    services: [meshService('vault', { namespace: 'bank', vips: ['10.96.1.1'] })],
    workloads: [
      workload('vault-0', {
        namespace: 'bank',
        addresses: ['127.0.0.1'],
        tunnelProtocol: 'none',
        services: new Map([
          [key('vault', 'bank'), [{ servicePort: 80, targetPort: port, appProtocol: 'HTTP11' }]],
        ]),
      }),
    ],
  });
  model.put(namespace('bank'), service('bank/vault', { ports: [{ port: 80 }] }));
  made.apply(httpRoute({ backendRefs: [{ name: 'vault', namespace: 'bank', port: 80 }] }));
  const status = async (): Promise<number> => (await fetchFrom(made, '/')).status;
  t.equal(await status(), 500);
  const grant = gatewayApi('ReferenceGrant', 'bank/shop', {
    from: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', namespace: 'shop' }],
    to: [{ group: '', kind: 'Service', name: 'vault' }],
  });
  model.put(grant);
  made.publish();
  t.match(await fetchFrom(made, '/'), { status: 200, body: 'cart-v2' });
  model.remove('ReferenceGrant', 'bank/shop');
  made.publish();
  t.equal(await status(), 500);
});

t.test('a mirror that takes nothing, or is not there, delays and fails nothing', async (t) => {
  const made = await shop(t);
  const [original, copy] = ['cart-v1', 'cart-v2'].map((name) => made.servers.get(name));
  original?.removeAllListeners('request');
  original?.on('request', (request, response) => {
    let bytes = 0;
    request.on('data', (chunk: Buffer) => (bytes += chunk.length));
    request.on('end', () => response.end(String(bytes)));
  });
  const copied = Promise.withResolvers<void>();
  copy?.removeAllListeners('request');
  // It neither reads bodies nor answers.
  copy?.on('request', () => copied.resolve());
  const requestMirror = { backendRef: { name: 'cart-v2', port: 80 } };
  made.apply(
    httpRoute({
      filters: [{ type: 'RequestMirror', requestMirror }],
      backendRefs: [V1],
    }),
  );
  const BYTES = 8 * 1024 * 1024;
  const put = async (bytes: number): Promise<Answer> => {
    const body = Buffer.alloc(bytes);
    return ask(await made.rig.open('cart'), { method: 'PUT', body });
  };
  t.match(await put(1_000), { status: 200, body: '1000' });
  await copied.promise;
  t.match(await put(BYTES), { status: 200, body: String(BYTES) });
  t.match(await put(BYTES), { status: 200, body: String(BYTES) });
  copy?.closeAllConnections();
  copy?.close();
  t.match(await put(BYTES), { status: 200, body: String(BYTES) });
  await made.rig.recorded(4);
  t.equal(made.rig.records.length, 4);
  t.ok(made.rig.records.every(({ flag, attempts }) => flag === '-' && attempts === 1));
});
