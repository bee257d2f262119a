/**
 * What many workloads cost: server and client in one process, so a block of either is seen. With a number as
 * argument it runs with that many; at 100,000 on two shared cores: synced in 0.8 to 1.1 s, the longest turns 12
 * to 17 ms, of which a scavenge takes 6 to 9; a reconnect 0.25 s with turns of up to 14 ms.
 */

import t from 'tap';

import { unwrap } from '../../src/base/result.ts';
import { parseAddress } from '../../src/core/address.ts';
import { serviceKey, type Workload } from '../../src/core/workload.ts';
import type { TypeSubscription } from '../../src/discovery/client.ts';
import { decodeAddress, workloadResource } from '../../src/discovery/codec-workload.ts';
import { ResourceCache } from '../../src/discovery/resource-cache.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { createHeld, runClient, serveDiscovery, until } from './loopback.ts';

const COUNT = Number(process.argv[2] ?? 10_000);

const workload = (index: number): Workload => ({
  uid: `Kubernetes//Pod/ns-${index % 100}/app-${index}`,
  name: `app-${index}`,
  namespace: `ns-${index % 100}`,
  addresses: [unwrap(parseAddress(`10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`))],
  hostname: '',
  network: '',
  tunnelProtocol: 'hbone',
  trustDomain: 'cluster.local',
  serviceAccount: `sa-${index % 1_000}`,
  node: `node-${index % 500}`,
  canonicalName: `app-${index % 1_000}`,
  canonicalRevision: 'v1',
  workloadType: 'DEPLOYMENT',
  workloadName: `app-${index % 1_000}`,
  services: new Map([
    [
      serviceKey(`ns-${index % 100}`, `app-${index % 1_000}.ns-${index % 100}.svc.cluster.local`),
      [{ servicePort: 80, targetPort: 8080, appProtocol: 'HTTP11' }],
    ],
  ]),
  authorizationPolicies: [],
  healthy: true,
  clusterId: 'Kubernetes',
  locality: { region: 'r', zone: `z-${index % 3}`, subzone: '' },
  hostNetwork: false,
  waypoint: undefined,
  networkGateway: undefined,
  nativeTunnel: false,
  capacity: 1,
  localDelivery: true,
});

/** Longest turns of the loop while `act` runs. */
async function measure(act: () => Promise<void>): Promise<{ tookMs: number; blocksMs: number[] }> {
  const blocks: number[] = [];
  const startMs = performance.now();
  let lastMs = startMs;
  let running = true;
  const tick = (): void => {
    const nowMs = performance.now();
    blocks.push(nowMs - lastMs);
    lastMs = nowMs;
    if (running) setImmediate(tick);
  };
  setImmediate(tick);
  await act();
  running = false;
  const longest = blocks.toSorted((a, b) => b - a).slice(0, 5);
  return { tookMs: performance.now() - startMs, blocksMs: longest.map((ms) => Math.round(ms)) };
}

void t.test(`${COUNT} workloads reach a client in short turns`, async (t) => {
  const cache = new ResourceCache(TYPE_URL.address);
  for (let at = 0; at < COUNT; at += 1_000) {
    const some = Array.from({ length: 1_000 }, (_, index) =>
      workloadResource(workload(at + index)),
    );
    cache.update({ set: some });
  }
  const bytes = [...cache.names()].reduce(
    (sum, name) => sum + (cache.get(name)?.body.length ?? 0),
    0,
  );
  let server = await serveDiscovery([cache]);
  const held = createHeld(TYPE_URL.address);
  const names = new Set<string>();
  let received = 0;
  const subscription: TypeSubscription = {
    ...held.subscription,
    async apply({ resources }) {
      for (const { name } of resources) names.add(name);
      received += resources.length;
      return [];
    },
  };
  const { client, stop } = runClient(() => server.port, [{ ...held, subscription }]);
  const first = await measure(() => client.whenSynced([TYPE_URL.address]));
  t.equal(names.size, COUNT);
  const body = cache.get(workload(5).uid)?.body ?? new Uint8Array();
  t.same(unwrap(decodeAddress(body)), { kind: 'workload', workload: workload(5) });
  received = 0;
  await server.close();
  cache.update({ removed: [workload(7).uid] });
  server = await serveDiscovery([cache]);
  const changed = workloadResource({ ...workload(9), healthy: false });
  const second = await measure(async () => {
    await until(() => client.connected, 'the reconnect');
    cache.update({ set: [changed] });
    await until(() => received > 0, 'the change');
  });
  t.equal(received, 1, 'nothing else is sent again');
  t.comment(
    `${Math.round(bytes / 1e6)} MB; sync ${Math.round(first.tookMs)} ms, blocks ${first.blocksMs.join()} ms`,
  );
  t.comment(`reconnect ${Math.round(second.tookMs)} ms, blocks ${second.blocksMs.join()} ms`);
  await stop();
  await server.close();
});
