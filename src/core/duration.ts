/**
 * Durations as users write them: GEP-2257, the form of Gateway API (`1h30m`, `250ms`, `0s`). A subset of Go's:
 * no sign, no fraction, no unit below a millisecond, so that a text means one number of milliseconds everywhere.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';

const FORM = /^(?:[0-9]{1,5}(?:h|ms|m|s)){1,4}$/;
const PART = /([0-9]+)(h|ms|m|s)/g;
const UNIT_MS: ReadonlyMap<string, number> = new Map([
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1_000],
  ['ms', 1],
]);

/** Milliseconds. */
export function parseDuration(text: string): Result<number> {
  if (!FORM.test(text)) {
    const shown = JSON.stringify(text.slice(0, 40));
    const message = `Cannot read duration ${shown}: write it as 1h, 5m, 10s, 250ms or 1m30s`;
    return fail(new MeshError('MESH_MANIFEST_INVALID', message));
  }
  let ms = 0;
  for (const [, count, unit] of text.matchAll(PART)) {
    ms += Number(count) * (UNIT_MS.get(unit ?? '') ?? 0);
  }
  return ok(ms);
}
