/**
 * The hand-over between two node proxies on one node, over a Unix socket in the run folder. Both accept on
 * every pod for a moment (one SO_REUSEPORT group); pod by pod the successor says "serving", and the
 * predecessor closes its listeners for it. What waited there moves to the successor's queue
 * (`net.ipv4.tcp_migrate_req`). At "complete" the predecessor drains and its agent stops capturing.
 *
 * Messages are lines of JSON, successor → predecessor only: `{"serving":UID}` and `{"complete":true}`. The
 * folder is root's alone (0700); lines are bounded, and a line that is not understood ends the hand-over.
 *
 * Several may try at once, as when an upgrade is upgraded: the first that is complete takes over, and the others, whose
 * connections end with that, find it on the path.
 */

import { chmodSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { PodUid } from '../core/pod.ts';

const LINE_MAX_CHARS = 4096;
const CONNECT_TIMEOUT_MS = 2000;
const POD_UID = /^[A-Za-z0-9._-]{1,128}$/;

export interface PredecessorHandlers {
  onServing(pod: PodUid): void;
  /** The successor serves all: drain. Called once. */
  onComplete(): void;
  /** A successor that served a pod went away before it was complete; this proxy goes on alone. */
  onLost(): void;
}

export interface HandoverServer {
  /** Whether the path is still ours: the one of two that were complete in the same moment has it. */
  isCurrent(): boolean;
  close(): void;
}

/**
 * Takes over `path` from whoever has it and waits for a successor. The socket is made beside it and renamed,
 * so that at any time exactly one living proxy answers there.
 */
export async function awaitSuccessor(
  path: string,
  ownPid: number,
  logger: Logger,
  handlers: PredecessorHandlers,
): Promise<HandoverServer> {
  const successors = new Set<Socket>();
  const server: Server = createServer((socket) =>
    serveSuccessor(socket, successors, logger, handlers),
  );
  server.on('error', (error) => logger.error('hand-over socket failed', { error: error.message }));
  const temporary = `${path}.${ownPid}`;
  rmSync(temporary, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(temporary, resolve);
  });
  chmodSync(temporary, 0o600);
  const { ino } = statSync(temporary);
  renameSync(temporary, path);
  return {
    isCurrent: () => statSync(path, { throwIfNoEntry: false })?.ino === ino,
    close: () => void server.close(),
  };
}

function serveSuccessor(
  socket: Socket,
  successors: Set<Socket>,
  logger: Logger,
  handlers: PredecessorHandlers,
): void {
  let serves = false;
  successors.add(socket);
  socket.on('error', () => {});
  socket.on('close', () => {
    // Whoever was overtaken by another is not lost, nor who only looked whether anybody is here.
    if (successors.delete(socket) && serves) handlers.onLost();
  });
  readLines(socket, (line) => {
    const message = parseMessage(line);
    if (message === undefined) {
      logger.warn('hand-over ended: message not understood');
      socket.destroy();
    } else if (message.kind === 'serving') {
      serves = true;
      handlers.onServing(message.pod);
    } else if (successors.has(socket)) {
      successors.delete(socket);
      socket.end();
      for (const overtaken of successors) overtaken.destroy();
      successors.clear();
      handlers.onComplete();
    }
  });
}

type Message = { readonly kind: 'serving'; readonly pod: PodUid } | { readonly kind: 'complete' };

export function parseMessage(line: string): Message | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  if ('complete' in value && value.complete === true) return { kind: 'complete' };
  if (!('serving' in value) || typeof value.serving !== 'string') return undefined;
  return POD_UID.test(value.serving)
    ? { kind: 'serving', pod: value.serving as PodUid }
    : undefined;
}

function readLines(socket: Socket, onLine: (line: string) => void): void {
  let pending = '';
  socket.setEncoding('utf8');
  socket.on('data', (text: string) => {
    pending += text;
    for (let end = pending.indexOf('\n'); end >= 0; end = pending.indexOf('\n')) {
      const line = pending.slice(0, end);
      pending = pending.slice(end + 1);
      onLine(line);
    }
    if (pending.length > LINE_MAX_CHARS) socket.destroy();
  });
}

/** Sockets that are named after the process that serves them. */
const PROCESS_SOCKET = /^(?:agent|agent-admin|worker)-\d+\.sock$/;

/**
 * Removes what killed proxies left in the run folder. A process id says nothing, another container counts its own:
 * dead is a socket that nobody answers on.
 */
export function removeDeadSockets(dir: string): void {
  for (const name of readdirSync(dir)) {
    if (!PROCESS_SOCKET.test(name)) continue;
    const path = join(dir, name);
    const socket = connect(path);
    socket.on('connect', () => socket.destroy());
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED') rmSync(path, { force: true });
    });
  }
}

/** The successor's end. */
export interface Predecessor {
  serving(pod: PodUid): void;
  complete(): void;
  /** It has ended, or another successor was complete before us. Called once at most, not after `complete`. */
  onGone(listener: () => void): void;
  /** Ends the connection of one that only looked; it is not called gone then. */
  leave(): void;
}

/** Whoever serves this node already; undefined when nobody does. */
export function findPredecessor(
  path: string,
  clock: Clock,
  logger: Logger,
): Promise<Predecessor | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const timer = clock.after(CONNECT_TIMEOUT_MS, () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.on('error', (error) => {
      timer.cancel();
      logger.debug('no predecessor', {
        error: new MeshError('MESH_CONNECT_FAILED', error.message).message,
      });
      resolve(undefined);
    });
    socket.once('connect', () => {
      timer.cancel();
      let listener: (() => void) | undefined;
      let gone = false;
      // Read, or its end would never be noticed.
      socket.resume();
      socket.on('close', () => {
        gone = true;
        listener?.();
      });
      resolve({
        serving: (pod) => void socket.write(`${JSON.stringify({ serving: pod })}\n`),
        complete() {
          listener = undefined;
          socket.end(`${JSON.stringify({ complete: true })}\n`);
        },
        onGone(next) {
          if (gone) next();
          else listener = next;
        },
        leave() {
          listener = undefined;
          socket.destroy();
        },
      });
    });
  });
}
