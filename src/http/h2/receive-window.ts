/**
 * Flow control of what we receive.
 *
 * - A stream's window is given back as its reader consumes, and doubles while the reader keeps up and the window is
 *   what limits the peer (half of it gone within one round trip), under the session's and the process's caps.
 * - The connection's window is given back as bytes arrive, whoever consumes them: what bounds memory is the
 *   sum of the stream windows, so no stalled stream can hold up the others (T66). Only when the process as a
 *   whole holds too much is it given back with the consumption.
 */

import type { Clock } from '../../base/clock.ts';
import { WINDOW_DEFAULT } from './frames.ts';
import type { WindowBudget } from './window-budget.ts';

/** Default of `initialWindowBytes`. */
export const STREAM_WINDOW_BYTES: number = 256 * 1024;
/** No stream's window grows beyond this. */
export const STREAM_WINDOW_MAX_BYTES: number = 4 * 1024 * 1024;
export const CONNECTION_WINDOW_BYTES: number = 16 * 1024 * 1024;
/** Growth of all streams of one session together. */
const SESSION_GROWTH_MAX_BYTES = 16 * 1024 * 1024;

type SendUpdate = (streamId: number, bytes: number) => void;

/** The connection's window, and what its streams' windows share. */
export class ConnectionWindow {
  readonly clock: Clock;
  readonly budget: WindowBudget;
  readonly sendUpdate: SendUpdate;
  /** Round trip measured with PING; 0 until there is one. */
  rttMs = 0;
  grownBytes = 0;
  #available = WINDOW_DEFAULT;
  #unreported = 0;
  /** Received while the process held too much: credited when consumed. */
  #withheld = 0;

  constructor(clock: Clock, budget: WindowBudget, sendUpdate: SendUpdate) {
    this.clock = clock;
    this.budget = budget;
    this.sendUpdate = sendUpdate;
  }

  /** A PING took this long; the shortest counts, since the others waited for a busy loop as well. */
  measured(rttMs: number): void {
    const known = this.rttMs === 0 ? Number.POSITIVE_INFINITY : this.rttMs;
    this.rttMs = Math.max(Number.EPSILON, Math.min(known, rttMs));
  }

  /** Raises the window from the protocol's default; to be called once, after our SETTINGS. */
  open(): void {
    const more = CONNECTION_WINDOW_BYTES - WINDOW_DEFAULT;
    this.#available += more;
    this.sendUpdate(0, more);
  }

  /** A DATA frame of this many bytes begins. False: the peer exceeded the window. */
  receive(bytes: number): boolean {
    this.#available -= bytes;
    return this.#available >= 0;
  }

  /** Of what was received, bytes that a stream will hold. */
  hold(bytes: number): void {
    this.budget.hold(bytes);
    if (this.budget.heldBytes > this.budget.capacityBytes) this.#withheld += bytes;
    else this.credit(bytes);
  }

  /** Bytes that a stream held and holds no more. */
  release(bytes: number): void {
    this.budget.release(bytes);
    const owed = Math.min(bytes, this.#withheld);
    this.#withheld -= owed;
    if (owed > 0) this.credit(owed);
  }

  credit(bytes: number): void {
    this.#unreported += bytes;
    const quarter = CONNECTION_WINDOW_BYTES / 4;
    if (this.#unreported < quarter && this.#available > quarter) return;
    this.#available += this.#unreported;
    this.sendUpdate(0, this.#unreported);
    this.#unreported = 0;
  }
}

/** One stream's window. */
export class StreamWindow {
  readonly #connection: ConnectionWindow;
  readonly #streamId: number;
  readonly #initialBytes: number;
  #size: number;
  #available: number;
  #held = 0;
  #unreported = 0;
  #updatedMs: number;
  #open = true;

  /** `grace`: bytes the peer may send beyond `initialBytes`, not knowing our SETTINGS yet. */
  constructor(connection: ConnectionWindow, streamId: number, initialBytes: number, grace: number) {
    this.#connection = connection;
    this.#streamId = streamId;
    this.#initialBytes = initialBytes;
    this.#size = initialBytes;
    this.#available = initialBytes + grace;
    this.#updatedMs = connection.clock.nowMs();
  }

  get sizeBytes(): number {
    return this.#size;
  }

  get heldBytes(): number {
    return this.#held;
  }

  /** A DATA frame of `bytes`, padding included, begins. False: the peer exceeded the window. */
  receive(bytes: number): boolean {
    this.#available -= bytes;
    this.#held += bytes;
    this.#connection.hold(bytes);
    return this.#available >= 0;
  }

  consume(bytes: number): void {
    const released = Math.min(bytes, this.#held);
    if (released <= 0) return;
    this.#held -= released;
    this.#connection.release(released);
    if (!this.#open) return;
    this.#unreported += released;
    if (this.#unreported * 2 < this.#size) return;
    const grown = this.#growth();
    const increment = this.#unreported + grown;
    this.#size += grown;
    this.#available += increment;
    this.#unreported = 0;
    this.#connection.sendUpdate(this.#streamId, increment);
  }

  /** The peer has ended its side: what is consumed from now on is not told. */
  stop(): void {
    this.#open = false;
  }

  /** The stream is gone: nothing counts as held any more, consumed or not. */
  close(): void {
    this.#open = false;
    const grown = this.#size - this.#initialBytes;
    this.#connection.grownBytes -= grown;
    if (grown > 0) this.#connection.budget.shrink(grown);
    this.#size = this.#initialBytes;
    if (this.#held > 0) this.#connection.release(this.#held);
    this.#held = 0;
  }

  #growth(): number {
    const connection = this.#connection;
    const nowMs = connection.clock.nowMs();
    const elapsedMs = nowMs - this.#updatedMs;
    this.#updatedMs = nowMs;
    if (elapsedMs > connection.rttMs || this.#held * 4 > this.#size) return 0;
    const grown = Math.min(this.#size, STREAM_WINDOW_MAX_BYTES - this.#size);
    if (grown <= 0 || connection.grownBytes + grown > SESSION_GROWTH_MAX_BYTES) return 0;
    if (!connection.budget.grow(grown)) return 0;
    connection.grownBytes += grown;
    return grown;
  }
}
