/**
 * Tells the CNI script that an agent lives, so that it asks about pods that may be enrolled by their own label, and
 * passes them at once when nobody would answer: a file with process id and start time, which the script
 * compares with `/proc`. Needs the host's process ids (`hostPID`); without them nobody seems to live.
 */

import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { startTimeOfStat } from './cgroup.ts';

/** How soon an agent notices that the one which announced itself after it is gone. */
export const PRESENCE_MS = 1_000;
const FILE = 'agent';

export interface Presence {
  stop(): void;
}

/** Announces this process in the spool folder, and again whenever the announced one has ended. */
export function announceAgent(
  dir: string,
  clock: Clock,
  logger: Logger,
  pid: number = process.pid,
): Presence {
  const path = join(dir, FILE);
  const startOf = (text: string): number | undefined => {
    try {
      return startTimeOfStat(readFileSync(`/proc/${text}/stat`, 'latin1'));
    } catch {
      return undefined;
    }
  };
  const own = startOf(String(pid));
  let failing = false;
  const announce = (): void => {
    try {
      writeFileSync(`${path}.${pid}`, `${pid} ${own ?? 0}\n`, { mode: 0o600 });
      renameSync(`${path}.${pid}`, path);
      failing = false;
    } catch (error) {
      if (!failing) logger.warn('cannot announce the agent to the CNI script', { error });
      failing = true;
    }
  };
  const isAnnounced = (): boolean => {
    try {
      const [, known = '', start = ''] = /^(\d+) (\d+)\n$/.exec(readFileSync(path, 'latin1')) ?? [];
      return known !== '' && startOf(known) === Number(start);
    } catch {
      return false;
    }
  };
  announce();
  const timer = clock.every(PRESENCE_MS, () => {
    if (!isAnnounced()) announce();
  });
  return { stop: () => timer.cancel() };
}
