/** What a bench run is asked to do, of either half, and whether this machine has what it needs. */

import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { L7_CASES, L7_SUBJECTS, type L7Case, type SubjectName as L7Subject } from './l7-cases.ts';

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

/** `haproxy-full` makes a full TLS handshake for each connection; it runs in `newconn-16` alone. */
export const SUBJECTS = ['direct', 'haproxy', 'haproxy-full', 'nodemesh'] as const;
export type SubjectName = (typeof SUBJECTS)[number];

export interface BenchOptions {
  /** Length of one timed run. */
  readonly seconds: number;
  /** Runs of each case and subject; their median counts. Under three it is a trial. */
  readonly rounds: number;
  /** Of the L4 half; both are empty when it has nothing to do. */
  readonly cases: readonly CaseName[];
  readonly subjects: readonly SubjectName[];
  /** Of the HTTP half; both are empty when it has nothing to do. */
  readonly l7Cases: readonly L7Case[];
  readonly l7Subjects: readonly L7Subject[];
  /** Processes of a node proxy that carry traffic, and threads of a HAProxy. */
  readonly workers: number;
  /** Whether to write a CPU profile of one worker of each node per case. It costs speed. */
  readonly profile: boolean;
}

const ALL_CASES: readonly string[] = [...CASES, ...L7_CASES.map(({ name }) => name)];
const ALL_SUBJECTS: readonly string[] = [...new Set<string>([...SUBJECTS, ...L7_SUBJECTS])];

const USAGE = `Usage: make bench ARGS="[options]"
  --seconds N   length of one timed run (default 3, 1 to 60)
  --rounds N    runs per case and subject, alternating (default 3, 1 to 50)
  --only CASE   ${CASES.join(', ')},
                ${L7_CASES.map(({ name }) => name).join(', ')}; may be repeated
  --subject S   ${ALL_SUBJECTS.join(', ')}; may be repeated
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
  const isCase = chosen('only', values.only, ALL_CASES);
  const isSubject = chosen('subject', values.subject, ALL_SUBJECTS);
  const subjects = SUBJECTS.filter(isSubject);
  const cases = CASES.filter(
    (name) =>
      isCase(name) && subjects.some((one) => one !== 'haproxy-full' || name === 'newconn-16'),
  );
  const l7Cases = L7_CASES.filter((one) => isCase(one.name) && one.subjects.some(isSubject));
  const l7Subjects = L7_SUBJECTS.filter(
    (name) => isSubject(name) && l7Cases.some((one) => one.subjects.includes(name)),
  );
  if (cases.length + l7Cases.length === 0) {
    throw new Error('--only and --subject leave nothing to measure');
  }
  return {
    seconds: wholeNumber('seconds', values.seconds, 60),
    rounds: wholeNumber('rounds', values.rounds, 50),
    workers: wholeNumber('workers', values.workers, 64),
    cases,
    subjects: cases.length === 0 ? [] : subjects,
    l7Cases,
    l7Subjects,
    profile: values.profile,
  };
}

/** Of this process; options that make no sense end it with 64 and the usage. */
export function ownBenchOptions(): BenchOptions {
  try {
    return parseBenchOptions(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
    process.exit(64);
  }
}

function wholeNumber(name: string, text: string, max: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= max) return value;
  throw new Error(`--${name} must be a whole number from 1 to ${max}, not "${text}"`);
}

/** Whether a name was asked for; all are when none was. */
function chosen(
  option: string,
  wanted: readonly string[],
  known: readonly string[],
): (name: string) => boolean {
  const strange = wanted.find((one) => !known.includes(one));
  if (strange !== undefined) {
    throw new Error(`--${option} must be one of ${known.join(', ')}, not "${strange}"`);
  }
  return (name) => wanted.length === 0 || wanted.includes(name);
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
  ['h2load', 'nghttp2-client'],
  ['curl', 'curl'],
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
