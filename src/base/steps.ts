/**
 * Long synchronous work as a generator that yields where it may be interrupted: the same code does all of it at once, or in
 * short turns between which connections go on (`time-slice.ts`). Between two yields must lie well under a millisecond.
 */

import type { Clock } from './clock.ts';
import { createTimeSlice } from './time-slice.ts';

/** Work that may pause at each `yield`. */
export type Steps<T> = Generator<undefined, T>;

/** All of it, in slices. */
export async function runInSlices<T>(clock: Clock, steps: Steps<T>): Promise<T> {
  const slice = createTimeSlice(clock);
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
    if (slice.spent) await slice.yield();
  }
}

/** All of it now. */
export function runAtOnce<T>(steps: Steps<T>): T {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/** `items`, with a pause after every `count` of them. */
export function* paced<T>(items: Iterable<T>, count: number, each: (item: T) => void): Steps<void> {
  let left = count;
  for (const item of items) {
    each(item);
    if (--left > 0) continue;
    left = count;
    yield;
  }
}

/** As `toSorted`: stable, a new array. */
export function* sortInSteps<T>(
  items: readonly T[],
  compare: (a: T, b: T) => number,
): Steps<readonly T[]> {
  let runs: (readonly T[])[] = [];
  for (let start = 0; start < items.length; start += RUN_LENGTH) {
    runs.push(items.slice(start, start + RUN_LENGTH).toSorted(compare));
    yield;
  }
  while (runs.length > 1) {
    const longer: (readonly T[])[] = [];
    for (let at = 0; at < runs.length; at += 2) {
      longer.push(yield* merge(runs[at] ?? [], runs[at + 1] ?? [], compare));
    }
    runs = longer;
  }
  return runs[0] ?? [];
}

const RUN_LENGTH = 256;

function* merge<T>(
  a: readonly T[],
  b: readonly T[],
  compare: (a: T, b: T) => number,
): Steps<readonly T[]> {
  if (b.length === 0) return a;
  const merged: T[] = [];
  let [atA, atB] = [0, 0];
  while (atA < a.length && atB < b.length) {
    const takesA = compare(a[atA] as T, b[atB] as T) <= 0;
    merged.push((takesA ? a[atA++] : b[atB++]) as T);
    if (merged.length % RUN_LENGTH === 0) yield;
  }
  for (; atA < a.length; atA++) merged.push(a[atA] as T);
  for (; atB < b.length; atB++) merged.push(b[atB] as T);
  return merged;
}
