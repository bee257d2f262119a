/**
 * The supervisor: starts the agent and the workers, holds duplicates of the workers' listeners, notices who
 * has died or stalled, and hands the pods over to a successor. No byte of a user or a peer reaches it, it
 * reads no configuration from outside, and it does little enough not to die.
 *
 * Promises:
 * - A worker that dies is replaced at once, later with backoff; what waits for it moves to the others, or
 *   waits for its heir where there is no other.
 * - A worker silent for 1 s is taken out if another one is healthy; silent for 10 s it is killed. Never two at
 *   once: when all are silent, it is the machine that stalls.
 * - A supervisor that was itself late in that time accuses nobody (F62).
 */

import type { Backoff } from '../base/backoff.ts';
import { createBackoff } from '../base/backoff.ts';
import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import type { PodUid } from '../core/pod.ts';
import { type ToChild, type ToSupervisor } from './messages.ts';
import { type Descriptors, WorkerSlot } from './worker-slot.ts';

export const STALL_SUSPEND_MS = 1000;
export const STALL_KILL_MS = 10_000;
/** The heir of one killed worker serves before the next one is killed. */
const KILL_SPACING_MS = 3000;
/** A silent agent harms nobody's connections, so it gets more time. */
const AGENT_KILL_MS = 30_000;
const START_GRACE_MS = 20_000;
const CHECK_MS = 200;
const RESPAWN = { initialMs: 50, maxMs: 5000 } as const;
/** A child that lived this long starts its backoff anew. */
const STABLE_MS = 30_000;

/** A running child process, as the supervisor sees it. */
export interface Child {
  readonly pid: number;
  send(message: ToChild): void;
  kill(signal: 'SIGKILL' | 'SIGTERM'): void;
}

export interface ChildHandlers {
  onMessage(message: ToSupervisor): void;
  /** Called once. */
  onExit(reason: string): void;
}

export interface SupervisorOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly descriptors: Descriptors;
  readonly ownPid: number;
  readonly workerCount: number;
  /** Starts a process; throws when it cannot. */
  readonly spawn: (role: 'agent' | 'worker', slot: number, handlers: ChildHandlers) => Child;
}

export interface SupervisorStatus {
  /** Pods the agent wants served. */
  readonly captured: readonly PodUid[];
  /** Pods that every healthy worker serves. */
  readonly served: readonly PodUid[];
  /** What keeps this node proxy from being ready, in words; empty when ready. */
  readonly blockers: readonly string[];
  readonly workers: readonly {
    readonly slot: number;
    readonly pid: number;
    readonly state: string;
  }[];
  readonly agentPid: number | undefined;
}

export interface Supervisor {
  status(): SupervisorStatus;
  /** Called whenever `status` may have changed. One listener. */
  onChange(listener: () => void): void;
  /** A successor serves `pod`: close our listeners for it. */
  release(pod: PodUid): void;
  /** The successor went away before it was complete: listen again for every released pod. */
  reclaim(): void;
  /** The successor serves everything: the agent stops capturing. */
  retire(): void;
  /** Ends when every worker has no connection left, or at the deadline; then the children are stopped. */
  drain(deadlineMs: number): Promise<void>;
  /** Stops the children at once. */
  stop(): void;
}

export function createSupervisor(options: SupervisorOptions): Supervisor {
  const { clock, random, logger, descriptors, ownPid } = options;
  const slots = Array.from(
    { length: options.workerCount },
    (_, index) => new WorkerSlot(index, descriptors),
  );
  const workers = new Map<number, Child>();
  const backoffs = new Map<string, Backoff>();
  const released = new Set<PodUid>();
  const timers = new Set<Timer>();
  let agent: Child | undefined;
  let agentHeardMs = 0;
  let captured: readonly PodUid[] = [];
  let agentBlockers: readonly string[] = ['agent has not reported yet'];
  let stopped = false;
  let draining: { readonly done: () => void; readonly left: Set<number> } | undefined;
  let retired = false;
  let listener: (() => void) | undefined;
  let lastCheckMs = clock.nowMs();
  let killedMs = Number.NEGATIVE_INFINITY;

  const changed = (): void => listener?.();

  const later = (delayMs: number, act: () => void): void => {
    const timer = clock.after(delayMs, () => {
      timers.delete(timer);
      if (!stopped) act();
    });
    timers.add(timer);
  };

  const backoff = (name: string): Backoff => {
    let known = backoffs.get(name);
    if (known === undefined) backoffs.set(name, (known = createBackoff(random, RESPAWN)));
    return known;
  };

  const respawn = (name: string, bornMs: number, start: () => void): void => {
    const delays = backoff(name);
    if (clock.nowMs() - bornMs > STABLE_MS) delays.reset();
    later(delays.nextMs(), start);
  };

  const startAgent = (): void => {
    const bornMs = clock.nowMs();
    agentHeardMs = bornMs + START_GRACE_MS;
    agent = options.spawn('agent', 0, {
      onMessage(message) {
        agentHeardMs = Math.max(agentHeardMs, clock.nowMs());
        if (message.kind === 'heartbeat') agentHeardMs = clock.nowMs();
        if (message.kind !== 'agent-state') return;
        captured = message.captured;
        agentBlockers = message.blockers;
        changed();
      },
      onExit(reason) {
        agent = undefined;
        if (stopped) return;
        agentBlockers = [`agent ended: ${reason}`];
        logger.warn('agent ended; starting another', { reason });
        respawn('agent', bornMs, startAgent);
        changed();
      },
    });
    if (retired) agent.send({ kind: 'retire' });
  };

  const onWorkerMessage = (slot: WorkerSlot, message: ToSupervisor): void => {
    const silentMs = clock.nowMs() - slot.lastHeardMs;
    slot.lastHeardMs = Math.max(slot.lastHeardMs, clock.nowMs());
    if (slot.state === 'suspended' && message.kind === 'heartbeat') {
      logger.warn('worker is back after a stall', { slot: slot.index, silentMs });
      workers.get(slot.index)?.send({ kind: 'relisten' });
    }
    if (slot.state !== 'healthy' && message.kind === 'heartbeat') {
      slot.state = 'healthy';
      slot.lastHeardMs = clock.nowMs();
      changed();
    }
    switch (message.kind) {
      case 'listening':
        try {
          if (draining === undefined && !released.has(message.listener.pod)) {
            slot.hold(message.listener);
          }
        } catch (error) {
          logger.warn('cannot duplicate a listener; its queue dies with its worker', { error });
        }
        break;
      case 'unlistened':
        slot.letGo(message.pod);
        break;
      case 'serving':
        slot.setServing(message.pods);
        changed();
        break;
      case 'drained':
        draining?.left.delete(slot.index);
        if (draining?.left.size === 0) draining.done();
        break;
      case 'heartbeat':
      case 'agent-state':
        break;
    }
  };

  const startWorker = (slot: WorkerSlot): void => {
    // A worker that died just before has no heir now: it would take connections from the successor.
    if (draining !== undefined) return;
    const bornMs = clock.nowMs();
    slot.state = 'starting';
    slot.lastHeardMs = bornMs + START_GRACE_MS;
    let gone = false;
    const child = options.spawn('worker', slot.index, {
      onMessage(message) {
        // Node may deliver what was in the channel after the exit; it is not its heir's.
        if (!gone) onWorkerMessage(slot, message);
      },
      onExit(reason) {
        gone = true;
        workers.delete(slot.index);
        slot.pid = undefined;
        slot.state = 'dead';
        slot.setServing([]);
        draining?.left.delete(slot.index);
        if (draining?.left.size === 0) draining.done();
        if (stopped || draining !== undefined) return;
        logger.warn('worker ended; starting its heir', { slot: slot.index, reason });
        slot.giveAway((pod) =>
          slots.some((other) => other.state === 'healthy' && other.serving.has(pod)),
        );
        respawn(`worker-${slot.index}`, bornMs, () => startWorker(slot));
        changed();
      },
    });
    slot.pid = child.pid;
    workers.set(slot.index, child);
    child.send({ kind: 'start', slot: slot.index, supervisorPid: ownPid, held: slot.held });
  };

  const check = (): void => {
    const now = clock.nowMs();
    const lateMs = now - lastCheckMs - CHECK_MS;
    lastCheckMs = now;
    if (lateMs > STALL_SUSPEND_MS / 2) {
      // Messages that arrived while this loop stood still are read after this timer: hear them first.
      for (const slot of slots) slot.lastHeardMs += lateMs;
      agentHeardMs += lateMs;
      return;
    }
    const suspended = slots.filter((slot) => slot.state === 'suspended');
    for (const slot of slots) {
      const silentMs = now - slot.lastHeardMs;
      if (slot.pid === undefined || silentMs < STALL_SUSPEND_MS) continue;
      const otherHealthy = slots.some((other) => other !== slot && other.state === 'healthy');
      if (slot.state === 'healthy' && otherHealthy && suspended.length === 0) {
        logger.warn('worker is stalled; its listeners are taken out', {
          slot: slot.index,
          silentMs,
        });
        slot.suspend();
        suspended.push(slot);
        changed();
      } else if (
        silentMs >= STALL_KILL_MS &&
        now - killedMs >= KILL_SPACING_MS &&
        (suspended.length === 0 || suspended[0] === slot)
      ) {
        killedMs = now;
        logger.error('worker is stalled; killing it', { slot: slot.index, silentMs });
        slot.lastHeardMs = now;
        workers.get(slot.index)?.kill('SIGKILL');
        break;
      }
    }
    if (agent !== undefined && now - agentHeardMs > AGENT_KILL_MS) {
      logger.error('agent is stalled; killing it');
      agentHeardMs = now;
      agent.kill('SIGKILL');
    }
  };

  const ticker = clock.every(CHECK_MS, check);
  startAgent();
  for (const slot of slots) startWorker(slot);

  const stop = (): void => {
    if (stopped) return;
    stopped = true;
    ticker.cancel();
    for (const timer of timers) timer.cancel();
    for (const child of workers.values()) child.kill('SIGKILL');
    agent?.kill('SIGKILL');
    for (const slot of slots) slot.letGo();
  };

  return {
    status() {
      const healthy = slots.filter((slot) => slot.state === 'healthy');
      const served = captured.filter(
        (pod) => healthy.length > 0 && healthy.every((slot) => slot.serving.has(pod)),
      );
      const blockers = [...agentBlockers];
      for (const slot of slots) {
        if (slot.state !== 'healthy') blockers.push(`worker ${slot.index} is ${slot.state}`);
      }
      for (const pod of captured) {
        if (!served.includes(pod)) blockers.push(`pod ${pod} is not served by every worker`);
      }
      return {
        captured,
        served,
        blockers,
        workers: slots.map(({ index, pid, state }) => ({ slot: index, pid: pid ?? 0, state })),
        agentPid: agent?.pid,
      };
    },
    onChange(next) {
      listener = next;
    },
    release(pod) {
      released.add(pod);
      for (const slot of slots) {
        workers.get(slot.index)?.send({ kind: 'release', pod });
        slot.letGo(pod);
      }
    },
    reclaim() {
      released.clear();
      for (const child of workers.values()) child.send({ kind: 'reclaim' });
    },
    retire() {
      retired = true;
      agent?.send({ kind: 'retire' });
    },
    drain(deadlineMs) {
      return new Promise((resolve) => {
        const done = (): void => {
          stop();
          resolve();
        };
        draining = { done, left: new Set(workers.keys()) };
        if (workers.size === 0) {
          done();
          return;
        }
        for (const child of workers.values()) child.send({ kind: 'drain', deadlineMs });
        // As long as we hold one, the kernel goes on giving it connections, and nobody takes them.
        for (const slot of slots) slot.letGo();
        later(deadlineMs + 5000, done);
      });
    },
    stop,
  };
}
