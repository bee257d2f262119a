/** Log lines against readers that stall, vanish or are slow. */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createLogWriter } from '../../src/telemetry/log-writer.ts';

const CHILD = new URL('./log-child.ts', import.meta.url).pathname;

interface Report {
  readonly droppedCount: number;
  readonly queuedBytes: number;
  readonly grownBytes: number;
  readonly spentMs: number;
  readonly longestMs: number;
}

/** Its standard output is a real pipe, not the socket pair that Node's `stdio: 'pipe'` makes. */
function spawnIntoPipe(args: string, reader: string): ChildProcess {
  return spawn(
    'sh',
    ['-c', `"${process.execPath}" ${CHILD} ${args} 3>&2 2>/dev/null | ${reader}`],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
}

async function reportsOf(child: ChildProcess): Promise<Report[]> {
  const lines = (await text(child.stderr!)).trim().split('\n');
  return lines.map((line) => JSON.parse(line) as Report);
}

t.test('F66: a pipe that is never read stalls, grows and holds up nothing', async (t) => {
  const node = `"${process.execPath}" ${CHILD} 20000 3>&2 2>/dev/null`;
  const child = spawn('sh', ['-c', `(${node}; echo "$?" >&2) | sleep 60`], {
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
  let said = '';
  for await (const data of child.stderr) {
    said += String(data);
    if (said.split('\n').length > 2) break;
  }
  process.kill(-child.pid!, 'SIGKILL');
  const [line = '', exitCode] = said.split('\n');
  const report = JSON.parse(line) as Report;
  t.ok(report.droppedCount > 10_000, 'lines were dropped and counted');
  t.ok(report.queuedBytes <= 1024 * 1024, 'the queue is bounded');
  t.ok(report.longestMs < 200, `the longest call took ${report.longestMs} ms`);
  t.ok(report.grownBytes < 64 * 1024 * 1024, `grew by ${report.grownBytes} bytes`);
  t.equal(exitCode, '0', 'it could exit');
});

t.test('F66: nothing is lost while the reader keeps up, and lines stay whole', async (t) => {
  const child = spawnIntoPipe('2000', 'cat');
  const [output] = await Promise.all([text(child.stdout!), reportsOf(child)]);
  const lines = output
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { n: number });
  t.equal(lines.length, 2000);
  t.ok(lines.every((line, index) => line.n === index));
});

t.test('F66: after a stall the log goes on and tells how many lines are missing', async (t) => {
  const child = spawnIntoPipe('20000 resume', '(sleep 0.7; cat)');
  const [output, reports] = await Promise.all([text(child.stdout!), reportsOf(child)]);
  const lines = output
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const notes = lines.filter((line) => typeof line['dropped'] === 'number');
  const missing = notes.reduce((sum, note) => sum + (note['dropped'] as number), 0);
  t.equal(missing, reports.at(-1)?.droppedCount);
  t.equal(lines.filter((line) => 'n' in line).length + missing, 20_000);
  t.ok(lines.some((line) => line['msg'] === 'after the stall'));
});

t.test('lines of several processes on one pipe stay whole', async (t) => {
  const one = `"${process.execPath}" ${CHILD} 2000 3>/dev/null`;
  // A pause that is shorter than what the end of a process waits for its reader, and that begins when they write.
  const slow = `read -r line; echo "$line"; sleep 0.1; cat`;
  const run = spawnSync('sh', ['-c', `(${one} & ${one} & wait) | (${slow})`], {
    encoding: 'utf8',
    maxBuffer: 1e8,
  });
  const lines = run.stdout.trimEnd().split('\n');
  t.equal(lines.length, 4000);
  t.doesNotThrow(() => lines.map((line) => JSON.parse(line)));
});

t.test('F65: a full disk drops and counts', async (t) => {
  const fd = openSync('/dev/full', 'w');
  t.teardown(() => closeSync(fd));
  const writer = createLogWriter(createFakeClock(), fd);
  writer.write('{}\n');
  writer.flushSync();
  t.equal(writer.queuedBytes, 0);
  t.ok(writer.droppedCount > 0);
  writer.close();
});

t.test('a file receives every line in order behind what it holds', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-log-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'log'), 'before\n');
  const fd = openSync(join(folder, 'log'), 'a');
  t.teardown(() => closeSync(fd));
  const clock = createFakeClock();
  const writer = createLogWriter(clock, fd);
  for (let n = 0; n < 3000; n++) writer.write(`${n}\n`);
  const size = (): number => fstatSync(fd).size;
  t.equal(size(), 7, 'they wait for each other');
  await clock.advance(20);
  while (size() === 7) await new Promise((resolve) => setImmediate(resolve));
  writer.write('last\n');
  await clock.advance(20);
  while (writer.queuedBytes > 0) await new Promise((resolve) => setImmediate(resolve));
  const lines = readFileSync(join(folder, 'log'), 'utf8').trimEnd().split('\n');
  t.strictSame(lines, ['before', ...Array.from({ length: 3000 }, (_, n) => String(n)), 'last']);
});

t.test('a socket as standard output is written without blocking', async (t) => {
  const child = spawn(process.execPath, [CHILD, '2000'], {
    stdio: ['ignore', 'pipe', 'ignore', 'pipe'],
  });
  const output = await text(child.stdout!);
  const lines = output
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { n: number });
  t.ok(lines.length > 0);
  t.ok(lines.every((line, index) => line.n === index));
});

t.test('a queue that is full, a line too long and a closed writer drop and count', async (t) => {
  const fd = openSync('/dev/null', 'w');
  t.teardown(() => closeSync(fd));
  let heard = 0;
  const writer = createLogWriter(createFakeClock(), fd, () => heard++);
  writer.write('x'.repeat(4096));
  writer.write('x'.repeat(4097));
  t.equal(writer.droppedCount, 1);
  for (let n = 0; n < 300; n++) writer.write('y'.repeat(4096));
  t.ok(writer.queuedBytes <= 1024 * 1024);
  t.equal(writer.droppedCount, 1 + 300 - 255);
  t.equal(heard, writer.droppedCount);
  writer.close();
  writer.write('z');
  t.equal(writer.droppedCount, heard);
});
