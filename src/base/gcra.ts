/**
 * The generic cell rate algorithm (ITU-T I.371): a token bucket that is one number, the time at which it would be
 * full again. One number a client fits a map of many clients, and one key of a shared store.
 */

export interface Rate {
  /** Time that one unit takes to come back, in ms. */
  readonly unitMs: number;
  /** Units that may be taken at once, at least 1. */
  readonly burst: number;
}

export interface Taking {
  readonly allowed: boolean;
  /** To be kept for the next call; unchanged when refused. */
  readonly fullAtMs: number;
  /** Units that could be taken now. */
  readonly remaining: number;
  /** Until one unit can be taken, 0 if now. */
  readonly waitMs: number;
  /** Until everything is back. */
  readonly resetMs: number;
}

/** Sums of fractions: a thousandth of a unit must not refuse what is due. */
const SLACK = 0.001;

export function createRate(units: number, intervalMs: number, burst: number): Rate {
  return { unitMs: intervalMs / units, burst };
}

/** `fullAtMs`: from the last call, anything in the past at first. */
export function takeUnit(rate: Rate, fullAtMs: number, nowMs: number): Taking {
  const capacityMs = rate.unitMs * rate.burst;
  const before = Math.max(fullAtMs, nowMs);
  const after = before + rate.unitMs;
  const allowed = after - nowMs <= capacityMs + rate.unitMs * SLACK;
  const kept = allowed ? after : before;
  return { allowed, fullAtMs: kept, ...describeDebt(rate, kept - nowMs) };
}

/** What follows from the time until everything is back. */
export function describeDebt(
  rate: Rate,
  debtMs: number,
): Pick<Taking, 'remaining' | 'waitMs' | 'resetMs'> {
  const capacityMs = rate.unitMs * rate.burst;
  const room = Math.floor((capacityMs - debtMs + rate.unitMs * SLACK) / rate.unitMs);
  return {
    remaining: Math.max(0, room),
    waitMs: room >= 1 ? 0 : Math.max(0, debtMs + rate.unitMs - capacityMs),
    resetMs: Math.max(0, debtMs),
  };
}
