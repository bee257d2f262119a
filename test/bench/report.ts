/** Medians, the printed table, the aims beside what was measured, and the JSON file. */

import { arch, cpus, release } from 'node:os';

import { CASES, SUBJECTS, type CaseName, type SubjectName } from './options.ts';
import { METRICS, type Metric, type Sample } from './measure.ts';
import type { Memory } from './process-usage.ts';

export interface Row {
  readonly case: CaseName;
  readonly subject: SubjectName;
  readonly metric: Metric;
  readonly value: number;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

/** Samples of every round, by case and subject. */
export class Samples {
  readonly #values = new Map<string, number[]>();

  #list(name: CaseName, subject: SubjectName, metric: Metric): number[] {
    const key = `${name} ${subject} ${metric}`;
    const known = this.#values.get(key) ?? [];
    this.#values.set(key, known);
    return known;
  }

  add(name: CaseName, subject: SubjectName, sample: Sample): void {
    for (const [metric, value] of sample) this.#list(name, subject, metric).push(value);
  }

  /** All values of one metric over the rounds. */
  of(name: CaseName, subject: SubjectName, metric: Metric): readonly number[] {
    return this.#values.get(`${name} ${subject} ${metric}`) ?? [];
  }

  /** The medians, in the order of cases, subjects and metrics. */
  rows(): Row[] {
    const rows: Row[] = [];
    for (const name of CASES) {
      for (const subject of SUBJECTS) {
        for (const metric of METRICS) {
          const values = this.of(name, subject, metric);
          if (values.length === 0) continue;
          const value = Number(median(values).toPrecision(5));
          rows.push({ case: name, subject, metric, value });
        }
      }
    }
    return rows;
  }
}

function valueOf(rows: readonly Row[], name: string, subject: string, metric: Metric): number {
  const found = rows.find(
    (row) => row.case === name && row.subject === subject && row.metric === metric,
  );
  return found?.value ?? Number.NaN;
}

/** One line per case and subject; the last column is the range of the first metric over the rounds. */
export function formatTable(samples: Samples): string {
  const rows = samples.rows();
  const header = ['case', 'subject', 'Gbit/s', 'CPU s/GB', 'req/s', 'CPU µs', 'p99 ms', 'PSS MB'];
  const lines: string[][] = [[...header, 'range']];
  for (const name of CASES) {
    for (const subject of SUBJECTS) {
      const cells = METRICS.map((metric) =>
        formatValue(metric, valueOf(rows, name, subject, metric)),
      );
      if (cells.every((cell) => cell === '')) continue;
      const main = METRICS.find((metric) => samples.of(name, subject, metric).length > 0);
      const values = main === undefined ? [] : samples.of(name, subject, main);
      const ends = [Math.min(...values), Math.max(...values)];
      const range = main === undefined ? '' : ends.map((end) => formatValue(main, end)).join('–');
      lines.push([name, subject, ...cells, range]);
    }
  }
  return formatColumns(lines);
}

function formatValue(metric: Metric, value: number): string {
  if (Number.isNaN(value)) return '';
  if (metric === 'rps') return value.toFixed(0);
  return value.toFixed(metric === 'cpu_us' || metric === 'rss_mb' ? 1 : 2);
}

function formatColumns(lines: readonly (readonly string[])[]): string {
  const widths = lines[0]?.map((_, index) =>
    Math.max(...lines.map((line) => line[index]?.length ?? 0)),
  );
  return lines
    .map((line) =>
      line
        .map((cell, index) => {
          const width = widths?.[index] ?? 0;
          return index < 2 ? cell.padEnd(width) : cell.padStart(width);
        })
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

interface Aim {
  readonly case: CaseName;
  readonly metric: Metric;
  /** The measured value over HAProxy's, or by itself. */
  readonly over: 'haproxy' | 'haproxy-full' | 'nothing';
  readonly limit: number;
  readonly isLowerBetter: boolean;
}

const UNITS: Readonly<Record<Aim['over'], string>> = {
  haproxy: ' × HAProxy',
  'haproxy-full': ' × HAProxy without resumption',
  nothing: ' MB',
};

const AIMS: readonly Aim[] = [
  ...(['iperf-1', 'iperf-8'] as const).map((name) => atLeast(name, 'gbit_per_s', 1.1)),
  ...(['keepalive-16', 'keepalive-128'] as const).flatMap((name) => [
    atLeast(name, 'rps', 1.2),
    { ...atLeast(name, 'cpu_us', 0.75), isLowerBetter: true },
  ]),
  atLeast('newconn-16', 'rps', 4),
  { ...atLeast('newconn-16', 'rps', 4), over: 'haproxy-full' },
  atLeast('samenode-1', 'gbit_per_s', 1.8),
  { case: 'idle', metric: 'rss_mb', over: 'nothing', limit: 90, isLowerBetter: true },
];

function atLeast(name: CaseName, metric: Metric, limit: number): Aim {
  return { case: name, metric, over: 'haproxy', limit, isLowerBetter: false };
}

/** Each aim with what was measured; an aim that was not measured is left out. */
export function formatAims(rows: readonly Row[]): string {
  const lines: string[][] = [['aim', 'metric', 'wanted', 'measured', '']];
  for (const aim of AIMS) {
    const ours = valueOf(rows, aim.case, 'nodemesh', aim.metric);
    const divisor = aim.over === 'nothing' ? 1 : valueOf(rows, aim.case, aim.over, aim.metric);
    const measured = ours / divisor;
    if (Number.isNaN(measured)) continue;
    const isReached = aim.isLowerBetter ? measured <= aim.limit : measured >= aim.limit;
    const unit = UNITS[aim.over];
    const wanted = `${aim.isLowerBetter ? '≤' : '≥'} ${aim.limit}${unit}`;
    lines.push([aim.case, aim.metric, wanted, measured.toFixed(2), isReached ? 'reached' : 'not']);
  }
  return lines.length === 1 ? '' : formatColumns(lines);
}

/**
 * What the processes of one node hold. Proportional shares (PSS) flatter a machine on which the same program
 * runs many times, so the last line says what they would hold alone: own pages plus the program's files once.
 */
export function formatMemory(subject: SubjectName, roles: ReadonlyMap<string, Memory>): string {
  const all = [...roles.values()];
  const ownMb = all.reduce((sum, { anonymousMb }) => sum + anonymousMb, 0);
  const filesMb = Math.max(...all.map(({ fileMb }) => fileMb));
  const parts = [...roles].map(
    ([role, { pssMb, anonymousMb }]) =>
      `${role} ${pssMb.toFixed(1)} (own pages ${anonymousMb.toFixed(1)})`,
  );
  const alone = (ownMb + filesMb).toFixed(1);
  return `${subject} memory idle, PSS in MB: ${parts.join(', ')}; alone on a machine about ${alone}`;
}

export function describeMachine(haproxyVersion: string): string {
  const processors = cpus();
  const model = processors[0]?.model.trim() ?? 'unknown CPU';
  const system = `Linux ${release()} ${arch()}`;
  return `${processors.length} × ${model}, ${system}, Node ${process.version}, HAProxy ${haproxyVersion}`;
}
