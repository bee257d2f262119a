/**
 * Composition root of `nodemesh node`: the supervisor with real processes, descriptors and signals. It loads
 * neither configuration beyond its own rows nor any library that parses what others send.
 */

import { spawn } from 'node:child_process';
import { mkdirSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';

import { createSystemClock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { LogFields, Logger } from '../base/logger.ts';
import { unwrap } from '../base/result.ts';
import { createSystemRandom } from '../base/system-random.ts';
import type { PodUid } from '../core/pod.ts';
import { closeDescriptor, duplicateFrom, shutdownDescriptor } from '../linux/descriptors.ts';
import { loadNative } from '../linux/native.ts';
import {
  awaitSuccessor,
  findPredecessor,
  removeDeadSockets,
  type HandoverServer,
  type Predecessor,
} from '../node/handover.ts';
import type { ToSupervisor } from '../node/messages.ts';
import { createSupervisor, type Child, type ChildHandlers } from '../node/supervisor.ts';
import { createReadinessServer } from '../admin/readiness-server.ts';
import { readNodeConfig, type NodeConfig } from './config/settings.ts';

/** One JSON line per event, straight to the descriptor: the supervisor logs little and loads no logger. */
function createLineLogger(fixed: LogFields): Logger {
  const write = (level: number, message: string, fields: LogFields = {}): void => {
    const line = { level, time: Date.now(), ...fixed, ...fields, msg: message };
    const text = JSON.stringify(line, (_, value: unknown) =>
      value instanceof Error ? value.message : value,
    );
    try {
      writeSync(1, `${text.slice(0, 8192)}\n`);
    } catch {
      // Standard output is gone or full; the supervisor goes on.
    }
  };
  return {
    debug: () => {},
    info: (message, fields) => write(30, message, fields),
    warn: (message, fields) => write(40, message, fields),
    error: (message, fields) => write(50, message, fields),
    child: (fields) => createLineLogger({ ...fixed, ...fields }),
  };
}

/**
 * 10 MB less of idle memory in each process (tried, Node 26.10). The agent also does without optimised code, which
 * a worker must not: a new connection cost it 25 % more. But its heap doubles between full collections of garbage, at the
 * price of 1 to 2 MB when idle: while 100,000 endpoints came there were 20 of them otherwise, now 5, and the last endpoint
 * was served after 7 to 8 s instead of 11. A worker's young generation may grow with its load: fixed at 1 MB, collecting
 * it took twice the time under new connections.
 */
const V8_FLAGS: Readonly<Record<'agent' | 'worker', readonly string[]>> = {
  agent: ['--optimize-for-size', '--heap-growing-percent=100'],
  worker: ['--min-semi-space-size=1', '--max-semi-space-size=8'],
};

/**
 * A worker's glibc keeps what it has instead of giving pages back between bursts: 13 % of throughput in TLS relaying (tried).
 * Whoever sets them outside is obeyed. An agent's gives them back, from one arena: 3 to 5 MB less when idle (tried).
 */
const MALLOC: Readonly<Record<'agent' | 'worker', Readonly<Record<string, string>>>> = {
  agent: {
    MALLOC_ARENA_MAX: '1',
    MALLOC_TRIM_THRESHOLD_: '65536',
    MALLOC_MMAP_THRESHOLD_: '131072',
    MALLOC_TOP_PAD_: '131072',
  },
  worker: {
    MALLOC_TRIM_THRESHOLD_: process.env['MALLOC_TRIM_THRESHOLD_'] ?? '134217728',
    MALLOC_MMAP_THRESHOLD_: process.env['MALLOC_MMAP_THRESHOLD_'] ?? '33554432',
    MALLOC_TOP_PAD_: process.env['MALLOC_TOP_PAD_'] ?? '1048576',
  },
};

/** Who takes the path from us says in the same moment that it serves all; one that never does has not heard of us. */
const OVERTAKEN_LOOK_MS = 1000;
const OVERTAKEN_LOOKS = 3;

/** Sockets named after their process; one that was killed cannot remove them itself. */
const ADMIN_SOCKETS = { agent: ['agent-admin'], worker: ['worker'] } as const;

function spawnChild(
  config: NodeConfig,
  role: 'agent' | 'worker',
  slot: number,
  handlers: ChildHandlers,
): Child {
  const entry = process.argv[1];
  if (entry === undefined)
    throw new MeshError('MESH_CONFIG_INVALID', 'Cannot find our own program');
  const child = spawn(process.execPath, [...process.execArgv, ...V8_FLAGS[role], entry, role], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: {
      ...process.env,
      ...MALLOC[role],
      NODEMESH_AGENT_SOCKET: join(config.runDir, `agent-${process.pid}.sock`),
      NODEMESH_SLOT: String(slot),
    },
  });
  let exited = false;
  const exit = (reason: string): void => {
    if (exited) return;
    exited = true;
    handlers.onExit(reason);
  };
  child.on('error', (error) => exit(error.message));
  child.on('exit', (code, signal) => {
    for (const name of ADMIN_SOCKETS[role]) {
      rmSync(join(config.runDir, `${name}-${child.pid}.sock`), { force: true });
    }
    exit(signal ?? `exit code ${code}`);
  });
  child.on('message', (message: ToSupervisor) => handlers.onMessage(message));
  return {
    pid: child.pid ?? 0,
    send: (message) => {
      if (child.connected) child.send(message, () => {});
    },
    kill: (signal) => void child.kill(signal),
  };
}

export async function runNode(): Promise<void> {
  const config = unwrap(readNodeConfig((name) => process.env[name]));
  const clock = createSystemClock();
  const logger = createLineLogger({ component: 'supervisor', node: config.nodeName });
  const native = loadNative();
  mkdirSync(config.runDir, { recursive: true, mode: 0o700 });
  const handoverPath = join(config.runDir, 'supervisor.sock');
  logger.info('node proxy starts', { config, pid: process.pid });

  removeDeadSockets(config.runDir);
  const predecessor = await findPredecessor(handoverPath, clock, logger);
  const supervisor = createSupervisor({
    clock,
    random: createSystemRandom(),
    logger,
    descriptors: {
      duplicateFrom: (pid, fd) => duplicateFrom(native, pid, fd),
      shutdown: (fd) => shutdownDescriptor(native, fd),
      close: (fd) => closeDescriptor(native, fd),
    },
    ownPid: process.pid,
    workerCount: config.workers,
    spawn: (role, slot, handlers) => spawnChild(config, role, slot, handlers),
  });

  const readiness = createReadinessServer({
    clock,
    logger,
    port: config.readinessPort,
    status: () => supervisor.status(),
  });

  let handedOver = false;
  let leaving = false;
  let terminated = false;
  let idle = false;
  const leave = async (deadlineS: number, reason: string): Promise<void> => {
    if (leaving) return;
    leaving = true;
    logger.info('node proxy drains', { reason, deadlineS });
    await supervisor.drain(deadlineS * 1000);
    logger.info('node proxy ends');
    // In a pod an end means another start, and that one would take the node back from its successor.
    if (config.afterHandover === 'exit' || !handedOver || terminated) process.exit(0);
    idle = true;
    // Nothing else keeps the process now.
    setInterval(() => {}, 60_000);
  };

  const standAside = (reason: string): void => {
    handedOver = true;
    readiness.close();
    supervisor.retire();
    void leave(config.drainS, reason);
  };

  let handover: HandoverServer | undefined;
  let ownership = Promise.resolve();
  const becomeCurrent = async (): Promise<void> => {
    const before = handover;
    handover = await awaitSuccessor(handoverPath, process.pid, logger, {
      onServing: (pod) => supervisor.release(pod),
      onComplete: () => standAside('a successor serves this node'),
      onLost() {
        if (handedOver) return;
        logger.warn('the successor went away before it had taken over; serving every pod again');
        supervisor.reclaim();
        // It may have taken the path, where the next successor looks.
        takePathBack();
      },
    });
    before?.close();
  };
  const takePathBack = (): void => {
    ownership = ownership.then(becomeCurrent).catch((error: unknown) => {
      logger.error('cannot wait for a successor', { error });
    });
  };
  const isServedByOther = async (): Promise<boolean> => {
    const other = await findPredecessor(handoverPath, clock, logger);
    other?.leave();
    return other !== undefined;
  };

  // Two successors that were complete in the same moment both took the path: the later one has it, and serves everything.
  let overtakenLooks = 0;
  clock.every(OVERTAKEN_LOOK_MS, () => {
    if (handedOver || leaving || handover === undefined || handover.isCurrent()) overtakenLooks = 0;
    else if (++overtakenLooks === OVERTAKEN_LOOKS) {
      overtakenLooks = 0;
      void isServedByOther().then((served) => {
        if (handedOver || leaving) return;
        if (served) standAside('another proxy serves this node');
        else {
          logger.warn('nobody answers where a successor looks; taking the place back', {
            handoverPath,
          });
          takePathBack();
        }
      });
    }
  });

  if (predecessor === undefined) await becomeCurrent();
  else {
    followPredecessor(predecessor, supervisor, becomeCurrent, async () => {
      const overtaken = await isServedByOther();
      if (overtaken) standAside('another successor was complete before us');
      return overtaken;
    });
  }

  process.on('SIGTERM', () => {
    terminated = true;
    if (idle) process.exit(0);
    if (handedOver || leaving) return;
    logger.info('SIGTERM: serving on until the grace period ends', { graceS: config.graceS });
    clock.after(config.graceS * 1000, () => {
      // Two that were complete in the same moment: the other one serves everything.
      if (handover?.isCurrent() === false) standAside('another proxy serves this node');
      else void leave(0, 'SIGTERM without a successor');
    });
    // Timers of the clock do not keep a process alive; the children's channels do.
  });
  process.on('SIGINT', () => {
    supervisor.stop();
    process.exit(130);
  });
}

/** Tells the predecessor pod by pod what we serve, and that it may go once all of it is. */
function followPredecessor(
  predecessor: Predecessor,
  supervisor: ReturnType<typeof createSupervisor>,
  becomeCurrent: () => Promise<void>,
  isOvertaken: () => Promise<boolean>,
): void {
  const told = new Set<PodUid>();
  let complete = false;
  const follow = (): void => {
    const status = supervisor.status();
    for (const pod of status.served) {
      if (told.has(pod)) continue;
      told.add(pod);
      predecessor.serving(pod);
    }
    if (complete || status.blockers.length > 0) return;
    complete = true;
    void becomeCurrent().then(() => predecessor.complete());
  };
  supervisor.onChange(follow);
  predecessor.onGone(() => {
    if (complete) return;
    // Until it is known who serves this node, nobody is told anything.
    complete = true;
    void isOvertaken().then((overtaken) => {
      if (overtaken) return;
      complete = false;
      follow();
    });
  });
}
