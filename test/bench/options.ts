/** What a bench run is asked to do, and whether this machine has what it needs. */

import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';

export const CASES = [
  'iperf-1',
  'iperf-8',
  'keepalive-16',
  'keepalive-128',
  'newconn-16',
  'samenode-1',
  'idle',
] as const;
export type CaseName = (typeof CASES)[number];

export const SUBJECTS = ['direct', 'haproxy', 'nodemesh'] as const;
export type SubjectName = (typeof SUBJECTS)[number];

export interface BenchOptions {
  /** Length of one timed run. */
  readonly seconds: number;
  /** Runs of each case and subject; their median counts. Under three it is a trial. */
  readonly rounds: number;
  readonly cases: readonly CaseName[];
  readonly subjects: readonly SubjectName[];
  /** Processes of a node proxy that carry traffic, and threads of a HAProxy. */
  readonly workers: number;
  /** Whether to write a CPU profile of one worker of each node per case. It costs speed. */
  readonly profile: boolean;
}

export const USAGE = `Usage: make bench ARGS="[options]"
  --seconds N   length of one timed run (default 3, 1 to 60)
  --rounds N    runs per case and subject, alternating (default 3, 1 to 50)
  --only CASE   ${CASES.join(', ')}; may be repeated
  --subject S   ${SUBJECTS.join(', ')}; may be repeated
  --workers N   worker processes and HAProxy threads (default 2, 1 to 64)
  --profile     CPU profiles of workers into test/bench/results/; slower, not for comparing`;

/** Throws an `Error` whose message is for the user. */
export function parseBenchOptions(args: readonly string[]): BenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seconds: { type: 'string', default: '3' },
      rounds: { type: 'string', default: '3' },
      workers: { type: 'string', default: '2' },
      only: { type: 'string', multiple: true, default: [] },
      subject: { type: 'string', multiple: true, default: [] },
      profile: { type: 'boolean', default: false },
    },
  });
  return {
    seconds: wholeNumber('seconds', values.seconds, 60),
    rounds: wholeNumber('rounds', values.rounds, 50),
    workers: wholeNumber('workers', values.workers, 64),
    cases: chosen('only', values.only, CASES),
    subjects: chosen('subject', values.subject, SUBJECTS),
    profile: values.profile,
  };
}

function wholeNumber(name: string, text: string, max: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= max) return value;
  throw new Error(`--${name} must be a whole number from 1 to ${max}, not "${text}"`);
}

/** All of `known` when nothing was asked for; always in the order of `known`. */
function chosen<T extends string>(
  name: string,
  wanted: readonly string[],
  known: readonly T[],
): T[] {
  const strange = wanted.find((one) => !known.some((candidate) => candidate === one));
  if (strange !== undefined) {
    throw new Error(`--${name} must be one of ${known.join(', ')}, not "${strange}"`);
  }
  return known.filter((one) => wanted.length === 0 || wanted.includes(one));
}

const FOLDERS = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
/** Program and the Debian package that brings it. */
const NEEDS = [
  ['ip', 'iproute2'],
  ['nft', 'nftables'],
  ['nsenter', 'util-linux'],
  ['sysctl', 'procps'],
  ['haproxy', 'haproxy'],
  ['iperf3', 'iperf3'],
  ['wrk', 'wrk'],
] as const;

/** Why the bench cannot run here, in a sentence that says what to do; undefined when it can. */
export function missingNeeds(): string | undefined {
  if (process.platform !== 'linux') return 'Cannot run the bench: it needs Linux';
  if (process.getuid?.() !== 0) return 'Cannot run the bench: network namespaces need root';
  const isMissing = (program: string): boolean =>
    !FOLDERS.some((folder) => existsSync(`${folder}/${program}`));
  const packages = NEEDS.filter(([program]) => isMissing(program)).map(([, name]) => name);
  if (packages.length === 0) return undefined;
  const command = `apt-get install ${packages.join(' ')}`;
  return `Cannot run the bench: programs are missing; as root run: ${command}`;
}
