/** The agent dies: no worker notices, no connection is lost, and its successor goes on from what there is. */

import t from 'tap';

import {
  childrenOf,
  describeLoad,
  holdCounts,
  holdOpen,
  logLines,
  LONG_CONNECTIONS,
  probeFrom,
  DB,
  proxyOn,
  startTraffic,
  stopTraffic,
} from '../../src/demo/actions.ts';
import { until, wait } from '../../src/demo/mesh.ts';
import { createTestMesh, reasonToSkipMesh, untilCaptured } from './harness.ts';

const DENY = `apiVersion: nodemesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: after-the-agent, namespace: shop }
spec:
  selector: { matchLabels: { app: db } }
  action: DENY
  rules:
    - from: [{ source: { principals: ["cluster.local/ns/shop/sa/web"] } }]
`;

t.test(
  'agents killed on both nodes under load: nothing lost, the same workers, and policies go on',
  { skip: reasonToSkipMesh() },
  async (t) => {
    const running = await createTestMesh(t);
    const proxies = ['node-a', 'node-b'].map((node) => proxyOn(running, node));
    const workers = (): number[][] => proxies.map((proxy) => childrenOf(proxy, 'worker'));
    const agents = (): number[] => proxies.flatMap((proxy) => childrenOf(proxy, 'agent'));
    await holdOpen(running, 'long');
    const before = { workers: workers(), agents: agents() };
    await startTraffic(running, 'load');
    await wait(500);
    for (const pid of before.agents) process.kill(pid, 'SIGKILL');
    await until('other agents run', 10_000, () => {
      const now = agents();
      return now.length === 2 && now.every((pid) => !before.agents.includes(pid));
    });
    await untilCaptured(running, 4);
    await wait(1000);
    const load = await stopTraffic(running, 'load');
    t.same(load.errors, [], describeLoad(load));
    t.equal(load.failed, 0);
    t.match(await holdCounts(running, 'long'), { open: LONG_CONNECTIONS, lost: 0, wrong: 0 });
    t.same(workers(), before.workers, 'the same worker processes');

    running.mesh.writeManifest('deny.yaml', DENY);
    const ms = await until('a policy made after it applies', 5000, async () => {
      return (await holdCounts(running, 'long')).open === 0;
    });
    t.ok(ms < 1500, `live connections closed after ${Math.round(ms)} ms`);
    t.notOk((await probeFrom(running, 'web', DB)).ok, 'new ones are refused');
    await until('the log names the policy', 3000, () => {
      return logLines(running, 'shop/after-the-agent').length > 0;
    });
  },
);
