/** T49: the last look before a connection leaves. */

import t from 'tap';

import { bypassError } from '../../src/node/waypoint-guard.ts';
import { at, gatewayIp, gatewayService, service, workload } from '../state/build.ts';

t.test('T49 nobody but the waypoint itself reaches what declares it by another way', (t) => {
  const web = workload('web');
  const to = (fields: Parameters<typeof service>[1], client = web): string | undefined =>
    bypassError(
      {
        kind: 'endpoint',
        workload: workload('cart-1'),
        service: service('cart', fields),
        address: at('10.0.0.1'),
        protocol: 'hbone',
        identities: [],
      },
      client,
    )?.code;
  const declared = { waypoint: gatewayService('way') };
  t.equal(to({}), undefined);
  t.equal(to(declared), 'MESH_WAYPOINT_BYPASSED');
  t.equal(to(declared, workload('way-1', { services: ['way'] })), undefined);
  t.equal(to({ waypoint: gatewayIp('10.0.0.9') }), 'MESH_WAYPOINT_BYPASSED');
  const pod = { ...workload('cart-1'), waypoint: gatewayService('way') };
  const address = at('10.0.0.1');
  const direct = { kind: 'endpoint', service: undefined, address, protocol: 'plain' } as const;
  t.match(bypassError({ ...direct, workload: pod, identities: [] }, web), { flag: 'WAYPOINT' });
  const away = { kind: 'passthrough', address: at('10.0.0.1') } as const;
  t.equal(bypassError({ ...away, service: undefined }, web), undefined);
  t.ok(bypassError({ ...away, service: service('cart', declared) }, web));
  t.end();
});
