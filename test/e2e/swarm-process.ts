/**
 * Many connections at once from or into one pod, in a process of its own so that its descriptors are not those of
 * the test. Talks over IPC: it is told one thing at a time and answers with its counts.
 *
 * Roles: `server PORT` echoes; `client HOST PORT` opens connections when told to.
 */

import { connect, createServer, type Socket } from 'node:net';

export type SwarmCommand =
  /**
   * Opens `count` more, `parallel` at a time; `say` expects an echo of a byte, otherwise silence. Answers when
   * all are open or lost, or at once in the `background`.
   */
  | {
      readonly kind: 'open';
      readonly count: number;
      readonly parallel: number;
      readonly say: boolean;
      readonly background?: boolean;
    }
  /** Says one byte on every `each`th connection and waits for the echoes. */
  | { readonly kind: 'touch'; readonly each: number }
  | { readonly kind: 'counts' }
  /** Closes all, or those that were `good` first. */
  | { readonly kind: 'close'; readonly only?: 'good' };

export interface SwarmCounts {
  readonly open: number;
  /** Connected, and answered if they said something. */
  readonly good: number;
  /** Ended by the other side or failed. */
  readonly lost: number;
  readonly errors: readonly string[];
}

const sockets = new Set<Socket>();
const served = new Set<Socket>();
const errors: string[] = [];
let good = 0;
let lost = 0;
const STEP_TIMEOUT_MS = 20_000;
const ERRORS_KEPT = 5;

function lose(socket: Socket, reason: string): void {
  served.delete(socket);
  if (!sockets.delete(socket)) return;
  lost++;
  if (errors.length < ERRORS_KEPT) errors.push(reason);
}

function openOne(host: string, port: number, say: boolean): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    sockets.add(socket);
    const timer = setTimeout(() => {
      lose(socket, 'no answer in time');
      socket.destroy();
    }, STEP_TIMEOUT_MS);
    let reason = 'ended by the other side';
    const succeed = (): void => {
      clearTimeout(timer);
      good++;
      served.add(socket);
      resolve();
    };
    socket.on('error', (error) => (reason = error.message));
    socket.on('connect', () => (say ? socket.write('x') : succeed()));
    socket.once('data', () => {
      if (say) succeed();
    });
    socket.on('close', () => {
      clearTimeout(timer);
      lose(socket, reason);
      resolve();
    });
  });
}

async function openMany(
  host: string,
  port: number,
  { count, parallel, say }: Extract<SwarmCommand, { kind: 'open' }>,
): Promise<void> {
  let left = count;
  const lane = async (): Promise<void> => {
    while (left-- > 0) await openOne(host, port, say);
  };
  await Promise.all(Array.from({ length: parallel }, lane));
}

function touch(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(() => {
      lose(socket, 'no echo in time');
      resolve();
    }, STEP_TIMEOUT_MS);
    socket.once('data', done);
    socket.once('close', done);
    socket.write('y');
  });
}

const [role, ...rest] = process.argv.slice(2);
const counts = (): SwarmCounts => ({ open: sockets.size, good, lost, errors });
const answer = (): void => void process.send?.(counts());
process.on('disconnect', () => process.exit(0));
if (role === 'server') {
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('data', (chunk) => socket.write(chunk));
    socket.on('close', () => sockets.delete(socket));
  });
  server.listen({ host: '::', port: Number(rest[0]), backlog: 4096 }, answer);
  process.on('message', answer);
} else {
  const [host = '', port = ''] = rest;
  process.on('message', (command: SwarmCommand) => {
    if (command.kind === 'open') {
      const opening = openMany(host, Number(port), command);
      if (command.background === true) answer();
      else void opening.then(answer);
    } else if (command.kind === 'touch') {
      const some = [...served].filter((_, index) => index % command.each === 0);
      void Promise.all(some.map(touch)).then(answer);
    } else if (command.kind === 'close') {
      for (const socket of command.only === 'good' ? served : sockets) {
        sockets.delete(socket);
        socket.destroy();
      }
      served.clear();
      answer();
    } else answer();
  });
  answer();
}
