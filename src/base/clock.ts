/**
 * Time as an injected thing. Nothing below `app/` touches `Date`, global timers or `performance`; it takes a
 * `Clock`, so that tests move time by hand. `nowMs` is monotonic and for durations; `wallMs` is the
 * calendar (Unix epoch) and for certificates and log lines only.
 */

export interface Timer {
  /** Idempotent. After it the callback never runs. */
  cancel(): void;
}

export interface Clock {
  /** Monotonic milliseconds; origin unspecified. */
  nowMs(): number;
  /** Milliseconds since the Unix epoch. May jump. */
  wallMs(): number;
  /** Runs `callback` once after `delayMs`. Timers never keep the process alive. */
  after(delayMs: number, callback: () => void): Timer;
  /** Runs `callback` every `periodMs` until cancelled. */
  every(periodMs: number, callback: () => void): Timer;
}

/** Resolves after `delayMs`; rejects with the signal's reason when aborted first. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason as Error);
      return;
    }
    const onAbort = (): void => {
      timer.cancel();
      reject(signal?.reason as Error);
    };
    const timer = clock.after(delayMs, () => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    });
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** The real clock. The one place that calls Node's timers. Node caps a delay at 2^31-1 ms; so does this. */
export function createSystemClock(): Clock {
  const DELAY_MAX_MS = 0x7fffffff;
  return {
    nowMs: () => performance.now(),
    wallMs: () => Date.now(),
    after(delayMs, callback) {
      const handle = setTimeout(callback, Math.min(delayMs, DELAY_MAX_MS));
      handle.unref();
      return { cancel: () => clearTimeout(handle) };
    },
    every(periodMs, callback) {
      const handle = setInterval(callback, Math.min(periodMs, DELAY_MAX_MS));
      handle.unref();
      return { cancel: () => clearInterval(handle) };
    },
  };
}

interface FakeTimer {
  readonly id: number;
  dueMs: number;
  readonly periodMs: number | undefined;
  readonly callback: () => void;
}

/** A clock that stands still until told otherwise. */
export interface FakeClock extends Clock {
  /** Moves both clocks forward, running due timers in order; promise jobs run between timers. */
  advance(ms: number): Promise<void>;
  /** Moves only the calendar, as an operator or NTP does. */
  jumpWall(ms: number): void;
  /** Timers that have not fired or been cancelled. */
  pendingCount(): number;
}

export function createFakeClock(startWallMs: number = Date.UTC(2026, 0, 1)): FakeClock {
  let now = 0;
  let wall = startWallMs;
  let nextId = 0;
  const timers = new Map<number, FakeTimer>();
  const add = (delayMs: number, periodMs: number | undefined, callback: () => void): Timer => {
    const id = nextId++;
    timers.set(id, { id, dueMs: now + Math.max(0, delayMs), periodMs, callback });
    return { cancel: () => void timers.delete(id) };
  };
  const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  const nextDue = (untilMs: number): FakeTimer | undefined => {
    let best: FakeTimer | undefined;
    for (const timer of timers.values()) {
      if (timer.dueMs <= untilMs && (best === undefined || timer.dueMs < best.dueMs)) best = timer;
    }
    return best;
  };
  return {
    nowMs: () => now,
    wallMs: () => wall,
    after: (delayMs, callback) => add(delayMs, undefined, callback),
    every: (periodMs, callback) => add(periodMs, periodMs, callback),
    jumpWall: (ms) => void (wall += ms),
    pendingCount: () => timers.size,
    async advance(ms) {
      const untilMs = now + ms;
      await settle();
      for (let timer = nextDue(untilMs); timer !== undefined; timer = nextDue(untilMs)) {
        wall += timer.dueMs - now;
        now = timer.dueMs;
        if (timer.periodMs === undefined) timers.delete(timer.id);
        else timer.dueMs += Math.max(1, timer.periodMs);
        timer.callback();
        await settle();
      }
      wall += untilMs - now;
      now = untilMs;
    },
  };
}
