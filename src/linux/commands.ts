/**
 * `nft` and `ip` as child processes inside a network namespace: input on stdin, output bounded, time bounded,
 * and a failure that says what the program said. Node forks on the calling thread before `spawn` returns, so
 * a child started inside `runInNamespace` is in that namespace (tried with `spawn` and `spawnSync`).
 */

import { spawn, type ChildProcess } from 'node:child_process';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { runInNamespace, type NetworkNamespace } from './namespaces.ts';
import type { Native } from './native.ts';

export const COMMAND_TIMEOUT_MS = 10_000;
export const COMMAND_OUTPUT_MAX_BYTES: number = 4 * 1024 * 1024;
/** How much of a failed program's stderr the error carries. */
const STDERR_SHOWN_MAX = 2_000;
/** The environment of every child: nothing of ours is passed on. */
const ENVIRONMENT = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' } as const;

export interface CommandOptions {
  /** Namespace to run in; default the process's own. */
  readonly namespace?: NetworkNamespace;
  /** What the program reads on stdin; default nothing. */
  readonly input?: string;
  /** After it the program is killed. Default 10 s. */
  readonly timeoutMs?: number;
  /** More than this on stdout or stderr ends the program. Default 4 MiB. */
  readonly outputMaxBytes?: number;
}

export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs `program` (no shell) to its end. Rejects with `MESH_COMMAND_FAILED` when it cannot start, fails, is
 * killed, takes too long or prints too much; `details` have `program`, `args`, `exit`, `stderr`.
 */
export function runCommand(
  native: Native,
  clock: Clock,
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const shown = `"${program} ${args.join(' ')}"`;
  const start = (): ChildProcess =>
    spawn(program, [...args], { env: ENVIRONMENT, stdio: 'pipe', cwd: '/' });
  const maxBytes = options.outputMaxBytes ?? COMMAND_OUTPUT_MAX_BYTES;
  const timeoutMs = options.timeoutMs ?? COMMAND_TIMEOUT_MS;
  return new Promise((resolve, reject) => {
    const child =
      options.namespace === undefined ? start() : runInNamespace(native, options.namespace, start);
    let ending: string | undefined;
    child.on('error', (error) => {
      ending ??= error.message;
      // A child that never started emits no `close`.
      if (child.pid === undefined) finish(null, null);
    });
    const stdout = collect(child.stdout, maxBytes, () => end('printed too much'));
    const stderr = collect(child.stderr, maxBytes, () => end('printed too much'));
    const timer = clock.after(timeoutMs, () => end(`took longer than ${timeoutMs} ms`));
    const end = (reason: string): void => {
      ending ??= reason;
      child.kill('SIGKILL');
    };
    const finish = (exit: number | null, signal: string | null): void => {
      timer.cancel();
      const result = { stdout: stdout(), stderr: stderr() };
      if (exit === 0 && ending === undefined) {
        resolve(result);
        return;
      }
      const reason = ending ?? (signal === null ? `exit ${exit}` : `killed by ${signal}`);
      const said = result.stderr.trim().slice(0, STDERR_SHOWN_MAX);
      const message = `Cannot run ${shown}: ${reason}${said === '' ? '' : `: ${said}`}`;
      const details = { program, args, exit, stderr: said };
      reject(new MeshError('MESH_COMMAND_FAILED', message, { details }));
    };
    child.once('close', finish);
    // EPIPE when the program does not read its input: its exit status tells the story.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input ?? '');
  });
}

/** Gathers a stream; returns a function that answers what came. */
function collect(
  stream: NodeJS.ReadableStream | null,
  maxBytes: number,
  onTooMuch: () => void,
): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream?.on('error', () => {});
  stream?.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size > maxBytes) onTooMuch();
    else chunks.push(chunk);
  });
  return () => Buffer.concat(chunks).toString('utf8');
}
