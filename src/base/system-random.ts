/** The real randomness, from the kernel through `node:crypto`. */

import { randomBytes } from 'node:crypto';

import type { Random } from './random.ts';

export function createSystemRandom(): Random {
  return { next: () => Math.random(), bytes: (count) => randomBytes(count) };
}
