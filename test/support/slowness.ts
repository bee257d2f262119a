/** How slow this machine is just now, for limits on times that were measured on a quiet one. */

import { execFileSync } from 'node:child_process';

/** What starting an empty Node program takes on a machine that has nothing else to do; where it takes longer, all does. */
const QUIET_NODE_MS = 50;
/** A machine slower than this proves nothing, and must not excuse everything. */
const SLOWNESS_MAX = 3;
const ROUNDS = 5;

/** How many times longer an empty Node program takes than on a quiet machine; from 1 to 3. Blocks for its runs. */
export function slowness(): number {
  const startMs = performance.now();
  for (let round = 0; round < ROUNDS; round++) execFileSync(process.execPath, ['-e', '']);
  const nodeMs = (performance.now() - startMs) / ROUNDS;
  return Math.min(SLOWNESS_MAX, Math.max(1, nodeMs / QUIET_NODE_MS));
}
