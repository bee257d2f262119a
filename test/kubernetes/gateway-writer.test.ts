/** What Gateways become in a cluster, and the status of Gateway API objects, against an API server on loopback. */

import t, { type Test } from 'tap';

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import {
  createGatewayWriter,
  RESYNC_MS,
  type GatewayWriter,
} from '../../src/kubernetes/gateway-writer.ts';
import { gatewayApi, Model, namespace, pod, service, type Json } from '../controlplane/build.ts';
import { startFakeApi, type FakeApi, type SeenRequest } from './fake-api.ts';

const GROUP = '/apis/gateway.networking.k8s.io/v1';
const GATEWAY = `${GROUP}/namespaces/shop/gateways/way`;
const ROUTE = `${GROUP}/namespaces/shop/httproutes/r`;
const MADE = [
  '/api/v1/namespaces/shop/serviceaccounts/way',
  '/api/v1/namespaces/shop/services/way',
  '/apis/apps/v1/namespaces/shop/deployments/way',
  '/apis/policy/v1/namespaces/shop/poddisruptionbudgets/way',
  '/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/way',
];
const LISTENER = { name: 'mesh', port: 15_008, protocol: 'HBONE' };
const spec = { gatewayClassName: 'nodemesh-waypoint', listeners: [LISTENER] };
const cart = service('shop/cart', { clusterIP: '10.96.0.1', ports: [{ name: 'http', port: 80 }] });

interface Rig {
  readonly api: FakeApi;
  readonly clock: FakeClock;
  readonly objects: Map<string, Json>;
  readonly model: Model;
  readonly writer: GatewayWriter;
  leads: boolean;
  /** Publishes, writes, and returns the paths written. */
  round(): Promise<string[]>;
}

/** Keeps whole objects by path, as far as the writer can tell. */
function keep(objects: Map<string, Json>): FakeApi['intercept'] {
  let version = 0;
  return ({ method, path, body, contentType }: SeenRequest) => {
    const at = path.replace(/\/status$/, '');
    const before = objects.get(at);
    if (method === 'GET') return before ? { status: 200, body: before } : { status: 404, body: {} };
    const sent = body as Json & { metadata: Json };
    const metadata = { ...(before?.['metadata'] as Json), resourceVersion: String(++version) };
    if (contentType.startsWith('application/apply')) {
      objects.set(at, { ...sent, metadata: { ...sent.metadata, ...metadata } });
      return { status: 200, body: {} };
    }
    if (before === undefined) return { status: 404, body: {} };
    const known = (before['metadata'] as Json)['resourceVersion'];
    if (sent.metadata['resourceVersion'] !== known) return { status: 409, body: {} };
    const status = { ...(before['status'] as Json), ...(sent['status'] as Json) };
    objects.set(at, { ...before, metadata, status });
    return { status: 200, body: {} };
  };
}

async function start(t: Test): Promise<Rig> {
  const clock = createFakeClock();
  const api = await startFakeApi(t, clock);
  const objects = new Map<string, Json>();
  api.intercept = keep(objects);
  const model = new Model();
  const writer = createGatewayWriter({
    clock,
    random: createSeededRandom(1),
    logger: createNullLogger(),
    client: api.client,
    leads: () => rig.leads,
    view: () => model.world.gatewayApi(),
    roots: () => 'ROOTS',
    values: {
      image: 'nodemesh:1',
      controller: 'nodemesh-controller.nodemesh-system.svc:15012',
      controllerName: 'nodemesh-controller.nodemesh-system.svc',
      trustDomain: 'cluster.local',
      logLevel: 'info',
    },
  });
  const rig: Rig = {
    api,
    clock,
    objects,
    model,
    writer,
    leads: true,
    async round() {
      api.requests.length = 0;
      model.publish();
      writer.poke();
      await clock.advance(150);
      // Real sockets: until nothing was asked for a while.
      for (let quiet = 0, seen = -1; quiet < 5;) {
        await new Promise((resolve) => setTimeout(resolve, 10));
        quiet = api.requests.length === seen ? quiet + 1 : 0;
        seen = api.requests.length;
      }
      return api.requests.filter(({ method }) => method !== 'GET').map(({ path }) => path);
    },
  };
  t.teardown(() => writer[Symbol.asyncDispose]());
  return rig;
}

function gateway(fields: Json = {}, metadata: Json = {}): ReturnType<typeof gatewayApi> {
  return gatewayApi('Gateway', 'shop/way', { ...spec, ...fields }, { uid: 'u-1', ...metadata });
}

/** As the API server has them before anybody wrote a status. */
function stored(rig: Rig, ...paths: string[]): void {
  for (const path of paths) rig.objects.set(path, { metadata: { resourceVersion: 'r1' } });
}

function conditions(value: unknown): Record<string, string> {
  const list = (value ?? []) as { type: string; status: string; reason: string }[];
  return Object.fromEntries(list.map(({ type, status, reason }) => [type, `${status} ${reason}`]));
}

t.test('a Gateway becomes what a waypoint needs, owned by it, and is programmed', async (t) => {
  const rig = await start(t);
  stored(rig, GATEWAY);
  const infrastructure = { labels: { team: 'a' }, annotations: { note: 'b' } };
  rig.model.put(namespace('shop', { 'nodemesh.dev/waypoint': 'way' }), cart);
  rig.model.put(gateway({ infrastructure }, { generation: 3 }));
  const written = await rig.round();
  t.same(written, [
    '/api/v1/namespaces/shop/configmaps/nodemesh-root',
    ...MADE,
    `${GATEWAY}/status`,
  ]);
  for (const path of MADE) {
    t.match(rig.objects.get(path)?.['metadata'], {
      name: 'way',
      labels: { team: 'a', 'gateway.networking.k8s.io/gateway-name': 'way' },
      annotations: { note: 'b' },
      ownerReferences: [{ kind: 'Gateway', name: 'way', uid: 'u-1' }],
    });
  }
  t.match(rig.objects.get(MADE[2] ?? ''), {
    spec: {
      replicas: undefined,
      template: {
        metadata: { labels: { team: 'a', 'nodemesh.dev/mesh': 'disabled' } },
        spec: {
          serviceAccountName: 'way',
          containers: [{ image: 'nodemesh:1', args: ['waypoint'] }],
        },
      },
    },
  });
  t.match(rig.objects.get(MADE[4] ?? ''), { spec: { minReplicas: 2, maxReplicas: 10 } });
  const status = (): Json => rig.objects.get(GATEWAY)?.['status'] as Json;
  t.same(conditions(status()['conditions']), {
    Accepted: 'True Accepted',
    Programmed: 'False AddressNotAssigned',
  });
  t.match(status()['conditions'], [{ observedGeneration: 3, lastTransitionTime: /Z$/ }]);

  t.same(await rig.round(), [], 'and nothing is written twice');

  const labels = { 'gateway.networking.k8s.io/gateway-name': 'way' };
  const route = { parentRefs: [{ group: '', kind: 'Service', name: 'cart' }] };
  rig.model.put(
    service('shop/way', { clusterIP: '10.96.0.9', ports: [{ port: 15_008 }] }),
    pod('shop/way-1', { sa: 'way', ip: '10.0.0.9', phase: 'Running', ready: true, labels }),
    gatewayApi('HTTPRoute', 'shop/r', { ...route, rules: [] }),
  );
  stored(rig, ROUTE);
  await rig.round();
  t.match(conditions(status()['conditions']), { Programmed: 'True Programmed' });
  t.match(status(), {
    addresses: [{ type: 'IPAddress', value: '10.96.0.9' }],
    listeners: [{ name: 'mesh', attachedRoutes: 1 }],
  });

  rig.model.remove('Gateway', 'shop/way');
  const told = ['/api/v1/namespaces/shop/services/way/status', `${ROUTE}/status`];
  t.same(await rig.round(), told, 'what it owned goes by itself; who goes through it is told');
});

t.test('what is not the Gateway’s own is left alone, and the status says so', async (t) => {
  const rig = await start(t);
  stored(rig, GATEWAY);
  const foreign = { metadata: { name: 'way', resourceVersion: 'r1' }, spec: { theirs: true } };
  rig.objects.set(MADE[1] ?? '', foreign);
  rig.model.put(gateway());
  const written = await rig.round();
  t.notOk(written.includes(MADE[1] ?? ''));
  t.notOk(written.includes(MADE[2] ?? ''), 'nor is a half of it made');
  t.equal(rig.objects.get(MADE[1] ?? ''), foreign);
  const status = rig.objects.get(GATEWAY)?.['status'] as Json;
  t.match(conditions(status['conditions']), { Programmed: 'False Invalid' });
});

t.test('only the leader writes; a new leader writes what may be stale', async (t) => {
  const rig = await start(t);
  rig.leads = false;
  stored(rig, GATEWAY);
  rig.model.put(gateway());
  t.same(await rig.round(), []);
  rig.leads = true;
  t.equal((await rig.round()).length, 7);
  rig.leads = false;
  await rig.round();
  rig.objects.delete(MADE[2] ?? '');
  rig.leads = true;
  t.ok((await rig.round()).includes(MADE[2] ?? ''));
  rig.objects.delete(MADE[2] ?? '');
  await rig.clock.advance(RESYNC_MS);
  t.ok((await rig.round()).length >= 0);
  t.ok(rig.objects.has(MADE[2] ?? ''), 'and what was taken away comes back in time');
});

t.test('status of routes: one entry per parent of ours, those of others stay', async (t) => {
  const rig = await start(t);
  const other = { controllerName: 'example.com/x', parentRef: { name: 'gw' }, conditions: [] };
  rig.objects.set(ROUTE, { metadata: { resourceVersion: 'r1' }, status: { parents: [other] } });
  stored(rig, GATEWAY);
  const parent = { group: '', kind: 'Service', name: 'cart' };
  const v1 = { name: 'cart', port: 80 };
  const unbound = service('bare/x', { clusterIP: '10.96.0.3', ports: [{ port: 80 }] });
  rig.model.put(namespace('shop', { 'nodemesh.dev/waypoint': 'way' }), cart, unbound, gateway());
  const rows: readonly [string, Json, readonly Record<string, string>[]][] = [
    [
      'accepted',
      { parentRefs: [parent], rules: [{ backendRefs: [v1] }] },
      [{ Accepted: 'True Accepted', ResolvedRefs: 'True ResolvedRefs' }],
    ],
    [
      'per parent',
      {
        parentRefs: [
          { ...parent, port: 80 },
          { ...parent, port: 81 },
          { ...parent, name: 'gone' },
          { name: 'gw' },
          { ...parent, name: 'x', namespace: 'bare' },
        ],
        rules: [{ backendRefs: [v1] }],
      },
      [
        { Accepted: 'True Accepted', ResolvedRefs: 'True ResolvedRefs' },
        { Accepted: 'False NoMatchingParent', ResolvedRefs: 'True ResolvedRefs' },
        { Accepted: 'False NoMatchingParent', ResolvedRefs: 'True ResolvedRefs' },
      ],
    ],
    [
      'backend',
      { parentRefs: [parent], rules: [{ backendRefs: [v1, { name: 'no', port: 80 }] }] },
      [{ Accepted: 'True Accepted', ResolvedRefs: 'False BackendNotFound' }],
    ],
    [
      'grant',
      { parentRefs: [parent], rules: [{ backendRefs: [{ ...v1, namespace: 'bare' }] }] },
      [{ Accepted: 'True Accepted', ResolvedRefs: 'False RefNotPermitted' }],
    ],
    [
      'kind',
      { parentRefs: [parent], rules: [{ backendRefs: [{ ...v1, group: 'a.b', kind: 'C' }] }] },
      [{ Accepted: 'True Accepted', ResolvedRefs: 'False InvalidKind' }],
    ],
    [
      'value',
      { parentRefs: [parent], rules: [{ filters: [{ type: 'New' }] }] },
      [{ Accepted: 'False UnsupportedValue', ResolvedRefs: 'True ResolvedRefs' }],
    ],
    [
      'part',
      { parentRefs: [parent], rules: [{ filters: [{ type: 'New' }] }, { backendRefs: [v1] }] },
      [
        {
          Accepted: 'True Accepted',
          ResolvedRefs: 'True ResolvedRefs',
          PartiallyInvalid: 'True UnsupportedValue',
        },
      ],
    ],
  ];
  for (const [name, routeSpec, expected] of rows) {
    rig.model.put(gatewayApi('HTTPRoute', 'shop/r', routeSpec));
    await rig.round();
    const status = rig.objects.get(ROUTE)?.['status'] as { parents: Json[] } | undefined;
    const parents = status?.parents ?? [];
    t.same(parents[0], other, name);
    const ours = parents.slice(1);
    t.ok(
      ours.every((entry) => entry['controllerName'] === 'nodemesh.dev/waypoint'),
      name,
    );
    t.same(
      ours.map((entry) => conditions(entry['conditions'])),
      expected,
      name,
    );
  }
});

t.test('a status that somebody else wrote meanwhile is read anew', async (t) => {
  const rig = await start(t);
  stored(rig, GATEWAY);
  const plain = rig.api.intercept;
  let refused = 0;
  rig.api.intercept = (request, response) => {
    if (request.method === 'PATCH' && request.path === `${GATEWAY}/status` && refused++ === 0) {
      return { status: 409, body: { reason: 'Conflict' } };
    }
    return plain(request, response);
  };
  rig.model.put(gateway());
  await rig.round();
  t.equal(rig.objects.get(GATEWAY)?.['status'], undefined);
  await rig.clock.advance(2_000);
  await rig.round();
  t.ok(rig.objects.get(GATEWAY)?.['status']);
});

t.test('who loses the lease in the middle of a round writes no more of it', async (t) => {
  const rig = await start(t);
  stored(rig, GATEWAY);
  const { intercept } = rig.api;
  rig.api.intercept = (request, response) => {
    // The lease is lost while the third object is written.
    if (request.method !== 'GET' && request.path === MADE[1]) rig.leads = false;
    return intercept?.(request, response) ?? { status: 200, body: {} };
  };
  rig.model.put(namespace('shop', { 'nodemesh.dev/waypoint': 'way' }), cart, gateway());
  t.same(await rig.round(), ['/api/v1/namespaces/shop/configmaps/nodemesh-root', MADE[0], MADE[1]]);
  rig.leads = true;
  t.equal((await rig.round()).at(-1), `${GATEWAY}/status`, 'all of it when it leads again');
});
