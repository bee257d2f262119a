/** What processes cost: CPU time and memory, read from `/proc`. */

import { readdirSync, readFileSync } from 'node:fs';

/** USER_HZ: what `/proc/PID/stat` counts in, 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;
const KIB = 1024;
const MB = 1e6;

/** Fields of `/proc/PID/stat` from the third on; the second is a name that may hold spaces and brackets. */
function readStat(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/**
 * User and system time of every thread it had, in seconds, with that of its children that have ended (an agent's
 * `nft`). Throws when the process is gone.
 */
export function cpuSeconds(pid: number): number {
  const stat = readStat(pid);
  if (stat === undefined) throw new Error(`process ${pid} ended during the run`);
  const ticks = stat.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  return ticks / TICKS_PER_SECOND;
}

/** The processes that `parent` has started and that run now. */
export function childProcesses(parent: number): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && Number(readStat(pid)?.[1]) === parent);
}

/** Program and arguments; empty when the process is gone. */
export function commandLine(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
  } catch {
    return [];
  }
}

export interface Memory {
  /** Its share of what it maps, in MB of 10^6 bytes. Pages of a program that runs often are shared widely. */
  readonly pssMb: number;
  /** Pages that belong to no file, in MB: nobody shares them. */
  readonly anonymousMb: number;
  /** Resident pages of files (programs, libraries), in MB, shared or not. */
  readonly fileMb: number;
}

export function memoryOf(pid: number): Memory {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1');
  const value = (field: string): number => {
    const line = text.split('\n').find((candidate) => candidate.startsWith(`${field}:`));
    return (
      (Number(
        line
          ?.slice(field.length + 1)
          .trim()
          .split(' ')[0] ?? 0,
      ) *
        KIB) /
      MB
    );
  };
  const anonymousMb = value('Anonymous');
  return { pssMb: value('Pss'), anonymousMb, fileMb: value('Rss') - anonymousMb };
}
