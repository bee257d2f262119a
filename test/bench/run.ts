/**
 * `make bench`: nodemesh beside a HAProxy mTLS pair and the direct path, in one run over the same network
 * namespaces, alternating the subjects so that a noisy machine hits all alike. It prints a table and writes
 * `results/latest.json`. It judges no timing: it fails only when a subject could not run.
 */

import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { createArena, type Arena } from './arena.ts';
import { memoryByRole, memorySample, runTimed, type TimedCase } from './measure.ts';
import { missingNeeds, ownBenchOptions, type BenchOptions } from './options.ts';
import { describeMachine, formatAims, formatMemory, formatTable, Samples } from './report.ts';
import type { Subject } from './subject.ts';

const RESULTS = join(import.meta.dirname, 'results');
/** For timers and first garbage collections of fresh processes to settle. */
const SETTLE_MS = 3000;

const say = (text: string): void => void process.stdout.write(`${text}\n`);

function haproxyVersion(): string {
  const { stdout } = spawnSync('haproxy', ['-v'], { encoding: 'utf8' });
  return /version ([\d.]+)/.exec(stdout)?.[1] ?? 'unknown';
}

/** Runs the timed cases of all subjects round by round. A subject that fails is told of and left out. */
async function measureAll(
  arena: Arena,
  options: BenchOptions,
  samples: Samples,
  signal: AbortSignal,
): Promise<void> {
  const alive = [...arena.subjects];
  const drop = (subject: Subject, what: string, error: unknown): void => {
    signal.throwIfAborted();
    arena.fail(subject.name, what, error);
    alive.splice(alive.indexOf(subject), 1);
  };
  const timed = options.cases.filter((name): name is TimedCase => name !== 'idle');
  if (timed.length === 0) return;
  for (const subject of arena.subjects) {
    await arena.warmUp(subject).catch((error: unknown) => drop(subject, 'warm-up', error));
  }
  for (const name of timed) {
    for (let round = 0; round < options.rounds; round++) {
      // Another one begins each round: the first run after a pause finds a cooler machine.
      const running = alive.filter((one) => one.name !== 'haproxy-full' || name === 'newconn-16');
      const shift = round % Math.max(running.length, 1);
      const order = [...running.slice(shift), ...running.slice(0, shift)];
      for (const subject of order) {
        try {
          const profiling = options.profile ? arena.profile(subject, name, RESULTS) : undefined;
          samples.add(name, subject.name, await runTimed(name, subject, options.seconds, signal));
          await profiling;
        } catch (error) {
          drop(subject, name, error);
        }
      }
    }
    say(`${name} done`);
  }
}

function measureIdle(arena: Arena, samples: Samples): string[] {
  const notes: string[] = [];
  for (const subject of arena.subjects) {
    const roles = memoryByRole(subject);
    if (roles.size === 0) continue;
    samples.add('idle', subject.name, memorySample(subject));
    notes.push(formatMemory(subject.name, roles));
  }
  return notes;
}

async function runBench(options: BenchOptions, signal: AbortSignal): Promise<number> {
  const samples = new Samples();
  let notes: string[] = [];
  say('setting up two nodes, their pods and the subjects');
  const arena = await createArena(options, signal);
  try {
    if (options.cases.includes('idle')) {
      await arena.pause(SETTLE_MS);
      notes = measureIdle(arena, samples);
    }
    await measureAll(arena, options, samples, signal);
  } finally {
    await arena.remove();
  }
  const rows = samples.rows();
  const machine = describeMachine(haproxyVersion());
  say(`\n${machine}`);
  const { seconds, rounds, workers } = options;
  say(`medians of ${rounds} runs of ${seconds} s, ${workers} workers or threads a proxy\n`);
  say(formatTable(samples));
  say(`\n${[formatAims(rows), ...notes].filter((text) => text !== '').join('\n\n')}`);
  mkdirSync(RESULTS, { recursive: true });
  const file = join(RESULTS, 'latest.json');
  writeFileSync(file, `${JSON.stringify({ machine, rows }, undefined, 2)}\n`);
  say(`\nwritten to ${file}`);
  for (const failure of arena.failures()) process.stderr.write(`${failure}\n`);
  if (arena.failures().length > 0) say(`the logs are in ${join(RESULTS, 'log')}`);
  return arena.failures().length > 0 ? 1 : 0;
}

async function main(): Promise<number> {
  const options = ownBenchOptions();
  if (options.cases.length === 0) return 0;
  const missing = missingNeeds();
  if (missing !== undefined) {
    process.stderr.write(`${missing}\n`);
    return 1;
  }
  const abort = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => abort.abort(new Error(`stopped by ${name}`)));
  }
  try {
    return await runBench(options, abort.signal);
  } catch (error) {
    const reason: unknown = abort.signal.aborted ? abort.signal.reason : error;
    process.stderr.write(`${reason instanceof Error ? reason.message : String(reason)}\n`);
    return abort.signal.aborted ? 130 : 1;
  }
}

process.exit(await main());
