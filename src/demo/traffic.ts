/**
 * The traffic of a demo pod: single probes, steady loads of new connections, and long connections that keep
 * exchanging numbered lines and notice a lost or foreign byte. Results are plain counts, so that a story or
 * a test can compare them before and after.
 */

import { connect, type Socket } from 'node:net';

export type Protocol = 'http' | 'db';

export interface Target {
  readonly host: string;
  readonly port: number;
  readonly protocol: Protocol;
  /** Of an `http` request. Default `GET`. */
  readonly method?: string;
  /** Of an `http` request, besides its own. Default none. */
  readonly headers?: Readonly<Record<string, string>>;
}

export interface ProbeResult {
  readonly ok: boolean;
  /** First line of the answer, or why there was none. */
  readonly text: string;
  readonly durationMs: number;
}

export interface LoadCounts {
  readonly sent: number;
  readonly ok: number;
  readonly failed: number;
  readonly slowestMs: number;
  /** The first few reasons. */
  readonly errors: readonly string[];
  /** When the failed ones began, the first few of them: milliseconds since 1970. */
  readonly failedStartsMs: readonly number[];
}

export interface HoldCounts {
  readonly open: number;
  readonly lost: number;
  readonly exchanged: number;
  /** Answers that were not the line sent: a foreign or missing byte. */
  readonly wrong: number;
  readonly errors: readonly string[];
}

const ERRORS_KEPT = 5;
const STARTS_KEPT = 1000;
const EXCHANGE_MS = 100;
/** A connection that is still there and never answers is lost all the same. */
const SILENCE_MS = 10_000;
const ANSWER_MAX = 4096;

/** One new connection: sends the protocol's request, waits for its answer and a clean end. */
export function probe(target: Target, timeoutMs: number): Promise<ProbeResult> {
  const startMs = performance.now();
  return new Promise((resolve) => {
    let text = '';
    let settled = false;
    const socket = connect({ host: target.host, port: target.port });
    const finish = (ok: boolean, said: string): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      socket.destroy();
      resolve({ ok, text: said, durationMs: performance.now() - startMs });
    };
    const timer = setTimeout(() => finish(false, `no answer in ${timeoutMs} ms`), timeoutMs);
    socket.on('error', (error) => finish(false, error.message));
    socket.on('connect', () => {
      if (target.protocol === 'http') {
        const more = Object.entries(target.headers ?? {}).map(
          ([name, value]) => `${name}: ${value}`,
        );
        const start = `${target.method ?? 'GET'} / HTTP/1.1`;
        const lines = [start, `Host: ${target.host}`, 'Connection: close', ...more];
        socket.write(`${lines.join('\r\n')}\r\n\r\n`);
      }
    });
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1', 0, ANSWER_MAX - Math.min(text.length, ANSWER_MAX));
      if (target.protocol === 'db' && text.startsWith('220 ') && !text.includes('\n221')) {
        if (!socket.writableEnded) socket.end('quit\n');
      }
    });
    socket.on('close', () => {
      const answered =
        target.protocol === 'http' ? text.includes('\r\n\r\n') : text.includes('221 ');
      const line = target.protocol === 'http' ? text.slice(text.indexOf('\r\n\r\n') + 4) : text;
      // An HTTP server, or a proxy on the way, that says 5xx has not answered well.
      const good = answered && !text.startsWith('HTTP/1.1 5');
      finish(good, answered ? (line.split('\n')[0] ?? '') : 'connection ended without an answer');
    });
  });
}

export interface Load {
  counts(): LoadCounts;
  /** Resolves when the probes under way have ended. */
  stop(): Promise<LoadCounts>;
}

/** `perSecond` new connections, evenly spaced, round robin over the targets. */
export function startLoad(targets: readonly Target[], perSecond: number, timeoutMs: number): Load {
  const errors: string[] = [];
  const failedStartsMs: number[] = [];
  const running = new Set<Promise<void>>();
  let sent = 0;
  let good = 0;
  let failed = 0;
  let slowestMs = 0;
  const one = async (target: Target): Promise<void> => {
    const startMs = performance.timeOrigin + performance.now();
    const result = await probe(target, timeoutMs);
    slowestMs = Math.max(slowestMs, result.durationMs);
    if (result.ok) good++;
    else {
      failed++;
      if (failedStartsMs.length < STARTS_KEPT) failedStartsMs.push(startMs);
      if (errors.length < ERRORS_KEPT) errors.push(`${target.host}:${target.port}: ${result.text}`);
    }
  };
  const timer = setInterval(() => {
    const target = targets[sent++ % targets.length];
    if (target === undefined) return;
    const job = one(target).finally(() => running.delete(job));
    running.add(job);
  }, 1000 / perSecond);
  const counts = (): LoadCounts => ({ sent, ok: good, failed, slowestMs, errors, failedStartsMs });
  return {
    counts,
    async stop() {
      clearInterval(timer);
      await Promise.all(running);
      return counts();
    },
  };
}

export interface Hold {
  counts(): HoldCounts;
  stop(): void;
}

/** Opens `count` long connections to a `db` target and keeps a numbered line going round on each. */
export function startHold(target: Target, count: number): Hold {
  const sockets = new Set<Socket>();
  const errors: string[] = [];
  let lost = 0;
  let wrong = 0;
  let exchanged = 0;
  let stopped = false;
  const lose = (reason: string): void => {
    lost++;
    if (errors.length < ERRORS_KEPT) errors.push(reason);
  };
  for (let index = 0; index < count; index++) {
    const socket = connect({ host: target.host, port: target.port });
    let reason = 'ended by the other side';
    let pending = '';
    let round = 0;
    let waiting = '';
    const next = (): void => {
      waiting = `say ${index}-${round++}`;
      socket.write(`${waiting}\n`);
      timer = setTimeout(() => {
        reason = `no answer in ${SILENCE_MS / 1000} s`;
        socket.destroy();
      }, SILENCE_MS);
    };
    let timer: NodeJS.Timeout | undefined;
    socket.on('error', (error) => {
      reason = error.message;
    });
    socket.on('connect', () => sockets.add(socket));
    socket.on('data', (chunk: Buffer) => {
      pending += chunk.toString('latin1');
      for (let end = pending.indexOf('\n'); end >= 0; end = pending.indexOf('\n')) {
        const line = pending.slice(0, end);
        pending = pending.slice(end + 1);
        if (waiting !== '' && line !== `200 ${waiting.slice(4)}`) wrong++;
        if (waiting !== '') exchanged++;
        clearTimeout(timer);
        timer = setTimeout(next, EXCHANGE_MS);
      }
    });
    socket.on('close', () => {
      clearTimeout(timer);
      sockets.delete(socket);
      if (!stopped) lose(reason);
    });
  }
  return {
    counts: () => ({ open: sockets.size, lost, exchanged, wrong, errors }),
    stop() {
      stopped = true;
      for (const socket of sockets) socket.destroy();
    },
  };
}
