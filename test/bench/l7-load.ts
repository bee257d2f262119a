/** Load on one address: as much as there is, and at a constant rate; from a network namespace where there is one. */

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { L7Case } from './l7-cases.ts';
import { parseWrk, type Address } from './load.ts';
import { MESSAGE, type RateResult } from './rate-load.ts';

export interface Place extends Address {
  /** Where the client is; undefined: here. */
  readonly netns: string | undefined;
}

const RATE_LOAD = join(import.meta.dirname, 'rate-load.ts');

async function run({ netns }: Place, args: readonly string[]): Promise<string> {
  const [command = '', ...rest] =
    netns === undefined ? args : ['nsenter', `--net=${netns}`, ...args];
  const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString('latin1')));
  const code = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  if (code !== 0) throw new Error(`${args[0]} ended with ${String(code)}`);
  return output;
}

/** As many requests as the connections carry. */
export async function saturate(
  what: L7Case,
  place: Place,
  seconds: number,
): Promise<{ readonly requests: number; readonly rps: number }> {
  const url = `http://${place.host}:${place.port}/`;
  if (!what.grpc) {
    const args = ['wrk', '--latency', '-t1', `-c${what.connections}`, `-d${seconds}s`, url];
    return parseWrk(await run(place, args), '');
  }
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-bench-'));
  try {
    const body = join(folder, 'message');
    writeFileSync(body, MESSAGE);
    const shape = ['-t1', `-c${what.connections}`, `-m${what.streams}`, `-D${seconds}`];
    const grpc = ['-H', 'content-type: application/grpc', '-H', 'te: trailers', '-d', body];
    const output = await run(place, ['h2load', ...shape, '-p', 'h2c', ...grpc, url]);
    return parseH2load(output, seconds);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Throws when a request failed. */
export function parseH2load(
  output: string,
  seconds: number,
): { readonly requests: number; readonly rps: number } {
  const done = /(\d+) succeeded, (\d+) failed/.exec(output);
  const requests = Number(done?.[1] ?? 0);
  if (requests === 0 || Number(done?.[2]) > 0) {
    throw new Error(`h2load: ${done?.[0] ?? 'no request'}`);
  }
  return { requests, rps: requests / seconds };
}

/** At the case's rate. Throws when a request failed or was not answered. */
export async function pace(what: L7Case, place: Place, seconds: number): Promise<RateResult> {
  const counts = [what.connections, what.streams, what.rate, seconds].map(String);
  const protocol = what.grpc ? 'h2' : 'h1';
  const target = [place.host, String(place.port), protocol, ...counts];
  return JSON.parse(await run(place, [process.execPath, RATE_LOAD, ...target])) as RateResult;
}
