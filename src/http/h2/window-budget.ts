/**
 * What all sessions of one process may promise and hold together: windows grow only while it allows, and when
 * the bytes that readers have not consumed reach its capacity, connections are credited only for consumed
 * bytes until that is over. One object per process or worker, injected into every session.
 */

export interface WindowBudget {
  readonly capacityBytes: number;
  /** Window bytes above the initial ones that streams have now. */
  readonly grownBytes: number;
  /** Bytes received and not yet consumed. */
  readonly heldBytes: number;
  /** Takes `bytes` for a window's growth; false: not now. */
  grow(bytes: number): boolean;
  shrink(bytes: number): void;
  hold(bytes: number): void;
  release(bytes: number): void;
}

export const WINDOW_BUDGET_DEFAULT_BYTES: number = 256 * 1024 * 1024;

export function createWindowBudget(
  capacityBytes: number = WINDOW_BUDGET_DEFAULT_BYTES,
): WindowBudget {
  let grownBytes = 0;
  let heldBytes = 0;
  return {
    capacityBytes,
    get grownBytes() {
      return grownBytes;
    },
    get heldBytes() {
      return heldBytes;
    },
    grow(bytes) {
      if (grownBytes + bytes > capacityBytes) return false;
      grownBytes += bytes;
      return true;
    },
    shrink(bytes) {
      grownBytes -= bytes;
    },
    hold(bytes) {
      heldBytes += bytes;
    },
    release(bytes) {
      heldBytes -= bytes;
    },
  };
}
