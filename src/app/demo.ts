/** Composition root of `nodemesh demo`: finds a place to run, as root or in user namespaces of its own. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';

import { createSystemClock } from '../base/clock.ts';
import { runDemoStory } from '../demo/demo.ts';
import { loadNative } from '../linux/native.ts';
import { isMemoryBacked } from '../linux/process-limits.ts';

/** Set for the run inside namespaces of its own, to the user who asked for it. */
const INSIDE = 'NODEMESH_DEMO_INSIDE';
/** An abstract socket: gone with its process, however that ends. */
const LOCK = '\0nodemesh-demo';

export interface DemoFlags {
  readonly once: boolean;
}

/** Runs this program again as root of its own user, network and mount namespaces. */
function runUnprivileged(): number {
  const script = 'mount -t tmpfs tmpfs /run && exec "$@"';
  const program = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const done = spawnSync('unshare', ['-Urnm', 'sh', '-c', script, 'sh', ...program], {
    stdio: 'inherit',
    env: { ...process.env, [INSIDE]: String(process.getuid?.() ?? 0) },
  });
  if (done.error !== undefined || done.status === null) {
    process.stderr.write(
      `Cannot run without root: ${done.error?.message ?? 'unshare was killed'}; install util-linux or run as root\n`,
    );
    return 1;
  }
  if (done.status !== 0 && done.status !== 130) {
    process.stderr.write(
      'If the line above says "unshare" or "mount" failed, this system forbids unprivileged user namespaces' +
        ' (see kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); run as root instead\n',
    );
  }
  return done.status;
}

/** Two demos would take each other's namespaces away. False when another one runs. */
function takeLock(): Promise<boolean> {
  return new Promise((resolve) => {
    const lock = createServer((socket) => socket.destroy());
    lock.on('error', () => resolve(false));
    lock.listen(LOCK, () => resolve(true));
    lock.unref();
  });
}

export async function runDemo(flags: DemoFlags): Promise<number> {
  if (process.getuid?.() !== 0 && process.env[INSIDE] === undefined) return runUnprivileged();
  if (!(await takeLock())) {
    process.stderr.write('Another demo is running on this machine; end that one first\n');
    return 1;
  }
  const memory = ['/dev/shm', '/run'].find((path) => existsSync(path) && isMemoryBacked(path));
  const prefix = 'nmdemo';
  const user = process.env[INSIDE] ?? '0';
  const dir = user === '0' ? '/tmp/nodemesh-demo' : `/tmp/nodemesh-demo-${user}`;
  mkdirSync('/run/netns', { recursive: true });
  const interrupt = Promise.withResolvers<void>();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => interrupt.resolve());
  }
  const entry = process.argv[1] ?? '';
  const running = runDemoStory({
    native: loadNative(),
    clock: createSystemClock(),
    dir,
    keyDir: memory === undefined ? '' : join(memory, `nodemesh-demo-keys-${user}`),
    program: entry,
    prefix,
    once: flags.once,
    print: (line) => void process.stdout.write(`${line}\n`),
    interrupted: interrupt.promise,
  });
  return running;
}
