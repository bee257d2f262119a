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

/** User and system time of every thread it had, in seconds. Throws when the process is gone. */
export function cpuSeconds(pid: number): number {
  const stat = readStat(pid);
  if (stat === undefined) throw new Error(`process ${pid} ended during the run`);
  return (Number(stat[11]) + Number(stat[12])) / TICKS_PER_SECOND;
}

/** `root` and all processes below it, as of now. */
export function processTree(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const parent = Number(readStat(pid)?.[1]);
    children.set(parent, [...(children.get(parent) ?? []), pid]);
  }
  const found = [root];
  for (const pid of found) found.push(...(children.get(pid) ?? []));
  return found;
}

export function commandLine(pid: number): string[] {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
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
