/**
 * The program inside every demo pod: a small server and a client that does what it is told over IPC. It knows
 * nothing of the mesh, as a user's program would not.
 *
 * Arguments: NAME VERSION PORT PROTOCOL, or NAME VERSION alone for a pod that only calls. `http` answers every
 * request with a line of JSON; `db` greets first and echoes lines (`say X` → `200 X`, `quit` → `221 bye`).
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
  | { readonly kind: 'hold-counts' | 'hold-stop'; readonly name: string };

export type PodAnswer = ProbeResult | LoadCounts | HoldCounts | { readonly error: string };
export interface PodRequest {
  readonly id: number;
  readonly command: PodCommand;
}
export type PodMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'answer'; readonly id: number; readonly answer: PodAnswer };

const LINE_MAX = 4096;

function httpApp(name: string, version: string): Server {
  return createHttpServer((request, response) => {
    const peer = request.socket.remoteAddress ?? '';
    response.setHeader('content-type', 'application/json');
    response.end(`${JSON.stringify({ app: name, version, peer })}\n`);
  });
}

function dbApp(name: string): Server {
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

const loads = new Map<string, Load>();
const holds = new Map<string, Hold>();

async function obey(command: PodCommand): Promise<PodAnswer> {
  switch (command.kind) {
    case 'probe':
      return probe(command.target, command.timeoutMs);
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
}

const [name = 'pod', version = 'v1', port, protocol] = process.argv.slice(2);
const say = (message: PodMessage): void => void process.send?.(message);
process.on('message', (request: PodRequest) => {
  void obey(request.command).then((answer) => say({ kind: 'answer', id: request.id, answer }));
});
process.on('disconnect', () => process.exit(0));
if (port === undefined) say({ kind: 'ready' });
else {
  const server = protocol === 'db' ? dbApp(name) : httpApp(name, version);
  server.on('error', () => process.exit(1));
  server.listen({ host: '::', port: Number(port), backlog: 1024 }, () => say({ kind: 'ready' }));
}
