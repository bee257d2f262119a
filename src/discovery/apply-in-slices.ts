/**
 * Received resources, decoded and applied in short turns, so that connections never wait long for configuration
 * (design, section 3.4). What cannot be read is named and the rest goes on.
 */

import { sleep, type Clock } from '../base/clock.ts';
import type { Result } from '../base/result.ts';
import type { Rejection } from './wire-messages.ts';
import type { WireResource } from './wire-resource.ts';

const SLICE_MS = 5;
/** Resources between two looks at the clock. */
const SLICE_STEP = 32;

/** Decodes `resources` in slices; `use` gets each slice's values, all rejected ones are returned. */
export async function applyInSlices<T>(
  clock: Clock,
  resources: readonly WireResource[],
  decode: (body: Uint8Array) => Result<T>,
  use: (values: T[]) => void,
): Promise<Rejection[]> {
  const rejections: Rejection[] = [];
  let values: T[] = [];
  let sliceStartMs = clock.nowMs();
  for (const [index, { name, body }] of resources.entries()) {
    const decoded = decode(body);
    if (decoded.ok) values.push(decoded.value);
    else rejections.push({ name, reason: decoded.error.message });
    if (index % SLICE_STEP !== SLICE_STEP - 1 || clock.nowMs() - sliceStartMs < SLICE_MS) continue;
    use(values);
    values = [];
    await sleep(clock, 0);
    sliceStartMs = clock.nowMs();
  }
  use(values);
  return rejections;
}
