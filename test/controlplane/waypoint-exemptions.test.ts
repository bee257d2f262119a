/** A destination lets the waypoint of its services through its L4 policies, and nobody else; STRICT stays. */

import fc from 'fast-check';
import t from 'tap';

import { gatewayApi, Model, namespace, own, pod, service, type Json } from './build.ts';

const WAY = 'ns/shop/sa/way';
const WEB = 'ns/shop/sa/web';
const labels = { app: 'cart' };
const ports = [{ port: 80, targetPort: 8_080 }];

function model(...policies: ReturnType<typeof own>[]): Model {
  const built = new Model().put(
    namespace('shop', { 'nodemesh.dev/waypoint': 'way', 'nodemesh.dev/mesh': 'enabled' }),
    gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }),
    service('shop/cart', { clusterIP: '10.96.0.1', selector: labels, ports }),
    pod('shop/cart-1', { ip: '10.0.0.1', labels, sa: 'cart', phase: 'Running' }),
    ...policies,
  );
  built.settleAll();
  return built;
}

function policy(
  path: string,
  action: string,
  source: Json,
  selector?: Json,
): ReturnType<typeof own> {
  const rules = [{ from: [{ source }] }];
  return own('AuthorizationPolicy', path, { action, rules, ...(selector && { selector }) });
}

const onlyWeb = { principals: [`cluster.local/${WEB}`] };
const notWeb = { notPrincipals: [`cluster.local/${WEB}`] };

t.test('ALLOW and DENY of every reach spare the waypoint on its services’ ports alone', (t) => {
  const rows: readonly [string, ReturnType<typeof own>][] = [
    ['namespace', policy('shop/p', 'ALLOW', onlyWeb)],
    ['selector', policy('shop/p', 'ALLOW', onlyWeb, { matchLabels: labels })],
    ['mesh', policy('nodemesh-system/p', 'ALLOW', onlyWeb)],
    ['namespace, denied', policy('shop/p', 'DENY', notWeb)],
    ['selector, denied', policy('shop/p', 'DENY', notWeb, { matchLabels: labels })],
    ['mesh, denied', policy('nodemesh-system/p', 'DENY', notWeb)],
  ];
  for (const [name, object] of rows) {
    const built = model(object);
    const verdict = (source: string | undefined, port: number): boolean =>
      built.decide('shop/cart-1', source, port).allowed;
    t.equal(verdict(WEB, 8_080), true, name);
    t.equal(verdict(WAY, 8_080), true, name);
    t.equal(verdict(WAY, 22), false, `${name}: not on ports of no service`);
    t.equal(verdict('ns/shop/sa/other', 8_080), false, name);
    t.equal(verdict('ns/other/sa/way', 8_080), false, `${name}: a namesake elsewhere`);
    t.equal(verdict(undefined, 8_080), false, `${name}: nobody`);
    built.remove('Gateway', 'shop/way').settleAll();
    t.equal(verdict(WAY, 8_080), false, `${name}: whose Gateway is gone`);
  }
  t.end();
});

t.test('a policy for other pods than the waypoint’s services have does not spare it', (t) => {
  const db = { app: 'db' };
  for (const [path, action, source] of [
    ['shop/p', 'ALLOW', onlyWeb],
    ['shop/p', 'DENY', notWeb],
    ['nodemesh-system/p', 'DENY', notWeb],
  ] as const) {
    const built = model(policy(path, action, source, { matchLabels: db }));
    built.put(pod('shop/db-1', { ip: '10.0.0.2', labels: db, sa: 'db', phase: 'Running' }));
    built.settleAll();
    const spared = (): boolean => built.decide('shop/db-1', WAY, 8_080).allowed;
    t.equal(spared(), false, `${path} ${action}: the services are of other pods`);
    t.equal(built.decide('shop/db-1', WEB, 8_080).allowed, true);
    const selected = (selector: Json): void => {
      const spec = { clusterIP: '10.96.0.1', ports, ...selector };
      built.put(service('shop/cart', spec)).settleAll();
    };
    selected({ selector: { ...db, tier: 'back' } });
    t.equal(spared(), true, 'one that may have this pod');
    selected({ selector: labels });
    t.equal(spared(), false);
    selected({});
    t.equal(spared(), true, 'one whose pods stand in EndpointSlices');
  }
  t.end();
});

t.test('STRICT refuses nobody’s identity, waypoint or not', (t) => {
  const built = model(own('PeerAuthentication', 'shop/p', { mtls: { mode: 'STRICT' } }));
  const uid = built.world.pods.owner('10.0.0.1' as never)?.pod.uid ?? '';
  built.captured('node-a', uid).settleAll();
  t.equal(built.decide('shop/cart-1', undefined, 8_080).allowed, false);
  t.equal(built.decide('shop/cart-1', WAY, 8_080).allowed, true);
  t.end();
});

t.test('a named target port is each pod’s own: the waypoint is spared on any', (t) => {
  const built = model(policy('shop/p', 'ALLOW', onlyWeb));
  const named = [{ port: 80, targetPort: 'web' }];
  built.put(service('shop/cart', { clusterIP: '10.96.0.1', selector: labels, ports: named }));
  built.settleAll();
  t.equal(built.decide('shop/cart-1', WAY, 9_999).allowed, true);
  t.equal(built.decide('shop/cart-1', 'ns/shop/sa/x', 9_999).allowed, false);
  t.end();
});

t.test('without any policy nothing is added, and an AUDIT policy stays as written', (t) => {
  t.equal(model().policies.size, 1, 'STRICT, which is always there');
  const built = model(policy('shop/p', 'AUDIT', onlyWeb));
  t.equal(built.policies.get('shop/p')?.rules.length, 1);
  t.equal(built.decide('shop/cart-1', 'ns/x/sa/y', 8_080).allowed, true);
  t.end();
});

t.test('whatever the policies say, only the waypoint’s own verdict differs', (t) => {
  const source = fc.constantFrom<Json>(
    onlyWeb,
    notWeb,
    { namespaces: ['shop'] },
    { notNamespaces: ['shop'] },
    { principals: ['*'] },
    { ipBlocks: ['10.9.0.0/16'] },
  );
  const one = fc.tuple(fc.constantFrom('ALLOW', 'DENY'), source);
  const who = fc.constantFrom(WEB, 'ns/shop/sa/x', 'ns/other/sa/way', undefined);
  fc.assert(
    fc.property(
      fc.array(one, { maxLength: 3 }),
      who,
      fc.constantFrom(8_080, 22),
      (list, from, port) => {
        const policies = list.map(([action, rule], index) =>
          policy(`shop/p${index}`, action, rule),
        );
        const built = model(...policies);
        const withWaypoint = built.decide('shop/cart-1', from, port).allowed;
        const spared = built.decide('shop/cart-1', WAY, 8_080).allowed;
        built.remove('Gateway', 'shop/way').settleAll();
        return spared && withWaypoint === built.decide('shop/cart-1', from, port).allowed;
      },
    ),
    { numRuns: 200 },
  );
  t.end();
});
