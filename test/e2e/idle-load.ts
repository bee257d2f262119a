/** Many idle connections from `web` to `db` through both proxies, and what each of them costs in memory. */

import { join } from 'node:path';

import type { Test } from 'tap';

import { childrenOf, podNamed, proxyOn } from '../../src/demo/actions.ts';
import { wait } from '../../src/demo/mesh.ts';
import { createTestMesh } from './harness.ts';
import { MIB, processorMs, residentBytes } from './process-usage.ts';
import { startSwarm } from './swarm.ts';

const PORT = 7003;
const IDLE_MS = 3000;

export async function testIdleConnections(
  t: Test,
  count: number,
  perConnectionMax: number,
): Promise<void> {
  const running = await createTestMesh(t);
  const web = podNamed(running, 'web').place;
  const db = podNamed(running, 'db').place;
  const log = join(running.dir, 'log', 'swarm.log');
  const server = await startSwarm(db, log, 'server', String(PORT));
  t.teardown(() => server.stop());
  const client = await startSwarm(web, log, 'client', db.ip, String(PORT));
  t.teardown(() => client.stop());

  const nodes = ['node-a', 'node-b'] as const;
  const pids = (node: string): number[] => childrenOf(proxyOn(running, node), 'worker');
  const memory = (node: string): number =>
    pids(node).reduce((bytes, pid) => bytes + residentBytes(pid), 0);
  const cpu = (): number => nodes.flatMap(pids).reduce((ms, pid) => ms + processorMs(pid), 0);

  // What a worker needs at its first connections is not what each connection costs.
  await client.ask({ kind: 'open', count: 50, parallel: 10, say: true });
  const before = nodes.map(memory);
  const started = performance.now();
  const opened = await client.ask({ kind: 'open', count: count - 50, parallel: 100, say: true });
  const rate = (count - 50) / ((performance.now() - started) / 1000);
  t.match(opened, { good: count, open: count, lost: 0, errors: [] });
  const cpuBefore = cpu();
  await wait(IDLE_MS);
  const idleCpu = (cpu() - cpuBefore) / IDLE_MS;
  const each = nodes.map((node, index) => (memory(node) - (before[index] ?? 0)) / (count - 50));
  const [atSource = 0, atDestination = 0] = each.map((bytes) => bytes / 1024);
  t.comment(
    `${count} idle connections: ${atSource.toFixed(1)} KiB each at the source, ${atDestination.toFixed(1)} KiB at the destination, ${(atSource + atDestination).toFixed(1)} KiB in both; opened ${rate.toFixed(0)} a second; ${(idleCpu * 100).toFixed(1)} % of a core while idle; workers ${nodes.map((node) => (memory(node) / MIB).toFixed(0)).join(' and ')} MiB`,
  );
  t.ok(atSource <= perConnectionMax, 'at the source');
  t.ok(atDestination <= perConnectionMax, 'at the destination');
  t.ok(idleCpu < 0.2, `${(idleCpu * 100).toFixed(1)} % of a core while idle`);

  const touched = await client.ask({ kind: 'touch', each: 20 });
  t.match(touched, { open: count, lost: 0 }, 'one in twenty still answers, none was lost');
  await client.ask({ kind: 'close' });
}
