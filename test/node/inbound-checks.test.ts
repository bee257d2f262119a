import fc from 'fast-check';
import t from 'tap';

import type { IpAddress } from '../../src/core/address.ts';
import { FORBIDDEN_TARGET_PORTS } from '../../src/core/pod.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { ServedPod, WorkerContext } from '../../src/node/context.ts';
import { admit, targetOfAuthority } from '../../src/node/inbound-checks.ts';
import { createAuthorizer } from '../../src/policy/authorizer.ts';
import type { Authority } from '../../src/tunnel/authority.ts';
import { strictPolicy } from '../policy/build.ts';
import { capturedPod, key, port, service, stateWith, workload } from '../state/build.ts';
import type { NodeState } from '../../src/state/contract.ts';

const POD_IP = '10.0.0.9' as IpAddress;
const PEER = 'spiffe://cluster.local/ns/shop/sa/web' as SpiffeId;
const CART = key('cart');

/** The parts of a worker that the checks look at. */
function contextOf(state: NodeState): WorkerContext {
  const parts: Pick<WorkerContext, 'state' | 'authorizer'> = {
    state,
    authorizer: createAuthorizer(state.policies),
  };
  return parts as WorkerContext;
}

function podOf(state: NodeState, uid: string): ServedPod {
  const captured = capturedPod('cart', POD_IP);
  const parts: Pick<ServedPod, 'captured' | 'uid' | 'workload'> = {
    captured,
    uid: captured.pod.podUid,
    workload: () => state.workloads.get(uid),
  };
  return parts as ServedPod;
}

const CART_WORKLOAD = workload('cart', {
  addresses: [POD_IP],
  services: new Map([[CART, [port(80, 8080)]]]),
});

function withCart(): { context: WorkerContext; pod: ServedPod; state: NodeState } {
  const state = stateWith([CART_WORKLOAD], [service('cart', { ports: [port(80, 8080)] })]);
  return { context: contextOf(state), pod: podOf(state, CART_WORKLOAD.uid), state };
}

t.test('T40 an address in the authority must be the one the tunnel was accepted on', (t) => {
  const { context, pod } = withCart();
  const target = targetOfAuthority(
    context,
    pod,
    { kind: 'address', ip: POD_IP, port: 8080 },
    POD_IP,
  );
  t.same(target, { ok: true, value: { ip: POD_IP, port: 8080 } });
  for (const ip of ['10.0.0.10', '127.0.0.1', '169.254.169.254', '::1', '0.0.0.0']) {
    const other: Authority = { kind: 'address', ip: ip as IpAddress, port: 8080 };
    const refused = targetOfAuthority(context, pod, other, POD_IP);
    t.match(refused, { ok: false, error: { code: 'MESH_DESTINATION_FORBIDDEN' } }, ip);
    t.equal(refused.ok ? 0 : refused.error.details['status'], 400, ip);
  }
  t.end();
});

t.test('T41 a tunnel accepted on loopback leads nowhere', (t) => {
  const { context, pod } = withCart();
  const loopback = '127.0.0.1' as IpAddress;
  const hostname = CART.split('/')[1] ?? '';
  for (const authority of [
    { kind: 'address', ip: loopback, port: 8080 },
    { kind: 'hostname', hostname, port: 80 },
  ] as const) {
    const refused = targetOfAuthority(context, pod, authority, loopback);
    t.match(refused, { ok: false, error: { code: 'MESH_DESTINATION_FORBIDDEN' } });
  }
  t.end();
});

t.test(
  'a host name in the authority selects the port of a service of this pod, and nothing else',
  (t) => {
    const { context, pod } = withCart();
    const named = (hostname: string, wanted: number) =>
      targetOfAuthority(context, pod, { kind: 'hostname', hostname, port: wanted }, POD_IP);
    const hostname = CART.split('/')[1] ?? '';
    t.same(named(hostname, 80), { ok: true, value: { ip: POD_IP, port: 8080 } });
    for (const [host, wanted] of [
      [hostname, 81],
      ['db.shop.svc.cluster.local', 80],
      [hostname.slice(1), 80],
      ['localhost', 80],
    ] as const) {
      const refused = named(host, wanted);
      t.match(
        refused,
        { ok: false, error: { code: 'MESH_DESTINATION_UNKNOWN' } },
        `${host}:${wanted}`,
      );
      t.equal(refused.ok ? 0 : refused.error.details['status'], 503);
    }
    t.end();
  },
);

t.test('T42 our own ports are never reached through us', (t) => {
  const { context, pod } = withCart();
  for (const own of FORBIDDEN_TARGET_PORTS) {
    const refused = admit(context, pod, PEER, '10.0.0.1' as IpAddress, { ip: POD_IP, port: own });
    t.match(refused, { ok: false, error: { code: 'MESH_DESTINATION_FORBIDDEN' } });
  }
  t.end();
});

t.test('T103 nothing is let in before the first policies, nor to a workload nobody knows', (t) => {
  const { context, state } = withCart();
  const to = { ip: POD_IP, port: 8080 };
  const unknown = admit(context, podOf(state, 'nobody'), PEER, '10.0.0.1' as IpAddress, to);
  t.match(unknown, { ok: false, error: { code: 'MESH_CONFIG_UNAVAILABLE', flag: 'CONFIG' } });
  t.end();
});

t.test('T20 under STRICT who has an identity is let in, on any port, and nobody else', (t) => {
  const { context, pod, state } = withCart();
  state.markPoliciesSynced();
  const admitted = (source: SpiffeId | undefined, wanted: number): boolean =>
    admit(context, pod, source, '10.0.0.1' as IpAddress, { ip: POD_IP, port: wanted }).ok;
  t.ok(admitted(undefined, 8080), 'plain text passes before');
  state.applyPolicies({ policies: [strictPolicy()] });
  fc.assert(
    fc.property(fc.boolean(), fc.integer({ min: 1, max: 14_000 }), (meshed, wanted) => {
      return admitted(meshed ? PEER : undefined, wanted) === meshed;
    }),
  );
  t.end();
});
