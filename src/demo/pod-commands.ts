/**
 * What a demo pod serves and what it does when told to, without the line over which it is told: the demo's pods are
 * told over IPC (`pod-process.ts`), those of a real cluster over their standard input.
 */

import { createServer as createHttpServer } from 'node:http';
import { createServer, type Server } from 'node:net';

import {
  probe,
  startHold,
  startLoad,
  type Hold,
  type HoldCounts,
  type Load,
  type LoadCounts,
  type ProbeResult,
  type Target,
} from './traffic.ts';

export type PodCommand =
  | { readonly kind: 'probe'; readonly target: Target; readonly timeoutMs: number }
  | {
      readonly kind: 'load';
      readonly name: string;
      readonly targets: readonly Target[];
      readonly perSecond: number;
      readonly timeoutMs: number;
    }
  | { readonly kind: 'load-counts' | 'load-stop'; readonly name: string }
  | {
      readonly kind: 'hold';
      readonly name: string;
      readonly target: Target;
      readonly count: number;
    }
  | { readonly kind: 'hold-counts' | 'hold-stop'; readonly name: string }
  /** From now on the HTTP app answers this share of its requests with 503. */
  | { readonly kind: 'fail'; readonly percent: number };

export type PodAnswer = ProbeResult | LoadCounts | HoldCounts | { readonly error: string };

const LINE_MAX = 4096;

/** How well an app is; shared by the app and the commands of its pod. */
export interface AppHealth {
  failPercent: number;
}

/** Answers every request with a line of JSON: who it is and whom it sees. Fails as often as it is told to. */
export function httpApp(name: string, version: string, health: AppHealth): Server {
  let failing = 0;
  return createHttpServer((request, response) => {
    const peer = request.socket.remoteAddress ?? '';
    failing += health.failPercent;
    response.setHeader('content-type', 'application/json');
    if (failing >= 100) {
      failing -= 100;
      response.statusCode = 503;
      response.end(`${JSON.stringify({ app: name, version, error: 'out of order' })}\n`);
      return;
    }
    response.end(`${JSON.stringify({ app: name, version, peer })}\n`);
  });
}

/** Greets first, then echoes lines: `say X` → `200 X`, `quit` → `221 bye`. */
export function dbApp(name: string): Server {
  return createServer({ allowHalfOpen: true }, (socket) => {
    let pending = '';
    socket.on('error', () => socket.destroy());
    socket.setEncoding('latin1');
    socket.write(`220 ${name} ready for ${socket.remoteAddress ?? ''}\n`);
    socket.on('data', (text: string) => {
      pending += text;
      if (pending.length > LINE_MAX) socket.destroy();
      for (let end = pending.indexOf('\n'); end >= 0; end = pending.indexOf('\n')) {
        const line = pending.slice(0, end);
        pending = pending.slice(end + 1);
        if (line === 'quit') socket.end('221 bye\n');
        else socket.write(`200 ${line.replace(/^say /, '')}\n`);
      }
    });
    socket.on('end', () => {
      if (!socket.writableEnded) socket.end();
    });
  });
}

/** What a pod does when told to; loads and long connections are kept by their names. */
export function createPodCommands(health: AppHealth): (command: PodCommand) => Promise<PodAnswer> {
  const loads = new Map<string, Load>();
  const holds = new Map<string, Hold>();
  return async (command) => {
    switch (command.kind) {
      case 'probe':
        return probe(command.target, command.timeoutMs);
      case 'fail':
        health.failPercent = command.percent;
        return { ok: true, text: '', durationMs: 0 };
      case 'load': {
        const load = startLoad(command.targets, command.perSecond, command.timeoutMs);
        loads.set(command.name, load);
        return load.counts();
      }
      case 'hold': {
        const hold = startHold(command.target, command.count);
        holds.set(command.name, hold);
        return hold.counts();
      }
      case 'load-counts':
      case 'load-stop': {
        const load = loads.get(command.name);
        if (load === undefined) return { error: `no load "${command.name}"` };
        if (command.kind === 'load-stop') loads.delete(command.name);
        return command.kind === 'load-stop' ? load.stop() : load.counts();
      }
      case 'hold-counts':
      case 'hold-stop': {
        const hold = holds.get(command.name);
        if (hold === undefined) return { error: `no hold "${command.name}"` };
        const counts = hold.counts();
        if (command.kind === 'hold-stop') {
          holds.delete(command.name);
          hold.stop();
        }
        return counts;
      }
    }
  };
}
