/** A real Redis or Valkey server for a test: on a port of its own, nothing on disk. */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';

const PROGRAMS = ['valkey-server', 'redis-server'];

/** The program's name, or undefined where none is installed. */
export function findServer(): string | undefined {
  return PROGRAMS.find((name) => spawnSync(name, ['--version']).status === 0);
}

export interface RunningServer {
  readonly url: string;
  /** SIGSTOP and SIGCONT: a server that holds its connections and says nothing. */
  readonly process: ChildProcess;
  stop(): Promise<void>;
}

export async function startServer(program: string, port: number): Promise<RunningServer> {
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'], cwd: '/tmp' });
  await new Promise<void>((resolve, reject) => {
    let text = '';
    child.on('error', reject);
    child.on('exit', () => reject(new Error(`${program} ended: ${text}`)));
    child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (/ready to accept connections/i.test(text)) resolve();
    });
  });
  return {
    url: `redis://127.0.0.1:${port}`,
    process: child,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    },
  };
}
