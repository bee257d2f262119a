/**
 * Keeps a worker from running out of descriptors (T69, F60). Before they are used up it has the listeners stop
 * accepting; what arrives then waits in the kernel's queues, and is accepted when connections have ended.
 *
 * Facts it stands on (tried on Node 26.10, Linux 6.18):
 * - when accept(2) fails with EMFILE, libuv gives up a descriptor it kept for this, accepts everything that
 *   waits and closes it at once. The client sees a clean end, Node is told nothing. So it must not come to that;
 * - a new descriptor gets the lowest free number: one with number N says that all below N are in use.
 *
 * The reserve is for what already accepted connections need: the far half of a relay, a tunnel, a lookup.
 */

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';

const RESERVE = 64;
const RESERVE_SHARE = 0.1;
/** Below this share of the threshold accepting goes on. */
const RESUME_SHARE = 0.95;
const POLL_MS = 100;
/** A proxy that stays at its limit says so this often. */
const LOG_EVERY_MS = 10_000;

/** Something that accepts and can stop it without losing what waits. Both calls are idempotent. */
export interface Accepting {
  pause(): void;
  resume(): void;
}

export interface AcceptGuard {
  readonly paused: boolean;
  /** To be called with the descriptor of every accepted socket. May pause everything that has joined. */
  accepted(fd: number): void;
  /** Returns the function that leaves. Who joins while accepting is paused is paused at once. */
  join(accepting: Accepting): () => void;
  stop(): void;
}

export interface AcceptGuardOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Descriptors this process may have. */
  readonly limit: number;
  /** Descriptors this process has now. */
  readonly openCount: () => number;
}

/** The number of open descriptors at which accepting stops. */
export function acceptThreshold(limit: number): number {
  const reserve = Math.max(RESERVE, Math.ceil(limit * RESERVE_SHARE));
  return Math.max(Math.floor(limit / 2), limit - reserve);
}

export function createAcceptGuard(options: AcceptGuardOptions): AcceptGuard {
  const { clock, logger, limit, openCount } = options;
  const threshold = acceptThreshold(limit);
  const members = new Set<Accepting>();
  let paused = false;
  let stopped = false;
  let loggedMs = Number.NEGATIVE_INFINITY;
  let untilCount = 1;

  const poll = (): void => {
    if (stopped) return;
    const open = openCount();
    if (open > threshold * RESUME_SHARE) {
      clock.after(POLL_MS, poll);
      return;
    }
    paused = false;
    untilCount = 1;
    for (const member of members) member.resume();
  };

  const pause = (open: number): void => {
    paused = true;
    for (const member of members) member.pause();
    clock.after(POLL_MS, poll);
    const now = clock.nowMs();
    if (now - loggedMs < LOG_EVERY_MS) return;
    loggedMs = now;
    logger.warn('descriptors are nearly used up: new connections wait in the kernel', {
      open,
      limit,
    });
  };

  return {
    get paused() {
      return paused;
    },
    accepted(fd) {
      if (paused) return;
      if (fd >= threshold) {
        pause(fd);
        return;
      }
      // Counting costs 2 µs and more on old kernels, so it is done more often only as the limit comes near.
      if (--untilCount > 0) return;
      const open = openCount();
      untilCount = Math.max(1, Math.floor((threshold - open) / 4));
      if (open >= threshold) pause(open);
    },
    join(accepting) {
      members.add(accepting);
      if (paused) accepting.pause();
      return () => void members.delete(accepting);
    },
    stop() {
      stopped = true;
    },
  };
}
