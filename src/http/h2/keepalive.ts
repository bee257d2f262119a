/**
 * Tells whether the peer is alive: after 10 s of silence a PING, after 20 s more without a byte it is dead.
 *
 * Silence is counted in ticks of the loop, not on the clock: a tick that comes late says that this process did
 * not run (F62), and a tick only counts after a whole turn in which waiting bytes could have been read.
 */

import type { Clock, Timer } from '../../base/clock.ts';

export const TICK_MS = 5000;
/** Silent ticks after which a PING goes out. */
const PING_AFTER_TICKS = 2;
/** Silent ticks after the PING at which the peer is dead. */
const DEAD_AFTER_TICKS = 4;
/** A tick this late does not count. */
const LATE_MS = 1000;

export interface Keepalive {
  /** Bytes came. */
  heard(): void;
  stop(): void;
}

export interface KeepaliveHandlers {
  ping(): void;
  dead(): void;
  /** Every 5 s, before anything else. */
  tick(): void;
}

export function startKeepalive(clock: Clock, handlers: KeepaliveHandlers): Keepalive {
  let silentTicks = 0;
  let dueMs = clock.nowMs() + TICK_MS;
  let stopped = false;
  const timer: Timer = clock.every(TICK_MS, () => {
    const nowMs = clock.nowMs();
    const late = nowMs - dueMs > LATE_MS;
    dueMs = nowMs + TICK_MS;
    handlers.tick();
    if (late || stopped) return;
    silentTicks++;
    if (silentTicks === PING_AFTER_TICKS) handlers.ping();
    if (silentTicks < PING_AFTER_TICKS + DEAD_AFTER_TICKS) return;
    // What has arrived is read before the verdict: timers run first in a turn of the loop.
    const seen = silentTicks;
    setImmediate(() => {
      if (!stopped && silentTicks === seen) handlers.dead();
    });
  });
  return {
    heard() {
      silentTicks = 0;
    },
    stop() {
      stopped = true;
      timer.cancel();
    },
  };
}
