/**
 * The test runner: `node test/support/run.ts [--soak] [--timeout=SECONDS] [FILE|FOLDER …]`.
 *
 * Runs every test file in a Node process of its own and reads its TAP. Three phases: unit and property files two
 * at a time, then `test/e2e` and `test/conformance` strictly one by one, for they share the machine's network, last
 * `test/cluster` one by one, on one real cluster that is there for all of them.
 * Prints one line per file, everything a failed file said, each skip with its reason, and last
 * `N passed, N failed, N skipped`. Exits with 1 on any failure, on a file that hangs, and when nothing matched.
 *
 * Files run under plain Node, not under the `tap` command: that puts a loader and `--no-warnings` into
 * NODE_OPTIONS of every descendant, which falsifies the memory and stderr of the daemons under test.
 */

import { spawn, type ChildProcess } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import { relative, resolve, sep } from 'node:path';

import { startTier } from '../cluster/tier.ts';
import { readTap, type FileReport } from './tap-report.ts';

const UNIT_JOBS = 2;
const UNIT_TIMEOUT_S = 60;
const SLOW_TIMEOUT_S = 300;
const SOAK_TIMEOUT_S = 3600;
/** What builds a suite from its modules first. */
const SUITE_TIMEOUT_S = 1800;
/** Past tap's own time limit, which reports what was open; then the process group is killed. */
const KILL_GRACE_S = 2;
/** A process killed a moment before its parent ended needs this long to be gone. */
const ORPHAN_GRACE_MS = 300;
const OUTPUT_MAX_BYTES = 8 * 1024 * 1024;
const SUITES = /^test\/cluster\/gateway-api\./;
const SLOW = /^test\/(?:e2e|conformance|soak|cluster)\//;
const ON_CLUSTER = /^test\/(?:cluster\/|soak\/cluster)/;

interface Outcome {
  readonly file: string;
  readonly report: FileReport;
  readonly output: string;
  readonly seconds: number;
}

interface Request {
  readonly soak: boolean;
  readonly timeoutS: number | undefined;
  readonly filters: readonly string[];
}

const running = new Set<ChildProcess>();
/** Takes the cluster down, once there is one. */
let endTier = async (): Promise<void> => {};

function killGroup(child: ChildProcess, signal: NodeJS.Signals): boolean {
  if (child.pid === undefined) return false;
  try {
    return process.kill(-child.pid, signal);
  } catch {
    return false;
  }
}

/** Names of the processes of a group that still run; zombies that nobody reaped are not among them. */
function liveMembers(group: number): string[] {
  return globSync('/proc/[0-9]*/stat').flatMap((path) => {
    let stat = '';
    try {
      stat = readFileSync(path, 'utf8');
    } catch {
      return [];
    }
    // `pid (name) state ppid pgrp …`; the name may hold spaces and parentheses.
    const [state, , pgrp] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (Number(pgrp) !== group || state === 'Z') return [];
    return [stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'))];
  });
}

function parseArguments(args: readonly string[]): Request {
  let timeoutS: number | undefined;
  const filters: string[] = [];
  for (const arg of args) {
    const timeout = /^--timeout=(\d+)$/.exec(arg)?.[1];
    if (timeout !== undefined) timeoutS = Number(timeout);
    else if (arg.startsWith('-') && arg !== '--soak') throw new Error(`Unknown option "${arg}"`);
    else if (arg !== '--soak') filters.push(relative('.', resolve(arg)));
  }
  return { soak: args.includes('--soak'), timeoutS, filters };
}

/** Files named outright count wherever they are; folders and no filter at all stay inside `test/`. */
function findFiles({ soak, filters }: Request): string[] {
  const all = globSync(soak ? 'test/soak/**/*.soak.ts' : 'test/**/*.test.ts').toSorted();
  if (filters.length === 0) return all;
  const chosen = new Set<string>();
  for (const filter of filters) {
    const isFile = filter.endsWith('.ts');
    const matches = isFile ? [filter] : all.filter((file) => file.startsWith(filter + sep));
    if (matches.length === 0) throw new Error(`No test file matches "${filter}"`);
    for (const match of matches) chosen.add(match);
  }
  return [...chosen];
}

function limitOf(file: string, request: Request): number {
  if (request.timeoutS !== undefined) return request.timeoutS;
  if (request.soak) return SOAK_TIMEOUT_S;
  if (SUITES.test(file)) return SUITE_TIMEOUT_S;
  return SLOW.test(file) ? SLOW_TIMEOUT_S : UNIT_TIMEOUT_S;
}

type Environment = Readonly<Record<string, string>>;

function runFile(file: string, timeoutS: number, more: Environment): Promise<Outcome> {
  const startMs = performance.now();
  const env = { ...process.env, ...more, TAP_TIMEOUT: String(timeoutS) };
  // Its own process group, so that whatever it started can be ended with it.
  const child = spawn(process.execPath, [file], {
    env,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  const { promise, resolve: settle } = Promise.withResolvers<Outcome>();
  const chunks: Buffer[] = [];
  const tap: Buffer[] = [];
  let bytes = 0;
  let trouble = '';
  const take = (chunk: Buffer, isTap: boolean): void => {
    bytes += chunk.length;
    if (bytes <= OUTPUT_MAX_BYTES) {
      chunks.push(chunk);
      if (isTap) tap.push(chunk);
      return;
    }
    trouble ||= `printed more than ${OUTPUT_MAX_BYTES} bytes`;
    killGroup(child, 'SIGKILL');
  };
  child.stdout.on('data', (chunk: Buffer) => take(chunk, true));
  child.stderr.on('data', (chunk: Buffer) => take(chunk, false));
  const timer = setTimeout(
    () => {
      trouble ||= `still running after ${timeoutS} s`;
      killGroup(child, 'SIGKILL');
    },
    (timeoutS + KILL_GRACE_S) * 1000,
  );
  child.on('error', (error) => {
    trouble ||= error.message;
  });
  // An orphan that holds the pipes would delay 'close' for ever, so orphans are ended soon after 'exit'.
  child.on('exit', () => {
    setTimeout(() => {
      const orphans = liveMembers(child.pid ?? 0);
      if (orphans.length === 0) return;
      trouble ||= `left processes behind: ${orphans.join(', ')}`;
      killGroup(child, 'SIGKILL');
    }, ORPHAN_GRACE_MS);
  });
  child.on('close', (code, signal) => {
    clearTimeout(timer);
    running.delete(child);
    if (signal !== null) trouble ||= `ended by ${signal}`;
    else if (code !== 0) trouble ||= `exit code ${code}`;
    const report = readTap(file, Buffer.concat(tap).toString(), trouble);
    const output = Buffer.concat(chunks).toString();
    settle({ file, report, output, seconds: (performance.now() - startMs) / 1000 });
  });
  return promise;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function printOutcome({ file, report, output, seconds }: Outcome): void {
  const { passed, failed, skipped, comments } = report;
  const counts = [`${passed} passed`];
  if (failed.length > 0) counts.push(`${failed.length} failed`);
  if (skipped.length > 0) counts.push(`${skipped.length} skipped`);
  const mark = failed.length > 0 ? 'FAIL' : ' ok ';
  print(`${mark} ${file}: ${counts.join(', ')} (${seconds.toFixed(1)} s)`);
  for (const skip of skipped) print(`     skipped ${skip.name}: ${skip.reason}`);
  for (const comment of comments) print(`     # ${comment}`);
  if (failed.length === 0) return;
  for (const name of failed) print(`     failed ${name}`);
  print(`---- all output of ${file}`);
  print(output.trimEnd());
  print(`---- end of ${file}`);
}

async function runAll(
  files: readonly string[],
  jobs: number,
  request: Request,
  env: Environment = {},
  explain: (file: string, startMs: number) => void = () => {},
): Promise<Outcome[]> {
  const queue = [...files];
  const outcomes: Outcome[] = [];
  const work = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const startMs = Date.now();
      const outcome = await runFile(file, limitOf(file, request), env);
      printOutcome(outcome);
      if (outcome.report.failed.length > 0) explain(file, startMs);
      outcomes.push(outcome);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return outcomes;
}

async function runOnCluster(files: readonly string[], request: Request): Promise<Outcome[]> {
  if (files.length === 0) return [];
  const startMs = performance.now();
  try {
    const tier = await startTier();
    endTier = () => tier.end();
    return await runAll(files, 1, request, tier.env, (file, sinceMs) => {
      const logs = tier.logsSince(sinceMs, file);
      if (logs === undefined) return;
      print(`---- logs of the mesh's pods meanwhile: ${logs.folder}`);
      for (const line of logs.warnings) print(line);
      print(`---- end of their last ${logs.warnings.length} warnings`);
    });
  } catch (error) {
    const output = String(error);
    const report = readTap('test/cluster', '', output);
    const outcome = { file: 'test/cluster', report, output, seconds: 0 };
    printOutcome({ ...outcome, seconds: (performance.now() - startMs) / 1000 });
    return [outcome];
  } finally {
    await endTier();
  }
}

async function main(): Promise<number> {
  const request = parseArguments(process.argv.slice(2));
  const files = findFiles(request);
  const onCluster = files.filter((file) => ON_CLUSTER.test(file));
  const slow = files.filter((file) => SLOW.test(file) && !ON_CLUSTER.test(file));
  const unit = files.filter((file) => !SLOW.test(file));
  const outcomes = [
    ...(await runAll(unit, UNIT_JOBS, request)),
    ...(await runAll(slow, 1, request)),
    ...(await runOnCluster(onCluster, request)),
  ];
  const sum = (count: (report: FileReport) => number): number => {
    return outcomes.reduce((total, { report }) => total + count(report), 0);
  };
  const failed = sum((report) => report.failed.length);
  if (files.length === 0) print('No test file found');
  for (const outcome of outcomes) {
    for (const name of outcome.report.failed) print(`failed: ${outcome.file}: ${name}`);
  }
  const skipped = sum((report) => report.skipped.length);
  print(`${sum((report) => report.passed)} passed, ${failed} failed, ${skipped} skipped`);
  return failed > 0 || files.length === 0 ? 1 : 0;
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    for (const child of running) killGroup(child, 'SIGKILL');
    void endTier().finally(() => process.exit(130));
  });
}
process.exitCode = await main().catch((error: unknown) => {
  print(error instanceof Error ? error.message : String(error));
  print('0 passed, 1 failed, 0 skipped');
  return 1;
});
