/** A worker thread with an application and a client that asks it through a proxy at a constant rate, timed from when it was due. */

import { connect, createServer, type ClientHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { parentPort } from 'node:worker_threads';

export interface SteadyRun {
  readonly port: number;
  readonly requests: number;
  readonly perSecond: number;
}

export interface SteadyResult {
  readonly failed: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const app = createServer();
app.on('stream', (stream: ServerHttp2Stream) => {
  stream.on('error', () => {});
  stream.respond({ ':status': 200 });
  stream.end('ok');
});
await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));

function ask(session: ClientHttp2Session): Promise<number> {
  return new Promise((resolve) => {
    const stream = session.request({ ':path': '/' });
    let status = 0;
    stream.on('error', () => {});
    stream.on('response', (headers) => (status = headers[':status'] ?? 0));
    stream.on('close', () => resolve(status));
    stream.resume();
  });
}

async function run({ port, requests, perSecond }: SteadyRun): Promise<SteadyResult> {
  const session = connect(`http://127.0.0.1:${port}`);
  session.on('error', () => {});
  const tookMs: number[] = [];
  let failed = 0;
  const startMs = performance.now();
  const one = async (index: number): Promise<void> => {
    const dueMs = startMs + (index * 1000) / perSecond;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, dueMs - performance.now())));
    if ((await ask(session)) !== 200) failed++;
    tookMs.push(performance.now() - dueMs);
  };
  await Promise.all(Array.from({ length: requests }, (_, index) => one(index)));
  session.destroy();
  tookMs.sort((a, b) => a - b);
  const at = (share: number): number => tookMs[Math.floor(tookMs.length * share)] ?? 0;
  return { failed, p50Ms: at(0.5), p99Ms: at(0.99) };
}

parentPort?.on('message', (message: SteadyRun) => {
  run(message).then(
    (result) => parentPort?.postMessage(result),
    (error: unknown) => {
      throw error;
    },
  );
});
parentPort?.postMessage((app.address() as AddressInfo).port);
