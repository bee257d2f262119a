import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { parseAddress } from '../../src/core/address.ts';
import { parseIdentity } from '../../src/core/identity.ts';
import {
  FORBIDDEN_TARGET_PORTS,
  PORTS,
  PROBE_SOURCE_IPV4,
  PROBE_SOURCE_IPV6,
} from '../../src/core/pod.ts';
import { serviceKey, workloadIdentity } from '../../src/core/workload.ts';
import { workload } from '../state/build.ts';

void t.test('a workload has the identity of its namespace and service account', async (t) => {
  const identity = workloadIdentity(
    workload('web', { namespace: 'shop', serviceAccount: 'web-sa' }),
  );
  t.equal(identity, 'spiffe://cluster.local/ns/shop/sa/web-sa');
  t.match(unwrap(parseIdentity(identity)), { namespace: 'shop', serviceAccount: 'web-sa' });
});

void t.test('a service key is its namespace and host name', async (t) => {
  t.equal(serviceKey('shop', 'cart.shop.svc'), 'shop/cart.shop.svc');
});

void t.test('the reserved probe sources are canonical addresses', async (t) => {
  for (const ip of [PROBE_SOURCE_IPV4, PROBE_SOURCE_IPV6]) t.equal(unwrap(parseAddress(ip)), ip);
});

void t.test(
  'every port that takes redirected or tunnelled traffic is forbidden as a target (T22)',
  async (t) => {
    for (const port of [PORTS.outbound, PORTS.inboundPassthrough, PORTS.hbone, PORTS.dns]) {
      t.ok(FORBIDDEN_TARGET_PORTS.includes(port), String(port));
    }
  },
);
