/** Waiting for a cluster to come to a state: asks again until it is so, the time is over, or the user has enough. */

import { MeshError } from '../base/errors.ts';
import type { CommandIo } from './io.ts';

const POLL_MS = 1000;

/** False at the end of the time. Refusals and silence meanwhile are no end: a rolling API server comes back. */
export async function waitUntil(
  io: Pick<CommandIo, 'now' | 'signal'>,
  timeoutMs: number,
  isSo: () => Promise<boolean>,
  pollMs: number = POLL_MS,
): Promise<boolean> {
  const endMs = io.now() + timeoutMs;
  for (;;) {
    let failure: unknown;
    try {
      if (await isSo()) return true;
    } catch (error) {
      if (!(error instanceof MeshError) || !error.retryable) throw error;
      failure = error;
    }
    if (io.signal.aborted) return false;
    if (io.now() >= endMs) {
      if (failure !== undefined) throw failure;
      return false;
    }
    await pause(pollMs, io.signal);
  }
}

/** Ends early when the signal is aborted. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      'abort',
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
