/**
 * The demo's child processes: each runs inside a network namespace, writes its log to a file, and dies with
 * the demo. A run that was killed leaves processes behind; `killInNamespaces` finds them by their namespace.
 */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, openSync, closeSync, readdirSync } from 'node:fs';

import { MeshError } from '../base/errors.ts';
import type { PodAnswer, PodCommand } from './pod-commands.ts';
import type { PodMessage, PodRequest } from './pod-process.ts';

const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface ProcessOptions {
  readonly netns: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Standard output and error are appended here. */
  readonly logFile: string;
  readonly ipc: boolean;
}

export interface DemoProcess {
  readonly pid: number;
  readonly child: ChildProcess;
  readonly exited: Promise<number | string>;
  kill(signal: NodeJS.Signals): void;
}

/** Starts `node ARGS` in a namespace. The environment is exactly `env` and a fixed PATH. */
export function startProcess(options: ProcessOptions): DemoProcess {
  const log = openSync(options.logFile, 'a');
  // Whatever ends the demo, the kernel ends this too: it is no daemon.
  const prepare = ['--pdeathsig', 'KILL', 'nsenter', `--net=${options.netns}`];
  const child = spawn('setpriv', [...prepare, process.execPath, ...options.args], {
    env: { PATH: SYSTEM_PATH, ...options.env },
    stdio: ['ignore', log, log, ...(options.ipc ? (['ipc'] as const) : [])],
  });
  const exited = new Promise<number | string>((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('exit', (code, signal) => resolve(signal ?? code ?? 'unknown'));
  });
  closeSync(log);
  if (child.pid === undefined) {
    throw new MeshError('MESH_COMMAND_FAILED', 'Cannot start "setpriv": is util-linux installed?');
  }
  return { pid: child.pid, child, exited, kill: (signal) => void child.kill(signal) };
}

/** Kills whatever runs in namespaces whose names start with `prefix-`. */
export function killInNamespaces(prefix: string): void {
  if (!existsSync('/run/netns')) return;
  for (const name of readdirSync('/run/netns')) {
    if (!name.startsWith(`${prefix}-`)) continue;
    const listed = spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' });
    for (const line of listed.stdout.split('\n')) {
      const pid = Number(line);
      if (!Number.isInteger(pid) || pid <= 1 || pid === process.pid) continue;
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended by itself meanwhile.
      }
    }
  }
}

const ANSWER_TIMEOUT_MS = 30_000;

/** A demo pod's program, with its commands as calls. */
export interface PodProcess {
  readonly process: DemoProcess;
  ask<T extends PodAnswer>(command: PodCommand): Promise<T>;
}

export function startPodProcess(options: Omit<ProcessOptions, 'ipc'>): Promise<PodProcess> {
  const started = startProcess({ ...options, ipc: true });
  const waiting = new Map<number, (answer: PodAnswer) => void>();
  let ended: string | undefined;
  void started.exited.then((reason) => {
    ended = `Pod program ended: ${reason}`;
    for (const answer of waiting.values()) answer({ error: ended });
  });
  let nextId = 0;
  const pod: PodProcess = {
    process: started,
    ask<T extends PodAnswer>(command: PodCommand): Promise<T> {
      const request: PodRequest = { id: nextId++, command };
      return new Promise<T>((resolve, reject) => {
        if (ended !== undefined) throw new MeshError('MESH_COMMAND_FAILED', ended);
        const timer = setTimeout(() => {
          waiting.delete(request.id);
          reject(new MeshError('MESH_DEADLINE_EXCEEDED', `Pod did not answer "${command.kind}"`));
        }, ANSWER_TIMEOUT_MS);
        waiting.set(request.id, (answer) => {
          clearTimeout(timer);
          waiting.delete(request.id);
          if ('error' in answer) reject(new MeshError('MESH_COMMAND_FAILED', answer.error));
          else resolve(answer as T);
        });
        started.child.send(request);
      });
    },
  };
  return new Promise((resolve, reject) => {
    started.child.on('message', (message: PodMessage) => {
      if (message.kind === 'ready') resolve(pod);
      else waiting.get(message.id)?.(message.answer);
    });
    void started.exited.then((reason) =>
      reject(new MeshError('MESH_COMMAND_FAILED', `Pod program ended: ${reason}`)),
    );
  });
}
