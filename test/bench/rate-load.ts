/**
 * Load at a constant rate, and the time of each request from when it was due: one that has to wait for a free connection
 * waits on the clock, so a proxy that stalls is not asked less (no coordinated omission). Run as a process,
 * `node rate-load.ts HOST PORT h1|h2 CONNECTIONS STREAMS RATE SECONDS`; prints `RateResult` as JSON.
 *
 * Requests fall due every 2 ms, as many as the rate asks for. The first half second is not counted.
 */

import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';

export interface RateResult {
  readonly requests: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
}

/** Sends one request at a time. */
interface Slot {
  send(done: () => void): void;
}

const BEAT_MS = 2;
const WARM_MS = 500;
/** For what is still under way at the end. */
const END_MS = 5_000;
/** The message of a call: five bytes of gRPC's own head and forty of text. */
export const MESSAGE = Buffer.concat([Buffer.from([0, 0, 0, 0, 40]), Buffer.alloc(40, 0x61)]);

function fail(reason: string): never {
  process.stderr.write(`${reason}\n`);
  process.exit(1);
}

function openHttp1(host: string, port: number): Promise<Slot> {
  const request = Buffer.from(`GET / HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
  return new Promise((resolve) => {
    const socket = connect({ host, port, noDelay: true });
    let text = '';
    let done: (() => void) | undefined;
    socket.on('error', (error) => fail(`connection: ${error.message}`));
    socket.on('end', () => fail('the connection was closed'));
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      const head = text.indexOf('\r\n\r\n');
      if (head < 0) return;
      if (!text.startsWith('HTTP/1.1 200 ')) fail(text.slice(0, head));
      const length = Number(/^content-length: *(\d+)/im.exec(text.slice(0, head))?.[1] ?? -1);
      if (length < 0) fail('an answer without a length');
      if (text.length < head + 4 + length) return;
      text = '';
      done?.();
    });
    const send = (then: () => void): void => {
      done = then;
      socket.write(request);
    };
    socket.once('connect', () => resolve({ send }));
  });
}

function openHttp2(host: string, port: number, streams: number): Promise<Slot[]> {
  return new Promise((resolve) => {
    const session = connectHttp2(`http://${host}:${port}`);
    session.on('error', (error) => fail(`session: ${error.message}`));
    const headers = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers' };
    const send = (then: () => void): void => {
      const stream = session.request({ ...headers, ':path': '/bench.Service/Call' });
      stream.on('error', (error) => fail(`stream: ${error.message}`));
      stream.on('response', (answer) => {
        if (answer[':status'] !== 200) fail(`status ${String(answer[':status'])}`);
        // Our upstream says it in the head: its answer has no trailers.
        const outcome = String(answer['grpc-status']);
        if (outcome !== '0') fail(`grpc-status ${outcome}`);
      });
      stream.on('end', then);
      stream.resume();
      stream.end(MESSAGE);
    };
    session.once('connect', () => resolve(Array.from({ length: streams }, () => ({ send }))));
  });
}

/** The value below which a share of the sorted times lies. */
export function quantile(sorted: Float64Array, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

function measure(free: Slot[], rate: number, seconds: number): Promise<RateResult> {
  const total = Math.round(rate * (seconds + WARM_MS / 1_000));
  const perBeat = Math.max(1, Math.round((rate * BEAT_MS) / 1_000));
  const beatMs = (perBeat * 1_000) / rate;
  const startMs = performance.now() + BEAT_MS;
  const times: number[] = [];
  /** When each that waits for a slot was due, from the start: the clock's fractions would blur the end of the warm-up. */
  const waiting: number[] = [];
  let due = 0;
  let ended = 0;
  return new Promise((resolve) => {
    const finish = (): void => {
      const sorted = Float64Array.from(times).toSorted();
      resolve({
        requests: times.length,
        p50Ms: quantile(sorted, 0.5),
        p99Ms: quantile(sorted, 0.99),
        p999Ms: quantile(sorted, 0.999),
      });
    };
    const pump = (): void => {
      while (waiting.length > 0 && free.length > 0) {
        const slot = free.pop();
        const dueMs = waiting.shift() ?? 0;
        slot?.send(() => {
          const nowMs = performance.now();
          if (dueMs >= WARM_MS) times.push(nowMs - startMs - dueMs);
          free.unshift(slot);
          if (++ended === total) finish();
          else pump();
        });
      }
    };
    const beat = (): void => {
      const nowMs = performance.now() - startMs;
      for (;;) {
        const dueMs = Math.floor(due / perBeat) * beatMs;
        if (due === total || dueMs > nowMs) break;
        waiting.push(dueMs);
        due++;
      }
      pump();
      if (due < total) setTimeout(beat, 1);
      else setTimeout(() => fail(`${total - ended} requests were not answered`), END_MS);
    };
    beat();
  });
}

async function main([host = '', port, protocol, connections, streams, rate, seconds]: string[]) {
  const opened = await Promise.all(
    Array.from({ length: Number(connections) }, () =>
      protocol === 'h2'
        ? openHttp2(host, Number(port), Number(streams))
        : openHttp1(host, Number(port)),
    ),
  );
  const result = await measure(opened.flat(), Number(rate), Number(seconds));
  process.stdout.write(`${JSON.stringify(result)}\n`);
  process.exit(0);
}

if (import.meta.main) await main(process.argv.slice(2));
