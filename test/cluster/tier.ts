/**
 * The one cluster that a run of the tests shares: brought up before the first file that needs it, gone after the last.
 * Used by the runner alone. What runs that were killed left is removed first.
 */

import { spawn } from 'node:child_process';
import { existsSync, globSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';

import { keepLogs, type FailureLogs } from '../support/kept-logs.ts';
import { CLUSTER_PROGRAM, reasonAgainstCluster } from './cluster-access.ts';

/** Its id is `t` and the runner's process id, so that runs stand side by side. */
const ID_PREFIX = 't';
const STATE = '/var/tmp/nodemesh-cluster-';
const FAILURES = resolve(import.meta.dirname, '../../.cache/failures');

export interface Tier {
  /** Environment for the test files. */
  readonly env: Readonly<Record<string, string>>;
  /** What the mesh's pods wrote since then, copied to a folder named after the test file; for one that failed. */
  logsSince(sinceMs: number, file: string): FailureLogs | undefined;
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
  const nothing: Tier = { env: {}, logsSince: () => undefined, end: async () => {} };
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
  const down = async (): Promise<void> => void (await tool(id, 'down'));
  if ((await tool(id, 'up')) !== 0) {
    await down();
    throw new Error('The test cluster did not come up');
  }
  const logs = keepLogs(`${STATE}${id}`);
  return {
    env: { CLUSTER_ID: id },
    logsSince: (sinceMs, file) => logs.copy(sinceMs, join(FAILURES, basename(file, '.test.ts'))),
    async end() {
      logs.stop();
      await down();
    },
  };
}
