/** Node's own doors into a process that holds keys are shut (T111, T125). */

import { spawn, spawnSync, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';

import t, { type Test } from 'tap';

/** Of this process alone, and below those that the kernel hands out. */
const PORT = 20_000 + (process.pid % 3000) * 4;
const PROGRAM = resolve(import.meta.dirname, '../../src/bin/nodemesh.ts');

t.test('a daemon refuses variables that change what Node does', async (t) => {
  const cases = { NODE_OPTIONS: '--no-warnings', NODE_TLS_REJECT_UNAUTHORIZED: '0' };
  for (const [name, value] of Object.entries(cases)) {
    for (const role of ['node', 'controller', 'agent', 'worker', 'waypoint']) {
      const env = { PATH: process.env['PATH'], [name]: value };
      const run = spawnSync(process.execPath, [PROGRAM, role], { env, encoding: 'utf8' });
      t.equal(run.status, 1, `${role} with ${name}`);
      t.match(
        run.stderr,
        `nodemesh: Cannot start: ${name}="${value}" would change what Node does in a process that holds keys; unset it`,
      );
    }
  }
});

/** A controller on this port, with a folder of its own; killed after the test. */
function startController(
  t: Pick<Test, 'teardown'>,
  port: number,
): ChildProcessByStdio<null, Readable, Readable> {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-hardening-'));
  mkdirSync(join(dir, 'manifests'));
  writeFileSync(join(dir, 'tokens'), 'node-a 0123456789abcdef\n', { mode: 0o600 });
  const controller = spawn(process.execPath, [PROGRAM, 'controller'], {
    env: {
      PATH: process.env['PATH'],
      NODEMESH_MANIFESTS: join(dir, 'manifests'),
      NODEMESH_TOKENS_FILE: join(dir, 'tokens'),
      NODEMESH_STATE_DIR: join(dir, 'state'),
      NODEMESH_PORT: String(port),
      NODEMESH_METRICS_PORT: String(PORT + 1),
      NODEMESH_READINESS_PORT: String(PORT + 2),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.teardown(() => {
    controller.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  });
  return controller;
}

t.test('SIGUSR1 opens no inspector, and there is no core file', async (t) => {
  const controller = startController(t, PORT);
  let text = '';
  controller.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  // The first line of the log: it has begun.
  await once(controller.stdout, 'data');
  controller.stdout.resume();
  const pid = controller.pid ?? 0;
  for (let round = 0; round < 5; round++) {
    controller.kill('SIGUSR1');
    await new Promise((done) => setTimeout(done, 50));
  }
  t.equal(controller.exitCode, null, 'it lives', { text });
  t.notMatch(text, /Debugger/);
  t.match(readFileSync(`/proc/${pid}/limits`, 'utf8'), /^Max core file size +0 +0 /m);
});

t.test('a controller whose port is taken says which one and ends', async (t) => {
  const other = createServer().listen(0, '::');
  t.teardown(() => other.close());
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  const controller = startController(t, port);
  controller.stdout.resume();
  let text = '';
  controller.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const [code] = await once(controller, 'close');
  t.equal(code, 1);
  t.match(text, `nodemesh: Cannot listen on "[::]:${port}": `);
  t.notMatch(text, /^ {4}at /m, 'no stack');
});
