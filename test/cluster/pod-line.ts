/** A program inside a pod of a cluster that does what it is told, over its standard streams. */

import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';

import type { PodAnswer, PodCommand } from '../../src/demo/pod-commands.ts';
import type {
  HoldCounts,
  LoadCounts,
  Protocol,
  ProbeResult,
  Target,
} from '../../src/demo/traffic.ts';
import type { ClusterAccess, PodPlace } from './cluster-access.ts';

const COMMAND = ['/usr/local/bin/node', '/app/test/cluster/pod-program.ts', 'obey'];
const ANSWER_TIMEOUT_MS = 60_000;
const PROBE_TIMEOUT_MS = 5000;

export interface PodLine {
  probe(target: Target, timeoutMs?: number): Promise<ProbeResult>;
  /** New connections, evenly spaced, round robin over the targets, until `loadStop`. */
  load(name: string, targets: readonly Target[], perSecond?: number): Promise<void>;
  loadCounts(name: string): Promise<LoadCounts>;
  loadStop(name: string): Promise<LoadCounts>;
  /** Long connections to a `db` target that keep exchanging lines, until `holdStop`. */
  hold(name: string, target: Target, count?: number): Promise<void>;
  holdCounts(name: string): Promise<HoldCounts>;
  holdStop(name: string): Promise<HoldCounts>;
  close(): void;
}

/** `web:8080` of this protocol. */
export function target(protocol: Protocol, host: string, port: number): Target {
  return { host, port, protocol };
}

interface Said {
  readonly ready?: true;
  readonly id?: number;
  readonly answer?: PodAnswer;
}

export async function openPodLine(access: ClusterAccess, place: PodPlace): Promise<PodLine> {
  const child: ChildProcess = await access.startInPod(place, COMMAND);
  const { stdin, stdout } = child;
  if (stdin === null || stdout === null) throw new Error('The program has no standard streams');
  const waiting = new Map<number, PromiseWithResolvers<PodAnswer>>();
  const ready = Promise.withResolvers<void>();
  // Whoever waits is told; nobody may be waiting.
  ready.promise.catch(() => {});
  const end = (reason: string): void => {
    const error = new Error(`The line to pod "${place.pod}" ended: ${reason}`);
    ready.reject(error);
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  child.on('error', (error) => end(error.message));
  child.on('exit', (code, signal) => end(String(signal ?? code)));
  stdin.on('error', (error) => end(error.message));
  createInterface({ input: stdout }).on('line', (line) => {
    const said = JSON.parse(line) as Said;
    if (said.ready === true) ready.resolve();
    else if (said.id !== undefined && said.answer !== undefined) {
      waiting.get(said.id)?.resolve(said.answer);
      waiting.delete(said.id);
    }
  });
  let nextId = 0;
  const ask = async <T extends PodAnswer>(command: PodCommand): Promise<T> => {
    const id = nextId++;
    const pending = Promise.withResolvers<PodAnswer>();
    waiting.set(id, pending);
    const timer = setTimeout(
      () => pending.reject(new Error(`Pod "${place.pod}" did not answer "${command.kind}"`)),
      ANSWER_TIMEOUT_MS,
    );
    stdin.write(`${JSON.stringify({ id, command })}\n`);
    try {
      const answer = await pending.promise;
      if ('error' in answer) throw new Error(answer.error);
      return answer as T;
    } finally {
      clearTimeout(timer);
    }
  };
  await ready.promise;
  return {
    probe: (target, timeoutMs = PROBE_TIMEOUT_MS) => ask({ kind: 'probe', target, timeoutMs }),
    async load(name, targets, perSecond = 20) {
      await ask({ kind: 'load', name, targets, perSecond, timeoutMs: 10_000 });
    },
    loadCounts: (name) => ask({ kind: 'load-counts', name }),
    loadStop: (name) => ask({ kind: 'load-stop', name }),
    async hold(name, target, count = 20) {
      await ask({ kind: 'hold', name, target, count });
    },
    holdCounts: (name) => ask({ kind: 'hold-counts', name }),
    holdStop: (name) => ask({ kind: 'hold-stop', name }),
    close: () => void child.kill('SIGKILL'),
  };
}
