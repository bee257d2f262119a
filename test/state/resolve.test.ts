import t from 'tap';

import type { Service, Workload } from '../../src/core/workload.ts';
import type { Destination } from '../../src/state/contract.ts';
import {
  at,
  emptyState,
  gatewayIp,
  gatewayService,
  ip,
  key,
  port,
  service,
  stateWith,
  workload,
} from './build.ts';

const client = workload('client', { addresses: ['10.1.0.1'] });
const IDENTITY = 'spiffe://cluster.local/ns/shop/sa/default';

function resolve(
  target: string,
  workloads: readonly Workload[],
  services: readonly Service[] = [],
  targetPort = 80,
): Destination {
  return stateWith([client, ...workloads], services).resolveDestination(
    at(target, targetPort),
    client,
  );
}

void t.test(
  'resolveDestination sends a service address to an endpoint and its target port',
  async (t) => {
    const cart = workload('cart-1', { addresses: ['10.1.0.2'], services: ['cart'] });
    const found = resolve('10.96.0.1', [cart], [service('cart', { vips: ['10.96.0.1'] })]);
    t.match(found, {
      kind: 'endpoint',
      workload: { uid: cart.uid },
      service: { key: key('cart') },
      address: { ip: '10.1.0.2', port: 8080 },
      protocol: 'hbone',
      identities: [IDENTITY],
    });
  },
);

void t.test('resolveDestination lets the workload name its own target port first', async (t) => {
  const services = new Map([[key('cart'), [port(80, 9090), port(81, 0)]]]);
  const cart = workload('cart-1', { addresses: ['10.1.0.2'], services });
  const cartService = service('cart', {
    vips: ['10.96.0.1'],
    ports: [port(80, 8080), port(81, 8181)],
  });
  t.match(resolve('10.96.0.1', [cart], [cartService]), { address: { port: 9090 } });
  t.match(resolve('10.96.0.1', [cart], [cartService], 81), { address: { port: 8181 } });
  t.match(resolve('10.96.0.1', [cart], [cartService], 82), {
    kind: 'refused',
    error: {
      code: 'MESH_NO_HEALTHY_ENDPOINT',
      flag: 'NO_ENDPOINT',
      message: /declares no such port/,
    },
  });
});

void t.test('resolveDestination skips endpoints that lack a named target port', async (t) => {
  const named = service('cart', { vips: ['10.96.0.1'], ports: [port(80, 0)] });
  const without = workload('cart-1', { addresses: ['10.1.0.2'], services: ['cart'] });
  const own = workload('cart-2', {
    addresses: ['10.1.0.3'],
    services: new Map([[key('cart'), [port(80, 7070)]]]),
  });
  t.match(resolve('10.96.0.1', [without], [named]), { kind: 'refused' });
  t.match(resolve('10.96.0.1', [without, own], [named]), {
    address: { ip: '10.1.0.3', port: 7070 },
  });
});

void t.test(
  'resolveDestination accepts the service identities besides the workload own',
  async (t) => {
    const cart = workload('cart-1', { addresses: ['10.1.0.2'], services: ['cart'] });
    const sans = ['spiffe://cluster.local/ns/shop/sa/other'];
    const found = resolve(
      '10.96.0.1',
      [cart],
      [service('cart', { vips: ['10.96.0.1'], subjectAltNames: sans })],
    );
    t.match(found, { identities: [IDENTITY, ...sans] });
  },
);

void t.test(
  'resolveDestination refuses a service without a usable endpoint, never plain text',
  async (t) => {
    const vips = ['10.96.0.1'];
    const sick = workload('cart-1', {
      addresses: ['10.1.0.2'],
      services: ['cart'],
      healthy: false,
    });
    const homeless = workload('cart-2', { services: ['cart'] });
    const idle = workload('cart-3', { addresses: ['10.1.0.3'], services: ['cart'], capacity: 0 });
    const error = { code: 'MESH_NO_HEALTHY_ENDPOINT', flag: 'NO_ENDPOINT' };
    const cart = service('cart', { vips });
    t.match(resolve('10.96.0.1', [], [cart]), {
      kind: 'refused',
      error,
      service: { key: cart.key },
    });
    t.match(resolve('10.96.0.1', [sick, homeless, idle], [cart]), { kind: 'refused', error });
    const open = service('cart', {
      vips,
      balancing: { preference: [], mode: 'UNSPECIFIED', includeUnhealthy: true },
    });
    t.match(resolve('10.96.0.1', [sick], [open]), { kind: 'endpoint' }, 'publishNotReadyAddresses');
  },
);

void t.test('resolveDestination leaves out what was tried and failed', async (t) => {
  const one = workload('cart-1', { addresses: ['10.1.0.2'], services: ['cart'] });
  const two = workload('cart-2', { addresses: ['10.1.0.3'], services: ['cart'] });
  const state = stateWith([client, one, two], [service('cart', { vips: ['10.96.0.1'] })]);
  for (let round = 0; round < 20; round++) {
    const found = state.resolveDestination(at('10.96.0.1'), client, new Set([one.uid]));
    t.match(found, { workload: { uid: two.uid } });
  }
  const none = state.resolveDestination(at('10.96.0.1'), client, new Set([one.uid, two.uid]));
  t.match(none, { kind: 'refused' });
});

void t.test('resolveDestination reaches a pod address by what the pod speaks', async (t) => {
  const meshed = workload('a', { addresses: ['10.1.0.2'] });
  const plain = workload('b', { addresses: ['10.1.0.3'], tunnelProtocol: 'none' });
  t.match(resolve('10.1.0.2', [meshed], [], 9000), {
    kind: 'endpoint',
    protocol: 'hbone',
    service: undefined,
    address: { ip: '10.1.0.2', port: 9000 },
    identities: [IDENTITY],
  });
  t.match(resolve('10.1.0.3', [plain]), { kind: 'endpoint', protocol: 'plain' });
});

void t.test('resolveDestination passes unknown and hostNetwork addresses through', async (t) => {
  const host = workload('node-agent', { addresses: ['192.168.0.10'], hostNetwork: true });
  t.same(resolve('192.168.0.10', [host]), {
    kind: 'passthrough',
    address: at('192.168.0.10'),
    service: undefined,
  });
  t.match(resolve('93.184.216.34', []), { kind: 'passthrough' });
  const elsewhere = workload('far', { addresses: ['10.1.0.9'], network: 'net2' });
  t.match(
    resolve('10.1.0.9', [elsewhere]),
    { kind: 'passthrough' },
    'another network has its own 10.1.0.9',
  );
});

void t.test('resolveDestination keeps a PASSTHROUGH service on the original address', async (t) => {
  const balancing = { preference: [], mode: 'PASSTHROUGH', includeUnhealthy: true } as const;
  const found = resolve('10.96.0.1', [], [service('ext', { vips: ['10.96.0.1'], balancing })]);
  t.match(found, { kind: 'passthrough', service: { name: 'ext' } });
});

void t.test(
  'resolveDestination waits for the first snapshot before calling anything unknown',
  async (t) => {
    const { state } = emptyState();
    t.same(state.resolveDestination(at('10.1.0.2'), client), { kind: 'pending', names: [] });
    state.applyAddresses({ services: [service('cart', { vips: ['10.96.0.1'] })] });
    t.match(state.resolveDestination(at('10.96.0.1'), client), { kind: 'pending' });
    state.markAddressesSynced();
    t.match(state.resolveDestination(at('10.1.0.2'), client), { kind: 'passthrough' });
    t.match(state.resolveDestination(at('10.96.0.1'), client), { kind: 'refused' });
  },
);

const waypointService = service('wp', {
  ports: [port(15008)],
  subjectAltNames: ['spiffe://td/ns/x/sa/wp'],
});
const waypointPod = workload('wp-1', {
  addresses: ['10.1.0.7'],
  services: ['wp'],
  serviceAccount: 'wp',
  nativeTunnel: true,
});

void t.test('resolveDestination goes through the waypoint of a service', async (t) => {
  const cart = service('cart', { vips: ['10.96.0.1'], waypoint: gatewayService('wp') });
  t.match(resolve('10.96.0.1', [waypointPod], [cart, waypointService], 8888), {
    kind: 'waypoint',
    waypoint: { uid: waypointPod.uid },
    hop: { ip: '10.1.0.7', port: 15008 },
    address: at('10.96.0.1', 8888),
    identities: ['spiffe://cluster.local/ns/shop/sa/wp', 'spiffe://td/ns/x/sa/wp'],
    service: { name: 'cart' },
    workload: undefined,
  });
});

void t.test(
  'resolveDestination goes through the waypoint of a workload that was addressed',
  async (t) => {
    const target = workload('db', { addresses: ['10.1.0.8'], waypoint: gatewayIp('10.1.0.7') });
    const found = resolve('10.1.0.8', [waypointPod, target], []);
    t.match(found, {
      kind: 'waypoint',
      hop: { ip: '10.1.0.7', port: 15008 },
      address: at('10.1.0.8'),
      workload: { name: 'db' },
      service: undefined,
    });
    const viaService = workload('db', {
      addresses: ['10.1.0.8'],
      services: ['db'],
      waypoint: gatewayIp('10.1.0.7'),
    });
    t.match(
      resolve('10.96.0.1', [waypointPod, viaService], [service('db', { vips: ['10.96.0.1'] })]),
      { kind: 'endpoint', workload: { name: 'db' } },
      'addressed as a service without a waypoint: not through the workload one',
    );
  },
);

void t.test('resolveDestination finds a waypoint by service address and port', async (t) => {
  const wp = service('wp', { vips: ['10.96.0.7'], ports: [port(15008, 15555)] });
  const cart = service('cart', { vips: ['10.96.0.1'], waypoint: gatewayIp('10.96.0.7') });
  t.match(resolve('10.96.0.1', [waypointPod], [cart, wp]), {
    kind: 'waypoint',
    hop: { ip: '10.1.0.7', port: 15555 },
  });
});

void t.test(
  'resolveDestination refuses when the declared waypoint is missing or unready (T49)',
  async (t) => {
    const endpoint = workload('cart-1', { addresses: ['10.1.0.2'], services: ['cart'] });
    const cart = service('cart', { vips: ['10.96.0.1'], waypoint: gatewayService('wp') });
    const error = { code: 'MESH_WAYPOINT_UNAVAILABLE', flag: 'WAYPOINT' };
    const sick = { ...waypointPod, healthy: false };
    const far = { ...waypointPod, network: 'net2', networkGateway: gatewayIp('10.1.0.7') };
    t.match(
      resolve('10.96.0.1', [endpoint], [cart]),
      { kind: 'refused', error },
      'no such service',
    );
    t.match(
      resolve('10.96.0.1', [endpoint], [cart, waypointService]),
      { kind: 'refused', error },
      'no pod',
    );
    t.match(resolve('10.96.0.1', [endpoint, sick], [cart, waypointService]), {
      kind: 'refused',
      error,
    });
    t.match(resolve('10.96.0.1', [endpoint, far], [cart, waypointService]), {
      kind: 'refused',
      error,
    });
    const byIp = service('cart', { vips: ['10.96.0.1'], waypoint: gatewayIp('10.1.0.77') });
    t.match(
      resolve('10.96.0.1', [endpoint], [byIp]),
      { kind: 'refused', error },
      'no such address',
    );
    const pod = workload('db', { addresses: ['10.1.0.8'], waypoint: gatewayIp('10.1.0.77') });
    t.match(resolve('10.1.0.8', [pod], []), { kind: 'refused', error, workload: { name: 'db' } });
  },
);

void t.test('resolveDestination does not send a waypoint through itself', async (t) => {
  const endpoint = workload('cart-1', { addresses: ['10.1.0.2'], services: ['cart'] });
  const cart = service('cart', { vips: ['10.96.0.1'], waypoint: gatewayService('wp') });
  const state = stateWith([waypointPod, endpoint], [cart, waypointService]);
  t.match(state.resolveDestination(at('10.96.0.1'), waypointPod), {
    kind: 'endpoint',
    workload: { name: 'cart-1' },
  });
});

void t.test('resolveDestination crosses networks through the gateway or not at all', async (t) => {
  const cart = service('cart', { vips: ['10.96.0.1'], subjectAltNames: [IDENTITY] });
  const gateway = workload('gw', {
    addresses: ['172.16.0.1'],
    network: 'net2',
    serviceAccount: 'gw',
  });
  const far = (fields: object): Workload =>
    workload('cart-far', { network: 'net2', services: ['cart'], ...fields });
  t.match(resolve('10.96.0.1', [far({ addresses: ['10.1.0.2'] })], [cart]), { kind: 'refused' });
  const via = far({ networkGateway: gatewayIp('172.16.0.1', 'net2') });
  t.match(resolve('10.96.0.1', [via], [cart]), {
    kind: 'refused',
    error: { code: 'MESH_NO_HEALTHY_ENDPOINT' },
  });
  t.match(resolve('10.96.0.1', [via, gateway], [cart]), {
    kind: 'gateway',
    gateway: { uid: gateway.uid },
    hop: { ip: '172.16.0.1', port: 15008 },
    identities: ['spiffe://cluster.local/ns/shop/sa/gw'],
    authority: 'cart.shop.svc.cluster.local:80',
    serviceIdentities: [IDENTITY],
    workload: { uid: via.uid },
  });
});

void t.test(
  'resolveDestination chooses the address: requested, service family, same family, any',
  async (t) => {
    const both = ['10.1.0.2', 'fd00::2'];
    const cart = workload('cart-1', { addresses: both, services: ['cart'] });
    const vips = ['10.96.0.1', 'fd00:96::1'];
    const chosen = (
      families: Service['ipFamilies'],
      vip: string,
      pod: Workload = cart,
    ): unknown => {
      const found = resolve(vip, [pod], [service('cart', { vips, ipFamilies: families })]);
      return found.kind === 'endpoint' ? found.address.ip : found.kind;
    };
    t.equal(chosen('AUTOMATIC', '10.96.0.1'), '10.1.0.2');
    t.equal(chosen('AUTOMATIC', 'fd00:96::1'), 'fd00::2');
    t.equal(chosen('DUAL', 'fd00:96::1'), 'fd00::2');
    t.equal(chosen('IPV4_ONLY', 'fd00:96::1'), '10.1.0.2');
    t.equal(chosen('IPV6_ONLY', '10.96.0.1'), 'fd00::2');
    const single = workload('cart-1', { addresses: ['fd00::2'], services: ['cart'] });
    t.equal(chosen('AUTOMATIC', '10.96.0.1', single), 'fd00::2');
    t.match(resolve('fd00::2', [cart]), { address: at('fd00::2') }, 'the pod address itself');
  },
);

void t.test(
  'resolveDestination prefers the service when an address is both, the pod over a block',
  async (t) => {
    const pod = workload('db', { addresses: ['10.1.0.8'] });
    const endpoint = workload('x', { addresses: ['10.1.0.9'], services: ['x'] });
    const exact = service('x', { vips: ['10.1.0.8'] });
    t.match(resolve('10.1.0.8', [pod, endpoint], [exact]), { workload: { name: 'x' } });
    const block = service('x', { vips: ['10.0.0.0/8'] });
    t.match(resolve('10.1.0.8', [pod, endpoint], [block]), { workload: { name: 'db' } });
    t.match(resolve('10.200.0.8', [pod, endpoint], [block]), { workload: { name: 'x' } });
  },
);

void t.test(
  'a service address that several claim follows the rules of conflict (hbone.md 3.2)',
  async (t) => {
    const named = (name: string, namespace: string, fields: object = {}): Service =>
      service(name, { namespace, vips: ['10.96.0.1'], ...fields });
    const cases: [string, Service[], string, string | undefined][] = [
      ['one', [named('a', 'shop')], 'shop', 'a'],
      ['own namespace', [named('a', 'bank', { canonical: true }), named('b', 'shop')], 'shop', 'b'],
      ['canonical', [named('a', 'bank'), named('b', 'mall', { canonical: true })], 'shop', 'b'],
      ['key', [named('b', 'mall'), named('a', 'mall')], 'shop', 'a'],
      [
        'hidden',
        [named('a', 'bank', { visibility: 'NAMESPACE', canonical: true })],
        'shop',
        undefined,
      ],
      ['hidden from others only', [named('a', 'shop', { visibility: 'NAMESPACE' })], 'shop', 'a'],
      [
        'visible before canonical',
        [named('a', 'bank', { visibility: 'NAMESPACE', canonical: true }), named('b', 'mall')],
        'shop',
        'b',
      ],
    ];
    for (const [what, services, namespace, expected] of cases) {
      for (const order of [services, services.toReversed()]) {
        const state = stateWith([], order);
        const found = state.services.atAddress('net1', ip('10.96.0.1'), namespace);
        t.equal(found?.name, expected, what);
      }
    }
  },
);

void t.test(
  'address blocks follow namespace, longest prefix, canonical, and come after exact ones',
  async (t) => {
    const block = (name: string, namespace: string, vip: string, fields: object = {}): Service =>
      service(name, { namespace, vips: [vip], ...fields });
    const cases: [string, Service[], string][] = [
      ['longest', [block('a', 'x', '10.0.0.0/8'), block('b', 'x', '10.96.0.0/16')], 'b'],
      ['namespace first', [block('a', 'shop', '10.0.0.0/8'), block('b', 'x', '10.96.0.0/16')], 'a'],
      [
        'canonical',
        [block('a', 'x', '10.0.0.0/8'), block('b', 'x', '10.0.0.0/8', { canonical: true })],
        'b',
      ],
      ['exact', [block('a', 'shop', '10.0.0.0/8'), block('b', 'x', '10.96.0.1')], 'b'],
      [
        'hidden exact',
        [block('a', 'x', '0.0.0.0/0'), block('b', 'x', '10.96.0.1', { visibility: 'NAMESPACE' })],
        'a',
      ],
      ['other family', [block('a', 'x', '0.0.0.0/0'), block('b', 'shop', '::/0')], 'a'],
    ];
    for (const [what, services, expected] of cases) {
      for (const order of [services, services.toReversed()]) {
        const found = stateWith([], order).services.atAddress('net1', ip('10.96.0.1'), 'shop');
        t.equal(found?.name, expected, what);
      }
    }
    const v6 = stateWith([], [block('six', 'x', 'fd00:96::/33')]);
    t.equal(v6.services.atAddress('net1', ip('fd00:96:7fff::1'), 'shop')?.name, 'six');
    t.equal(v6.services.atAddress('net1', ip('fd00:96:8000::1'), 'shop'), undefined);
  },
);
