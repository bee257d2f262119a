/** The cases: one timed run of one subject, and its memory, as metrics. */

import type { CaseName } from './options.ts';
import { runIperf, runWrk } from './load.ts';
import { cpuSeconds, memoryOf, type Memory } from './process-usage.ts';
import type { Subject } from './subject.ts';

export const METRICS = ['gbit_per_s', 'cpu_s_per_gb', 'rps', 'cpu_us', 'p99_ms', 'rss_mb'] as const;
export type Metric = (typeof METRICS)[number];
export type Sample = ReadonlyMap<Metric, number>;

/** A gigabit per second and more never costs two proxies less than this; so little means it went past them. */
const CPU_SHARE_MIN = 0.01;

/** CPU seconds of the subject's processes while `work` ran. A process that ends meanwhile is a failure. */
async function withCpu<T>(
  subject: Subject,
  work: () => Promise<T>,
): Promise<{ readonly result: T; readonly cpuS: number }> {
  const pids = subject.processes();
  const before = pids.map(cpuSeconds);
  const startMs = performance.now();
  const result = await work();
  const elapsedS = (performance.now() - startMs) / 1000;
  const cpuS = pids.reduce((sum, pid, index) => sum + cpuSeconds(pid) - (before[index] ?? 0), 0);
  if (pids.length > 0 && cpuS < elapsedS * CPU_SHARE_MIN) {
    throw new Error(`the traffic went past it: its processes used ${cpuS.toFixed(2)} s of CPU`);
  }
  return { result, cpuS };
}

function cpuMetric(subject: Subject, metric: Metric, value: number): [Metric, number][] {
  return subject.processes().length === 0 ? [] : [[metric, value]];
}

/** What one node's processes hold together, by their proportional shares. */
export function memorySample(subject: Subject): Sample {
  const pids = [...subject.memoryProcesses().values()];
  if (pids.length === 0) return new Map();
  return new Map([['rss_mb', pids.reduce((sum, pid) => sum + memoryOf(pid).pssMb, 0)]]);
}

export type TimedCase = Exclude<CaseName, 'idle'>;

export async function runTimed(
  name: TimedCase,
  subject: Subject,
  seconds: number,
  signal: AbortSignal,
): Promise<Sample> {
  const streams = async (count: number, service: 'iperf' | 'same-node-iperf'): Promise<Sample> => {
    const { result, cpuS } = await withCpu(subject, () =>
      runIperf(subject.clientNetns, subject.address(service), count, seconds, signal),
    );
    return new Map([
      ['gbit_per_s', result.gbitPerS],
      ...cpuMetric(subject, 'cpu_s_per_gb', cpuS / (result.bytes / 1e9)),
      ...memorySample(subject),
    ]);
  };
  const requests = async (connections: number, close: boolean): Promise<Sample> => {
    const to = subject.address('http');
    const { result, cpuS } = await withCpu(subject, () =>
      runWrk(subject.clientNetns, to, { connections, close }, seconds, signal),
    );
    return new Map([
      ['rps', result.rps],
      ...cpuMetric(subject, 'cpu_us', (cpuS * 1e6) / result.requests),
      ['p99_ms', result.p99Ms],
      ...memorySample(subject),
    ]);
  };
  switch (name) {
    case 'iperf-1':
      return streams(1, 'iperf');
    case 'iperf-8':
      return streams(8, 'iperf');
    case 'samenode-1':
      return streams(1, 'same-node-iperf');
    case 'keepalive-16':
      return requests(16, false);
    case 'keepalive-128':
      return requests(128, false);
    case 'newconn-16':
      return requests(16, true);
  }
}

/** Memory of each process of one node, by role, for the page under the table. */
export function memoryByRole(subject: Subject): Map<string, Memory> {
  return new Map([...subject.memoryProcesses()].map(([role, pid]) => [role, memoryOf(pid)]));
}
