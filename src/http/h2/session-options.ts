/** What a session is made from. */

import type { ReadBuffers } from '../../base/buffer-pool.ts';
import type { Clock } from '../../base/clock.ts';
import type { H2ServerStream, HeaderList } from './contract.ts';
import type { H2Limits } from './limits.ts';
import type { WindowBudget } from './window-budget.ts';

export interface H2SessionOptions {
  readonly role: 'client' | 'server';
  readonly clock: Clock;
  /** The process's read buffers. */
  readonly readBuffers: ReadBuffers;
  /** The process's cap on windows. */
  readonly windowBudget: WindowBudget;
  /**
   * A request (server only). Set the stream's handlers before returning. `endStream`: nothing follows but
   * `onEnd`. What it throws resets the stream.
   */
  readonly onStream?: (stream: H2ServerStream, headers: HeaderList, endStream: boolean) => void;
  readonly limits?: Partial<H2Limits>;
  /** Window of a new stream. Default 256 KiB; 1 to 2^31-1. */
  readonly initialWindowBytes?: number;
  /**
   * SETTINGS_MAX_FRAME_SIZE. Default 256 KiB; 16,384 to 2^24-1. Payloads of DATA are never collected, so large
   * ones cost no memory. Measured over TLS, both ends, s/GiB: 0.81 at 16 KiB, 0.66 at 64 KiB, 0.67 at 256 KiB;
   * the default lets a whole read of our own senders pass as one frame.
   */
  readonly maxFrameBytes?: number;
  /** Told what a handler or listener threw; the session and its other streams go on. Must not throw. */
  readonly onHandlerError?: (error: unknown) => void;
  /** Told once per session that was destroyed because it did not close by itself (T71). */
  readonly onReaped?: () => void;
}
