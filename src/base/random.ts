/** Randomness as an injected thing: balancing, jitter and ids take a `Random`, tests pass a seeded one. */

export interface Random {
  /** A number in [0, 1). */
  next(): number;
  /** `count` unpredictable bytes. */
  bytes(count: number): Buffer;
}

/** A small seeded generator (mulberry32) for tests and simulations; never for secrets. */
export function createSeededRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return {
    next,
    bytes: (count) => Buffer.from(Array.from({ length: count }, () => Math.floor(next() * 256))),
  };
}
