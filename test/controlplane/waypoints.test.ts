/** T49, G06: which waypoint a service or pod goes through, and that none it declares is ever skipped. */

import t from 'tap';

import type { Workload } from '../../src/core/workload.ts';
import type { WorldOptions } from '../../src/controlplane/world.ts';
import { gatewayApi, Model, namespace, pod, service, type Json } from './build.ts';

const LISTENER = { name: 'mesh', port: 15_008, protocol: 'HBONE' };
const CART = 'shop/cart.shop.svc.cluster.local';

function gateway(path: string, labels: Json = {}, from?: Json): ReturnType<typeof gatewayApi> {
  const listeners = [{ ...LISTENER, ...(from && { allowedRoutes: { namespaces: from } }) }];
  const spec = { gatewayClassName: 'nodemesh-waypoint', listeners };
  return gatewayApi('Gateway', path, spec, { labels });
}

const cart = (labels: Json = {}, annotations: Json = {}): ReturnType<typeof gatewayApi> => {
  const spec = { clusterIP: '10.96.0.1', selector: { app: 'cart' }, ports: [{ port: 80 }] };
  const made = service('shop/cart', spec, annotations);
  return { ...made, meta: { ...made.meta, labels: new Map(Object.entries(labels)) } } as never;
};

function hostOf(model: Model, key = CART): string | undefined {
  const target = model.services.get(key)?.waypoint?.target;
  return target?.kind === 'hostname' ? target.hostname : undefined;
}

function reasonOf(model: Model): string | undefined {
  return [...model.world.conditions()].find(({ key }) => key === 'Service/shop/cart')?.reason;
}

const USE = { 'nodemesh.dev/waypoint': 'way' };

t.test('the label of the service beats that of its namespace; none is none', (t) => {
  const rows: readonly [Json, Json, string | undefined][] = [
    [{}, {}, undefined],
    [USE, {}, 'way.shop.svc.cluster.local'],
    [{}, USE, 'way.shop.svc.cluster.local'],
    [USE, { 'nodemesh.dev/waypoint': 'none' }, undefined],
    [{ 'nodemesh.dev/waypoint': 'none' }, USE, 'way.shop.svc.cluster.local'],
    [{ 'istio.io/use-waypoint': 'way' }, {}, undefined],
  ];
  for (const [ofNamespace, ofService, expected] of rows) {
    const model = new Model().put(
      namespace('shop', ofNamespace),
      gateway('shop/way'),
      cart(ofService),
    );
    model.publish();
    t.equal(hostOf(model), expected, JSON.stringify([ofNamespace, ofService]));
    t.equal(model.services.get(CART)?.waypoint?.hbonePort ?? 15_008, 15_008);
  }
  t.end();
});

t.test('with istioLabels the labels of Istio mean the same, and its waypoints serve', (t) => {
  const options: WorldOptions = { istioLabels: true };
  const model = new Model(options).put(
    namespace('shop', {
      'istio.io/use-waypoint': 'way',
      'istio.io/use-waypoint-namespace': 'infra',
    }),
    cart(),
    gatewayApi('Gateway', 'infra/way', {
      gatewayClassName: 'istio-waypoint',
      listeners: [{ ...LISTENER, allowedRoutes: { namespaces: { from: 'All' } } }],
    }),
  );
  model.publish();
  t.equal(hostOf(model), 'way.infra.svc.cluster.local');
  t.equal(model.waypoints.size, 0, 'and is not ours to configure');
  t.end();
});

t.test(
  'T49 G06 a waypoint that is missing, of another class or forbidden cannot be reached',
  (t) => {
    const model = new Model().put(namespace('shop', USE), cart());
    model.publish();
    t.equal(hostOf(model), 'way.shop.missing-waypoint.invalid');
    t.equal(reasonOf(model), 'WaypointMissing');

    model.put(gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nginx' })).publish();
    t.equal(hostOf(model), 'way.shop.foreign-class-waypoint.invalid');

    model.put(gateway('shop/way')).publish();
    t.equal(hostOf(model), 'way.shop.svc.cluster.local', 'as soon as it is there');
    t.equal(reasonOf(model), undefined);
    t.ok(model.waypoints.get('shop/way')?.has(CART));

    model.remove('Gateway', 'shop/way').publish();
    t.equal(hostOf(model), 'way.shop.missing-waypoint.invalid');
    t.equal(model.waypoints.get('shop/way')?.size, 0, 'and what it knew is taken back');

    const elsewhere = { ...USE, 'nodemesh.dev/waypoint-namespace': 'infra' };
    const rows: readonly [Json | undefined, string][] = [
      [undefined, 'way.infra.forbidden-waypoint.invalid'],
      [{ from: 'Same' }, 'way.infra.forbidden-waypoint.invalid'],
      [{ from: 'All' }, 'way.infra.svc.cluster.local'],
      [
        { from: 'Selector', selector: { matchLabels: { team: 'a' } } },
        'way.infra.forbidden-waypoint.invalid',
      ],
      [
        {
          from: 'Selector',
          selector: { matchLabels: { 'kubernetes.io/metadata.name': 'shop' } },
        },
        'way.infra.svc.cluster.local',
      ],
    ];
    for (const [from, expected] of rows) {
      model.put(namespace('shop', elsewhere), gateway('infra/way', {}, from)).publish();
      t.equal(hostOf(model), expected, JSON.stringify(from));
    }
    t.end();
  },
);

t.test('a class belongs to whoever its object names', (t) => {
  const model = new Model().put(
    namespace('shop', USE),
    cart(),
    gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'l7' }),
    gatewayApi('GatewayClass', 'l7', { controllerName: 'nodemesh.dev/waypoint' }),
  );
  model.publish();
  t.equal(hostOf(model), 'way.shop.svc.cluster.local');
  model.put(gatewayApi('GatewayClass', 'l7', { controllerName: 'example.com/x' })).publish();
  t.equal(hostOf(model), 'way.shop.foreign-class-waypoint.invalid');
  t.end();
});

t.test('who prefers its waypoint does without while that is not ready, and it shows', (t) => {
  const process = (ready: boolean): ReturnType<typeof pod> =>
    pod('shop/way-1', {
      sa: 'way',
      ip: '10.0.0.9',
      phase: 'Running',
      ready,
      labels: { 'gateway.networking.k8s.io/gateway-name': 'way' },
    });
  const model = new Model().put(
    namespace('shop', USE),
    cart({}, { 'nodemesh.dev/waypoint-policy': 'preferred' }),
    gateway('shop/way'),
    process(false),
  );
  model.publish();
  t.equal(hostOf(model), undefined);
  t.equal(reasonOf(model), 'WaypointBypassed');
  model.put(process(true)).publish();
  t.equal(hostOf(model), 'way.shop.svc.cluster.local');
  t.equal(reasonOf(model), undefined);
  model.remove('Pod', 'shop/way-1').publish();
  t.equal(reasonOf(model), 'WaypointBypassed');
  model.put(cart()).publish();
  t.equal(hostOf(model), 'way.shop.svc.cluster.local', 'everybody else is refused, not led around');
  t.end();
});

t.test('a process of a waypoint speaks the tunnel itself and is never captured', (t) => {
  const labels = { 'gateway.networking.k8s.io/gateway-name': 'way' };
  const shape = { ip: '10.0.0.9', phase: 'Running', labels };
  const model = new Model().put(
    namespace('shop', { ...USE, 'nodemesh.dev/mesh': 'enabled' }),
    gateway('shop/way'),
    service('shop/way', { clusterIP: '10.96.0.2', ports: [{ port: 15_008 }] }),
    pod('shop/way-1', { ...shape, sa: 'way', uid: 'w1' }),
    pod('shop/sham', { ...shape, ip: '10.0.0.8', sa: 'default', uid: 'w2' }),
  );
  model.settleAll();
  t.match(model.workload('shop/way-1'), {
    tunnelProtocol: 'hbone',
    nativeTunnel: true,
    waypoint: undefined,
  });
  t.equal(model.local('node-a', 'w1')?.enrolled, false);
  t.match(model.workload('shop/sham'), { tunnelProtocol: 'none', nativeTunnel: false });
  t.equal(model.local('node-a', 'w2')?.enrolled, true, 'a label alone makes nobody a waypoint');
  t.equal(hostOf(model, 'shop/way.shop.svc.cluster.local'), undefined, 'nor is it behind itself');
  model.remove('Gateway', 'shop/way').publish();
  t.match(model.workload('shop/way-1'), { nativeTunnel: false });
  t.end();
});

t.test('a pod goes through a waypoint by its own label, or one that is for workloads', (t) => {
  const of = (ofNamespace: Json, ofPod: Json, ofGateway: Json): Workload['waypoint'] => {
    const model = new Model().put(
      namespace('shop', ofNamespace),
      gateway('shop/way', ofGateway),
      pod('shop/p', { ip: '10.0.0.1', labels: ofPod }),
    );
    model.publish();
    return model.workload('shop/p').waypoint;
  };
  t.equal(of(USE, {}, {}), undefined, 'Gateway API: routes bind to the service');
  t.match(of({}, USE, {}), { target: { hostname: 'way.shop.svc.cluster.local' } });
  t.match(of(USE, {}, { 'nodemesh.dev/waypoint-for': 'all' }), { hbonePort: 15_008 });
  t.equal(
    of(USE, { 'nodemesh.dev/waypoint': 'none' }, { 'nodemesh.dev/waypoint-for': 'all' }),
    undefined,
  );
  const model = new Model().put(
    namespace('shop', USE),
    cart(),
    gateway('shop/way', { 'nodemesh.dev/waypoint-for': 'workload' }),
  );
  model.publish();
  t.equal(hostOf(model), undefined);
  t.end();
});
