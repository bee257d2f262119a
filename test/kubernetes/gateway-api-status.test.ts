/** What services, routes, policies and the mesh itself say of waypoints in their status, against an API server on loopback. */

import t, { type Test } from 'tap';

import { createNullLogger } from '../../src/base/logger.ts';
import { createFakeClock } from '../../src/base/clock.ts';
import { MESH_FEATURES } from '../../src/controlplane/gateway-status.ts';
import { writeStatuses } from '../../src/kubernetes/gateway-api-status.ts';
import { StatusPatches } from '../../src/kubernetes/status-patches.ts';
import { parseManifest } from '../../src/controlplane/manifest/manifest.ts';
import { gatewayApi, Model, namespace, read, service, type Json } from '../controlplane/build.ts';
import { startFakeApi } from './fake-api.ts';

const CART = '/api/v1/namespaces/shop/services/cart';
const ROUTE = '/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r';
const X = '/apis/gateway.networking.x-k8s.io/v1alpha1';
const POLICY = `${X}/namespaces/shop/xbackendtrafficpolicies/p`;
const MESH = `${X}/xmeshes/nodemesh`;
const OTHER = { type: 'Other', status: 'True' };
const waypoint = { gatewayClassName: 'nodemesh-waypoint', listeners: [] };
const cartSpec = { clusterIP: '10.96.0.1', ports: [{ name: 'http', port: 80 }] };

interface Rig {
  readonly model: Model;
  /** Statuses by path, as the API server has them. */
  readonly statuses: Map<string, Json>;
  /** Publishes and writes; the paths that were written. */
  readonly round: () => Promise<string[]>;
}

async function start(t: Test): Promise<Rig> {
  const api = await startFakeApi(t, createFakeClock());
  const statuses = new Map<string, Json>();
  api.intercept = ({ method, path, body }) => {
    const at = path.replace(/\/status$/, '');
    if (method === 'GET') {
      const status = statuses.get(at);
      if (status === undefined) return { status: 404, body: {} };
      return { status: 200, body: { metadata: { resourceVersion: '1' }, status } };
    }
    statuses.set(at, { ...statuses.get(at), ...((body as Json)['status'] as Json) });
    return { status: 200, body: {} };
  };
  const patches = new StatusPatches({
    client: api.client,
    logger: createNullLogger(),
    fieldManager: 'test',
    isOver: () => false,
  });
  const model = new Model();
  return {
    model,
    statuses,
    async round() {
      api.requests.length = 0;
      model.settleAll();
      patches.begin();
      await writeStatuses(model.world.gatewayApi(), patches, '2026-01-01T00:00:00Z');
      patches.end();
      return api.requests.filter(({ method }) => method !== 'GET').map(({ path }) => path);
    },
  };
}

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string;
}

function conditions(status: Json | undefined, list?: 'parents' | 'ancestors'): unknown[][] {
  const lists = list === undefined ? [status] : ((status?.[list] ?? []) as Json[]);
  return lists.map((one) =>
    ((one?.['conditions'] ?? []) as Condition[]).map(({ type, status: is, reason = '' }) =>
      `${type} ${is} ${reason}`.trim(),
    ),
  );
}

t.test('a service says whether a waypoint serves it, and stops when none is named', async (t) => {
  const { model, statuses, round } = await start(t);
  statuses.set(CART, { loadBalancer: {}, conditions: [OTHER] });
  const put = (labels: Json, annotations: Json = {}): void => {
    const { conditions: stated } = statuses.get(CART) ?? {};
    // As the watch brings it back.
    const status = { conditions: stated };
    const metadata = { name: 'cart', namespace: 'shop', labels, annotations };
    model.put(read({ apiVersion: 'v1', kind: 'Service', metadata, spec: cartSpec, status }));
  };
  const named = { 'nodemesh.dev/waypoint': 'way' };
  const preferred = { 'nodemesh.dev/waypoint': 'gone' };
  const PREFERRED = { 'nodemesh.dev/waypoint-policy': 'preferred' };
  const elsewhere = { ...named, 'nodemesh.dev/waypoint-namespace': 'infra' };
  const other = (fields: Json): ReturnType<typeof gatewayApi> =>
    gatewayApi('Gateway', 'shop/way', { ...waypoint, ...fields });
  model.put(namespace('shop'), gatewayApi('Gateway', 'infra/way', waypoint));
  put({});
  t.same(await round(), [], 'nothing to say');
  const rows: [what: string, act: () => unknown, expected: string | undefined][] = [
    ['missing', () => put(named), 'False WaypointMissing'],
    [
      'another class',
      () => model.put(other({ gatewayClassName: 'x' })),
      'False WaypointForeignClass',
    ],
    ['bound', () => model.put(other({})), 'True WaypointAccepted'],
    ['not allowed', () => put(elsewhere), 'False WaypointForbidden'],
    ['none', () => put({}), undefined],
    ['led around it', () => put(preferred, PREFERRED), 'False WaypointBypassed'],
  ];
  for (const [what, act, expected] of rows) {
    act();
    t.same(await round(), [`${CART}/status`], what);
    const own = expected === undefined ? [] : [`nodemesh.dev/WaypointBound ${expected}`];
    t.same(conditions(statuses.get(CART))[0], ['Other True', ...own], what);
    t.same(await round(), [], `${what}, once`);
    if (what === 'led around it') put(preferred, PREFERRED);
    else put(what === 'not allowed' ? elsewhere : what === 'none' ? {} : named);
    t.same(model.publish(), 0, 'what we wrote ourselves changes nothing');
    t.same(await round(), [], `${what}, told back`);
  }
});

t.test(
  'a route on a service of the mesh without a waypoint is told so; others are left alone',
  async (t) => {
    const { model, statuses, round } = await start(t);
    const foreign = { controllerName: 'example.com/x', parentRef: { name: 'gw' }, conditions: [] };
    statuses.set(ROUTE, { parents: [foreign] });
    const parent = { group: '', kind: 'Service', name: 'cart' };
    const spec = { parentRefs: [parent], rules: [{ backendRefs: [{ name: 'cart', port: 80 }] }] };
    const put = (): void => {
      const metadata = { name: 'r', namespace: 'shop' };
      const apiVersion = 'gateway.networking.k8s.io/v1';
      const status = statuses.get(ROUTE);
      model.put(read({ apiVersion, kind: 'HTTPRoute', metadata, spec, status }));
    };
    const fine = ['Accepted True Accepted', 'ResolvedRefs True ResolvedRefs'];
    const bound = 'nodemesh.dev/WaypointBound';
    const enrolled = { 'nodemesh.dev/mesh': 'enabled' };
    const named = { ...enrolled, 'nodemesh.dev/waypoint': 'way' };
    model.put(namespace('shop'), service('shop/cart', cartSpec));
    put();
    t.same(await round(), [], 'not of this mesh');
    const rows: [act: () => unknown, expected: string[][]][] = [
      [() => model.put(namespace('shop', enrolled)), [[...fine, `${bound} False NoWaypoint`]]],
      [() => model.put(namespace('shop', named)), [[...fine, `${bound} False WaypointMissing`]]],
      [() => model.put(gatewayApi('Gateway', 'shop/way', waypoint)), [fine]],
      [() => model.put(namespace('shop')), []],
    ];
    for (const [act, expected] of rows) {
      act();
      t.ok((await round()).includes(`${ROUTE}/status`));
      t.same(conditions(statuses.get(ROUTE), 'parents'), [[], ...expected]);
      put();
    }
  },
);

t.test('an XBackendTrafficPolicy says to each of its services whether it counts', async (t) => {
  const { model, statuses, round } = await start(t);
  statuses.set(POLICY, { ancestors: [] });
  const put = (name: string, ...targets: string[]): void => {
    const targetRefs = targets.map((target) => ({ group: '', kind: 'Service', name: target }));
    model.put(
      read({
        apiVersion: 'gateway.networking.x-k8s.io/v1alpha1',
        kind: 'XBackendTrafficPolicy',
        metadata: { name, namespace: 'shop', generation: 2 },
        spec: { targetRefs, retryConstraint: { budget: { percent: 20 } } },
      }),
    );
  };
  const cart = service('shop/cart', cartSpec);
  const bound = 'nodemesh.dev/WaypointBound';
  model.put(namespace('shop', { 'nodemesh.dev/mesh': 'enabled' }), cart);
  put('p', 'cart');
  await round();
  t.same(conditions(statuses.get(POLICY), 'ancestors'), [
    ['Accepted True Accepted', `${bound} False NoWaypoint`],
  ]);
  model.put(namespace('shop', { 'nodemesh.dev/waypoint': 'way' }));
  model.put(gatewayApi('Gateway', 'shop/way', waypoint));
  put('p', 'cart', 'gone');
  await round();
  t.same(conditions(statuses.get(POLICY), 'ancestors'), [
    ['Accepted False TargetNotFound'],
    ['Accepted False TargetNotFound'],
  ]);
  const bad = parseManifest({
    apiVersion: 'gateway.networking.x-k8s.io/v1alpha1',
    kind: 'XBackendTrafficPolicy',
    metadata: { name: 'p', namespace: 'shop', generation: 3 },
    spec: {
      targetRefs: [{ group: '', kind: 'Service', name: 'cart' }],
      retryConstraint: { budget: { percent: 120 } },
    },
  });
  if (bad.status !== 'invalid' || bad.stead === undefined) throw new Error(bad.status);
  model.put(bad.stead.object);
  await round();
  t.same(conditions(statuses.get(POLICY), 'ancestors'), [['Accepted False Invalid']]);
  t.match(statuses.get(POLICY), {
    ancestors: [
      { conditions: [{ observedGeneration: 3, message: /^spec.retryConstraint.budget.percent / }] },
    ],
  });
  put('p', 'cart');
  put('a', 'cart');
  await round();
  t.same(conditions(statuses.get(POLICY), 'ancestors'), [['Accepted False Conflicted']]);
  t.match(statuses.get(POLICY), {
    ancestors: [
      {
        controllerName: 'nodemesh.dev/waypoint',
        ancestorRef: { kind: 'Service', namespace: 'shop', name: 'cart' },
        conditions: [{ observedGeneration: 2 }],
      },
    ],
  });
});

t.test(
  'our mesh is accepted with its features, unless it has parameters; others are not ours',
  async (t) => {
    const { model, statuses, round } = await start(t);
    const put = (name: string, spec: Json): void => {
      const apiVersion = 'gateway.networking.x-k8s.io/v1alpha1';
      model.put(read({ apiVersion, kind: 'XMesh', metadata: { name, generation: 3 }, spec }));
    };
    statuses.set(MESH, {
      conditions: [{ type: 'Accepted', status: 'Unknown', reason: 'Pending' }],
    });
    const controllerName = 'nodemesh.dev/waypoint';
    put('nodemesh', { controllerName });
    put('other', { controllerName: 'example.com/mesh' });
    t.same(await round(), [`${MESH}/status`]);
    t.same(conditions(statuses.get(MESH)), [['Accepted True Accepted']]);
    t.same(
      statuses.get(MESH)?.['supportedFeatures'],
      MESH_FEATURES.map((name) => ({ name })),
    );
    t.same(MESH_FEATURES, MESH_FEATURES.toSorted(), 'in the order that the API demands');
    put('nodemesh', { controllerName, parametersRef: { group: '', kind: 'ConfigMap', name: 'x' } });
    await round();
    t.same(conditions(statuses.get(MESH)), [['Accepted False InvalidParameters']]);
    model.remove('XMesh', 'nodemesh');
    t.same(await round(), []);
  },
);
