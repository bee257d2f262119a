/**
 * What the HTTP/1.1 connections of one process share for writing: buffers in which the pieces of outgoing messages are
 * gathered, borrowed for one turn, so that idle connections hold none; and the end of that turn. A turn is a read:
 * what the bytes of one read make several connections send leaves right behind it, one write for each. Where no read
 * is under way the turn ends with the tick.
 */

export const SCRATCH_BYTES: number = 16 * 1024;
/** More connections than this writing in one turn get buffers of their own. */
const FREE_MAX = 64;

export interface ScratchPool {
  take(): Buffer;
  give(buffer: Buffer): void;
  /** Calls `writer.flush` once at the end of the turn. */
  flushLater(writer: { flush(): void }): void;
  /** A read begins. Whoever calls it calls `endTurn`, whatever happens in between; turns may be nested. */
  beginTurn(): void;
  endTurn(): void;
}

export function createScratchPool(): ScratchPool {
  const free: Buffer[] = [];
  let waiting: { flush(): void }[] = [];
  let depth = 0;
  let scheduled = false;
  const flushAll = (): void => {
    while (waiting.length > 0) {
      const writers = waiting;
      waiting = [];
      for (const writer of writers) writer.flush();
    }
  };
  const tick = (): void => {
    scheduled = false;
    flushAll();
  };
  return {
    take: () => free.pop() ?? Buffer.allocUnsafeSlow(SCRATCH_BYTES),
    give(buffer) {
      if (free.length < FREE_MAX) free.push(buffer);
    },
    flushLater(writer) {
      waiting.push(writer);
      if (depth > 0 || scheduled) return;
      scheduled = true;
      process.nextTick(tick);
    },
    beginTurn: () => void depth++,
    endTurn() {
      depth--;
      if (depth === 0 && waiting.length > 0) flushAll();
    },
  };
}
