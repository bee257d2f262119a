/** `meshctl proxy list`: every node's proxy, one line each. */

import type { Cluster } from '../cluster.ts';
import { EXIT, type CommandIo, type ExitCode } from '../io.ts';
import { writeList, type Column, type ListArgs } from '../list-report.ts';
import { selection } from '../selection.ts';
import type { NodeProxy } from '../survey/node-proxies.ts';
import { surveyMesh } from '../survey/survey.ts';
import { formatBytes, formatDuration } from '../table.ts';

function configOf({ answers }: NodeProxy): string | undefined {
  if (answers === undefined) return undefined;
  return answers.configAgeS > 0 ? `stale ${formatDuration(answers.configAgeS * 1000)}` : 'synced';
}

function readyOf({ ready, leaving, waiting }: NodeProxy): string {
  if (leaving) return 'drains';
  if (waiting !== undefined) return waiting.split(':')[0] ?? 'no';
  return ready ? 'yes' : 'no';
}

/** Also the table of `meshctl status`. */
export const PROXY_COLUMNS: readonly Column<NodeProxy>[] = [
  { head: 'NODE', cell: ({ node }) => node },
  { head: 'READY', cell: readyOf },
  { head: 'VERSION', cell: ({ version }) => version },
  { head: 'CONFIG', cell: configOf },
  { head: 'PODS', cell: podsOf },
  { head: 'CONNS', cell: ({ answers }) => answers && String(answers.connections) },
  { head: 'CPU', cell: ({ answers }) => answers?.cpuCores?.toFixed(2) },
  { head: 'MEM', cell: ({ answers }) => answers && formatBytes(answers.memoryBytes) },
  { head: 'LAG', cell: ({ answers }) => answers && `${Math.round(answers.lagS * 1000)} ms` },
  { head: 'RESTARTS', cell: ({ restarts }) => String(restarts) },
  { head: 'AGE', cell: ({ ageMs }) => formatDuration(ageMs) },
  { head: 'POD', cell: ({ pod }) => pod, wide: true },
  {
    head: 'CERTS',
    cell: ({ answers }) => answers && String(answers.certificates.length),
    wide: true,
  },
  { head: 'WAITS FOR', cell: ({ answers }) => answers?.blockers.join(', '), wide: true },
];

function podsOf({ answers }: NodeProxy): string | undefined {
  if (answers === undefined) return undefined;
  const { served, captured } = answers;
  return captured === served ? String(served) : `${served}/${captured}`;
}

/** Additive contract. */
export function proxyJson(proxy: NodeProxy): Record<string, unknown> {
  const { node, pod, ready, leaving, version, restarts, ageMs, waiting, answers } = proxy;
  return {
    node,
    pod,
    ready,
    draining: leaving,
    version,
    restarts,
    ageSeconds: Math.floor(ageMs / 1000),
    waiting,
    ...(answers && {
      configAgeSeconds: answers.configAgeS,
      podsWanted: answers.captured,
      podsServed: answers.served,
      connections: answers.connections,
      cpuCores: answers.cpuCores,
      memoryBytes: answers.memoryBytes,
      lagSeconds: answers.lagS,
      blockers: answers.blockers,
      certificates: answers.certificates.length,
    }),
  };
}

/** `-l` means the labels of nodes. */
export async function proxyList(
  args: ListArgs,
  io: CommandIo,
  cluster: Cluster,
): Promise<ExitCode> {
  const { nodeProxies, gaps } = await surveyMesh(cluster, io.now());
  const isSelected = await selection(cluster, '/api/v1/nodes', args.selector);
  const proxies = nodeProxies.proxies.filter(({ node }) => isSelected(node));
  const { desired = 0 } = nodeProxies;
  for (const { what, reason } of gaps) io.err(`could not find out: ${what}: ${reason}\n`);
  writeList(io, args, {
    kind: 'ProxyList',
    items: proxies,
    columns: PROXY_COLUMNS,
    json: proxyJson,
    name: ({ pod }) => `pod/${pod}`,
    empty: 'There are no node proxies; try: meshctl check\n',
  });
  const current = proxies.filter(({ leaving }) => !leaving);
  const isWhole = args.selector !== undefined || current.length >= desired;
  const allReady = isWhole && current.every(({ ready }) => ready);
  return allReady && proxies.length > 0 ? EXIT.good : EXIT.problem;
}
