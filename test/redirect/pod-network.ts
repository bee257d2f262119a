/** A pod in a network namespace of its own, joined to an outside, for the tests of redirection. */

import type { Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { unwrap } from '../../src/base/result.ts';
import { parseAddress, type IpAddress } from '../../src/core/address.ts';
import type { CapturedPod, PodUid } from '../../src/core/pod.ts';
import { openNamespace, type NetworkNamespace } from '../../src/linux/namespaces.ts';
import { loadNative, type Native } from '../../src/linux/native.ts';
import type { RedirectContext } from '../../src/redirect/context.ts';
import { createTestNetwork, type TestNetwork } from '../support/network-namespace.ts';

export const FAMILIES = [
  { name: 'IPv4', out: ['10.79.0.1'], pod: ['10.79.0.2'], mask: [24] },
  { name: 'IPv6', out: ['fd79::1'], pod: ['fd79::2'], mask: [64] },
  {
    name: 'dual stack',
    out: ['10.79.0.1', 'fd79::1'],
    pod: ['10.79.0.2', 'fd79::2'],
    mask: [24, 64],
  },
] as const;

/** A pod joined to the outside, and the context of an agent that is in neither. */
export interface PodSetUp {
  readonly native: Native;
  readonly network: TestNetwork;
  readonly pod: NetworkNamespace;
  readonly out: NetworkNamespace;
  readonly context: RedirectContext;
  readonly captured: CapturedPod;
}

export function setUpPod(t: Test, family: (typeof FAMILIES)[number]): PodSetUp {
  const native = loadNative();
  const network = createTestNetwork();
  const pod = openNamespace(native, network.add('pod'));
  const out = openNamespace(native, network.add('out'));
  network.join(
    { name: 'out', device: 'o0', addresses: family.out.map((ip, i) => `${ip}/${family.mask[i]}`) },
    {
      name: 'pod',
      device: 'eth0',
      addresses: family.pod.map((ip, i) => `${ip}/${family.mask[i]}`),
      gateways: family.out,
    },
  );
  const node = openNamespace(native, '/proc/self/ns/net');
  const context: RedirectContext = {
    native,
    clock: createSystemClock(),
    logger: createNullLogger(),
    nodeNamespace: node,
  };
  t.teardown(() => {
    for (const namespace of [pod, out, node]) namespace.close();
    network.removeAll();
  });
  return {
    native,
    network,
    pod,
    out,
    context,
    captured: describePod(pod.path, pod.inode, family.pod),
  };
}

export function describePod(
  netnsPath: string,
  netnsInode: number,
  addresses: readonly string[],
): CapturedPod {
  return {
    netnsPath,
    netnsInode,
    pod: {
      podUid: 'uid-1' as PodUid,
      name: 'web',
      namespace: 'shop',
      serviceAccount: 'web',
      trustDomain: 'cluster.local',
      workloadUid: 'k//Pod/shop/web',
      addresses: addresses.map((address): IpAddress => unwrap(parseAddress(address))),
      enrolled: true,
      probePorts: [],
    },
  };
}
