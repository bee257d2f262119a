/**
 * The one cluster that a run of the tests shares: brought up before the first file that needs it, gone after the last.
 * Used by the runner alone. What runs that were killed left is removed first.
 */

import { spawn } from 'node:child_process';
import { existsSync, globSync } from 'node:fs';

import { CLUSTER_PROGRAM, reasonAgainstCluster } from './cluster-access.ts';

/** Its id is `t` and the runner's process id, so that runs stand side by side. */
const ID_PREFIX = 't';
const STATE = '/var/tmp/nodemesh-cluster-';

export interface Tier {
  /** Environment for the test files. */
  readonly env: Readonly<Record<string, string>>;
  end(): Promise<void>;
}

function tool(id: string, ...args: readonly string[]): Promise<number> {
  return new Promise((resolve) => {
    const env = { ...process.env, CLUSTER_ID: id };
    const child = spawn(CLUSTER_PROGRAM, args, { env, stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('error', () => resolve(-1));
    child.on('exit', (code) => resolve(code ?? -1));
  });
}

/**
 * A cluster for these tests. Nothing to do when one is named (`CLUSTER_ID`, `KUBECONFIG`) or when there can be none:
 * then every test says itself why it is skipped. Throws when it cannot be brought up.
 */
export async function startTier(): Promise<Tier> {
  const nothing: Tier = { env: {}, end: async () => {} };
  if (process.env['CLUSTER_ID'] !== undefined || process.env['KUBECONFIG'] !== undefined)
    return nothing;
  const reason = reasonAgainstCluster();
  if (reason !== undefined) return { ...nothing, env: { NODEMESH_NO_CLUSTER: reason } };
  for (const path of globSync(`${STATE}${ID_PREFIX}*`)) {
    const id = path.slice(STATE.length);
    const pid = Number.parseInt(id.slice(ID_PREFIX.length), 36);
    if (!existsSync(`/proc/${pid}`)) await tool(id, 'down');
  }
  const id = `${ID_PREFIX}${process.pid.toString(36)}`;
  const end = async (): Promise<void> => void (await tool(id, 'down'));
  if ((await tool(id, 'up')) !== 0) {
    await end();
    throw new Error('The test cluster did not come up');
  }
  return { env: { CLUSTER_ID: id }, end };
}
