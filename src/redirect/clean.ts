/**
 * Takes away what the mesh has left in network namespaces: for the end of an installation, when nobody is there any more
 * who could. It looks at every namespace that a process of this node is in, whosever it is, and touches only what
 * stands under our names.
 */

import { readdirSync, readlinkSync } from 'node:fs';

import { runCommand } from '../linux/commands.ts';
import { openNamespace, type NetworkNamespace } from '../linux/namespaces.ts';
import type { RedirectContext } from './context.ts';
import { createProbeRules } from './probes.ts';
import { formatPodRulesRemoval, formatRouteRemoval, RULE_TABLE } from './rules.ts';

export interface CleanReport {
  /** Namespaces that had rules of ours. */
  readonly cleaned: number;
  /** What could not be taken away, in words. */
  readonly failures: readonly string[];
}

/** One path for every network namespace that a process is in. */
export function namespacePaths(procDir: string = '/proc'): string[] {
  const found = new Map<string, string>();
  for (const pid of readdirSync(procDir)) {
    if (!/^\d+$/.test(pid)) continue;
    const path = `${procDir}/${pid}/ns/net`;
    try {
      found.set(readlinkSync(path), path);
    } catch {
      // It ended meanwhile, or is a zombie.
    }
  }
  return [...found.values()];
}

async function hasRules(context: RedirectContext, namespace: NetworkNamespace): Promise<boolean> {
  const { native, clock } = context;
  const args = ['list', 'table', ...RULE_TABLE.split(' ')];
  try {
    await runCommand(native, clock, 'nft', args, { namespace });
    return true;
  } catch {
    // nft fails for a table that is not there.
    return false;
  }
}

async function cleanNamespace(
  context: RedirectContext,
  namespace: NetworkNamespace,
): Promise<boolean> {
  if (!(await hasRules(context, namespace))) return false;
  const { native, clock } = context;
  await runCommand(native, clock, 'nft', ['-f', '-'], {
    namespace,
    input: formatPodRulesRemoval(),
  });
  for (const family of ['-4', '-6']) {
    const args = [family, '-force', '-batch', '-'];
    // Half of it may be gone already; what counts is that nothing redirects.
    await runCommand(native, clock, 'ip', args, { namespace, input: formatRouteRemoval() }).catch(
      () => undefined,
    );
  }
  return true;
}

/** Never rejects. */
export async function cleanNamespaces(
  context: RedirectContext,
  paths: readonly string[],
): Promise<CleanReport> {
  const failures: string[] = [];
  let cleaned = 0;
  const note = (what: string, error: unknown): void => {
    failures.push(`${what}: ${error instanceof Error ? error.message : String(error)}`);
  };
  for (const path of paths) {
    try {
      const namespace = openNamespace(context.native, path);
      try {
        if (await cleanNamespace(context, namespace)) cleaned += 1;
      } finally {
        namespace.close();
      }
    } catch (error) {
      note(path, error);
    }
  }
  await createProbeRules(context)
    .remove()
    .catch((error: unknown) => note("the node's own namespace", error));
  return { cleaned, failures };
}
