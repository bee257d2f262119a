/** The real randomness, from the kernel through `node:crypto`. */

import { randomBytes, randomFillSync } from 'node:crypto';

import type { Random } from './random.ts';

/** A call into OpenSSL costs 10 µs whatever it brings, so small requests are cut from a larger one. */
const POOL_BYTES = 4096;

export function createSystemRandom(): Random {
  const pool = Buffer.alloc(POOL_BYTES);
  let used = POOL_BYTES;
  return {
    next: () => Math.random(),
    bytes(count) {
      if (count > POOL_BYTES / 8) return randomBytes(count);
      if (used + count > POOL_BYTES) {
        randomFillSync(pool);
        used = 0;
      }
      used += count;
      // A copy: the caller owns what it gets, and no byte is given out twice.
      return Buffer.from(pool.subarray(used - count, used));
    },
  };
}
