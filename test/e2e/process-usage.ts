/** Memory and processor time of a process, read from /proc. */

import { readFileSync } from 'node:fs';

/** Resident bytes now. */
export function residentBytes(pid: number): number {
  const line = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(line?.[1] ?? 0) * 1024;
}

/** Processor time used so far, user and system, in milliseconds. */
export function processorMs(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const TICKS_PER_MS = 0.1;
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_MS;
}

export const MIB: number = 1024 * 1024;
