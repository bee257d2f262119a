/** One timed run of a load tool against one address, and what the tool says about it. */

import { runTool } from './tools.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** Beyond the run itself, for connecting and closing down. */
const EXTRA_MS = 15_000;

export interface StreamResult {
  readonly bytes: number;
  readonly gbitPerS: number;
}

/** iperf3 from the client to the server, `streams` connections at once. Throws when it failed. */
export async function runIperf(
  netns: string,
  to: Address,
  streams: number,
  seconds: number,
  signal: AbortSignal,
): Promise<StreamResult> {
  const counts = ['-P', String(streams), '-t', String(seconds)];
  const args = ['iperf3', '-J', '-c', to.host, '-p', String(to.port), ...counts];
  const { stdout, stderr } = await runTool(netns, args, seconds * 1000 + EXTRA_MS, signal);
  return parseIperf(stdout, stderr);
}

interface IperfReport {
  readonly error?: string;
  readonly end?: { readonly sum_received?: { bytes: number; bits_per_second: number } };
}

export function parseIperf(stdout: string, stderr: string): StreamResult {
  let report: IperfReport = {};
  try {
    report = JSON.parse(stdout) as IperfReport;
  } catch {
    // It was killed or could not start: stderr says more.
  }
  const sum = report.end?.sum_received;
  if (report.error !== undefined || sum === undefined || sum.bytes === 0) {
    const reason = report.error ?? (stderr.trim() || 'no bytes arrived in time');
    throw new Error(`iperf3: ${reason}`);
  }
  return { bytes: sum.bytes, gbitPerS: sum.bits_per_second / 1e9 };
}

export interface RequestResult {
  readonly requests: number;
  readonly rps: number;
  readonly p99Ms: number;
}

export interface HttpLoad {
  readonly connections: number;
  /** Whether each request gets a connection of its own. */
  readonly close: boolean;
}

/** wrk with two threads. Throws when it failed or answers were lost; late ones count for what they are. */
export async function runWrk(
  netns: string,
  to: Address,
  load: HttpLoad,
  seconds: number,
  signal: AbortSignal,
): Promise<RequestResult> {
  const counts = ['-t2', `-c${load.connections}`, `-d${seconds}s`];
  const headers = load.close ? ['-H', 'Connection: close'] : [];
  const url = `http://${to.host}:${to.port}/`;
  const args = ['wrk', '--latency', ...counts, ...headers, url];
  const { stdout, stderr } = await runTool(netns, args, seconds * 1000 + EXTRA_MS, signal);
  return parseWrk(stdout, stderr);
}

const UNIT_MS: ReadonlyMap<string, number> = new Map([
  ['us', 0.001],
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
]);

export function parseWrk(stdout: string, stderr: string): RequestResult {
  const requests = Number(/^\s*(\d+) requests in /m.exec(stdout)?.[1] ?? 0);
  const rps = Number(/^Requests\/sec:\s+([\d.]+)/m.exec(stdout)?.[1] ?? 0);
  const p99 = /^\s+99%\s+([\d.]+)(us|ms|s|m)\s*$/m.exec(stdout);
  if (requests === 0 || p99 === null) {
    throw new Error(`wrk: ${stderr.trim() || 'no request was answered in time'}`);
  }
  const lost = /^\s*(?:Socket errors: (?!connect 0, read 0, write 0)|Non-2xx).*$/m.exec(stdout);
  if (lost !== null) throw new Error(`wrk: ${lost[0].trim()}`);
  return { requests, rps, p99Ms: Number(p99[1]) * (UNIT_MS.get(p99[2] ?? '') ?? 1) };
}
