/** Runs programs in network namespaces: the load tools to their end, the servers in the background. */

import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';

const OUTPUT_MAX = 4 * 1024 * 1024;

export interface ToolResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program in a namespace to its end; killed when `signal` fires or `timeoutMs` is over. */
export function runTool(
  netns: string,
  args: readonly string[],
  timeoutMs: number,
  signal: AbortSignal,
): Promise<ToolResult> {
  return new Promise((resolve, reject) => {
    const child = spawn('nsenter', [`--net=${netns}`, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      signal,
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    });
    let stdout = '';
    let stderr = '';
    child.on('error', reject);
    child.stdout.on('error', reject);
    child.stderr.on('error', reject);
    child.stdout.on('data', (chunk: Buffer) => {
      if (stdout.length < OUTPUT_MAX) stdout += chunk.toString('latin1');
    });
    child.stderr.on('data', (chunk: Buffer) => {
      if (stderr.length < OUTPUT_MAX) stderr += chunk.toString('latin1');
    });
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** Starts a program that runs until the bench ends. nsenter becomes it, so the pid is the program's own. */
export function startServer(netns: string, args: readonly string[], logFile: string): ChildProcess {
  const log = openSync(logFile, 'a');
  const child = spawn('nsenter', [`--net=${netns}`, ...args], { stdio: ['ignore', log, log] });
  child.on('error', () => {});
  closeSync(log);
  return child;
}
