/**
 * Profiles a running Node process from beside it: `node profile-worker.ts PID SECONDS FILE`, in the process's
 * network namespace. SIGUSR1 makes Node open its inspector on 127.0.0.1:9229; the first process of a namespace
 * to get one keeps the port.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

const INSPECTOR = 'http://127.0.0.1:9229/json/list';
const SAMPLE_US = 250;
const TRIES = 40;

const [pid = '', seconds = '', file = ''] = process.argv.slice(2);
const wait = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms));

async function findInspector(): Promise<string> {
  process.kill(Number(pid), 'SIGUSR1');
  for (let tries = 0; tries < TRIES; tries++) {
    try {
      const list = (await (await fetch(INSPECTOR)).json()) as { webSocketDebuggerUrl: string }[];
      if (list[0] !== undefined) return list[0].webSocketDebuggerUrl;
    } catch {
      await wait(50);
    }
  }
  throw new Error(`process ${pid} opened no inspector`);
}

const socket = new WebSocket(await findInspector());
await new Promise((resolve, reject) => {
  socket.addEventListener('open', resolve);
  socket.addEventListener('error', () => reject(new Error('cannot reach the inspector')));
});
const waiting = new Map<number, (result: { profile?: unknown }) => void>();
socket.addEventListener('message', (event: MessageEvent) => {
  const { id, result } = JSON.parse(String(event.data)) as {
    id: number;
    result: { profile?: unknown };
  };
  waiting.get(id)?.(result);
});
const call = (method: string, params: object = {}): Promise<{ profile?: unknown }> => {
  const id = waiting.size + 1;
  return new Promise((resolve) => {
    waiting.set(id, resolve);
    socket.send(JSON.stringify({ id, method, params }));
  });
};
await call('Profiler.enable');
await call('Profiler.setSamplingInterval', { interval: SAMPLE_US });
await call('Profiler.start');
await wait(Number(seconds) * 1000);
const { profile } = await call('Profiler.stop');
mkdirSync(dirname(file), { recursive: true });
writeFileSync(file, JSON.stringify(profile));
process.exit(0);
