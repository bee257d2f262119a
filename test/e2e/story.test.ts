/** `nodemesh demo` as its user meets it: it keeps its promises and leaves nothing behind, however it ends. */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';

import t, { type Test } from 'tap';

import { until } from '../../src/demo/mesh.ts';
import { PROGRAM, reasonToSkipMesh } from './harness.ts';

const skip = reasonToSkipMesh();
const STORY_TIMEOUT_MS = 150_000;
const TRACES = ['/tmp/nodemesh-demo', '/dev/shm/nodemesh-demo-keys-0', '/run/nodemesh-demo-keys-0'];

interface Demo {
  readonly child: ChildProcess;
  readonly output: () => string;
  readonly exited: Promise<number | string>;
}

function startDemo(t: Test, command: readonly string[], ...args: readonly string[]): Demo {
  const [program = '', ...before] = command;
  const node = [process.execPath, '--disable-warning=ExperimentalWarning', PROGRAM, 'demo'];
  const [first = '', ...rest] = [program, ...before, ...node, ...args].filter(Boolean);
  const child = spawn(first, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => (text += chunk));
  }
  const exited = new Promise<number | string>((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('exit', (code, signal) => resolve(signal ?? code ?? 'unknown'));
  });
  t.teardown(() => child.kill('SIGKILL'));
  return { child, output: () => text, exited };
}

/** What of a demo is still here: namespaces, folders, processes. */
function traces(): string[] {
  const netns = existsSync('/run/netns') ? readdirSync('/run/netns') : [];
  const found = netns.filter((name) => name.startsWith('nmdemo-'));
  found.push(...TRACES.filter((path) => existsSync(path)));
  for (const path of globSync('/proc/[0-9]*/environ')) {
    try {
      if (readFileSync(path, 'latin1').includes('/tmp/nodemesh-demo/')) found.push(path);
    } catch {
      // Gone, or not ours to read.
    }
  }
  return found;
}

t.test('the demo keeps all its promises and leaves nothing behind', { skip }, async (t) => {
  const demo = startDemo(t, [], '--once');
  const exit = await demo.exited;
  t.equal(exit, 0, 'it exits with 0');
  t.match(demo.output(), /all 11 promises kept/);
  if (exit !== 0) t.comment(demo.output());
  t.same(traces(), []);
});

t.test('Ctrl-C in the middle of the story cleans up', { skip }, async (t) => {
  const demo = startDemo(t, []);
  await until('the story runs', STORY_TIMEOUT_MS, () => demo.output().includes('3. STRICT'));
  demo.child.kill('SIGINT');
  await until('it ends', 10_000, async () => {
    return (await Promise.race([demo.exited, Promise.resolve('runs')])) !== 'runs';
  });
  t.equal(await demo.exited, 130);
  t.same(traces(), []);
});

t.test(
  'a second run cleans up after one that was killed; two at once are refused',
  { skip },
  async (t) => {
    const killed = startDemo(t, []);
    await until('it is up', STORY_TIMEOUT_MS, () => killed.output().includes('1. Before'));
    const other = startDemo(t, [], '--once');
    t.equal(await other.exited, 1);
    t.match(other.output(), /Another demo is running/);
    killed.child.kill('SIGKILL');
    await killed.exited;
    t.not(traces().length, 0, 'a killed demo leaves traces');
    const second = startDemo(t, []);
    await until('the second is up', STORY_TIMEOUT_MS, () => second.output().includes('1. Before'));
    second.child.kill('SIGTERM');
    await second.exited;
    t.same(traces(), []);
  },
);

/** A user without any right; whether it may make namespaces depends on the system. */
const UNPRIVILEGED = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];

function reasonToSkipUnprivileged(): string | false {
  if (skip !== false) return skip;
  const [program = '', ...args] = UNPRIVILEGED;
  const readable = spawnSync(program, [...args, process.execPath, '--version', PROGRAM]);
  if (readable.status !== 0) return 'another user cannot run this Node, or setpriv is missing';
  const allowed = spawnSync(program, [...args, 'unshare', '-Urnm', 'true'], { encoding: 'utf8' });
  if (allowed.status !== 0) return `this system forbids it: ${allowed.stderr.trim()}`;
  return false;
}

t.test(
  'without root the demo runs in namespaces of its own, or says why it cannot',
  { skip: reasonToSkipUnprivileged() },
  async (t) => {
    const demo = startDemo(t, UNPRIVILEGED, '--once');
    const exit = await demo.exited;
    t.equal(exit, 0, 'it exits with 0');
    t.match(demo.output(), /all 11 promises kept/);
    if (exit !== 0) t.comment(demo.output());
    t.notOk(existsSync('/tmp/nodemesh-demo-65534'), 'nothing stays');
  },
);
