/**
 * What the two relays have in common: a relay owns both ends of one L4 connection from the moment it is made
 * until both are closed, and then reports one result.
 *
 * - Bytes are passed on exactly, a FIN as a FIN of that direction only, in any order (F30).
 * - A reset, or any other way an end fails, reaches the other end as a reset and never as a FIN (F31). If the
 *   failing end had sent its FIN before, the other end gets all that came before it, and is then closed.
 * - At most one read per direction (125 KiB) waits in the process between two sockets; between a socket and
 *   a stream at most that stream's window (F36).
 * - The sweep looks at every relay now and then: it ends those idle for too long and finds dead peers that
 *   nothing is being read from. There are no timers per connection.
 */

import type { ReadBuffers } from '../base/buffer-pool.ts';
import type { Clock } from '../base/clock.ts';
import { MeshError, type ResponseFlag } from '../base/errors.ts';
import { Roster } from '../base/roster.ts';

export interface RelayResult {
  readonly bytesToA: number;
  readonly bytesToB: number;
  /** `-` when both sides ended as they should. */
  readonly flag: ResponseFlag;
  /** What ended it first, if it did not end by itself. */
  readonly error: MeshError | undefined;
}

export interface Relay {
  /** Bytes given to A so far; plain numbers, to be read at any time. */
  readonly bytesToA: number;
  readonly bytesToB: number;
  /** Resets both sides. The result will carry this error. */
  close(error: MeshError): void;
}

export interface RelayOptions {
  /** For reading plain sockets. */
  readonly buffers: ReadBuffers;
  readonly sweep: RelaySweep;
  /** Called once, when both ends are closed; never inside the call that made the relay. */
  onResult(result: RelayResult): void;
}

/** What the sweep needs of a relay. */
export interface SweptRelay extends Relay {
  /** One side has sent FIN, the other has not. */
  readonly halfClosed: boolean;
  /** Writes nothing to ends that are not being read, which shows whether they are still there. */
  probe(): void;
}

/** Owned by a process or worker; must be stopped. */
export interface RelaySweep {
  /** Relays that have not ended. */
  readonly count: number;
  /** Returns the function that ends the watch. */
  add(relay: SweptRelay): () => void;
  stop(): void;
}

export interface RelaySweepOptions {
  readonly clock: Clock;
  /** No bytes either way while half closed; default 1 h, 0 means never. Exact to `periodMs`. */
  readonly halfClosedTimeoutMs?: number;
  /** No bytes either way while open; default 0, never. Exact to `periodMs`. */
  readonly idleTimeoutMs?: number;
  /** Default 5 s. */
  readonly periodMs?: number;
}

const HALF_CLOSED_TIMEOUT_DEFAULT_MS = 3_600_000;
const SWEEP_PERIOD_DEFAULT_MS = 5000;

interface Watched {
  readonly relay: SweptRelay;
  bytes: number;
  sinceMs: number;
}

export function createRelaySweep(options: RelaySweepOptions): RelaySweep {
  const { clock } = options;
  const halfClosedTimeoutMs = options.halfClosedTimeoutMs ?? HALF_CLOSED_TIMEOUT_DEFAULT_MS;
  const idleTimeoutMs = options.idleTimeoutMs ?? 0;
  const watched = new Roster<Watched>();
  const check = (item: Watched, nowMs: number): void => {
    const { relay } = item;
    const bytes = relay.bytesToA + relay.bytesToB;
    if (bytes !== item.bytes) {
      item.bytes = bytes;
      item.sinceMs = nowMs;
    }
    const idleMs = nowMs - item.sinceMs;
    const limitMs = relay.halfClosed ? halfClosedTimeoutMs : idleTimeoutMs;
    if (limitMs > 0 && idleMs >= limitMs) {
      const what = relay.halfClosed ? 'Half-closed connection' : 'Connection';
      const message = `${what} ended: no bytes for ${Math.round(idleMs / 1000)} s`;
      relay.close(new MeshError('MESH_DEADLINE_EXCEEDED', message, { flag: 'LIMIT' }));
    } else {
      relay.probe();
    }
  };
  const timer = clock.every(options.periodMs ?? SWEEP_PERIOD_DEFAULT_MS, () => {
    const nowMs = clock.nowMs();
    watched.each((item) => check(item, nowMs));
  });
  return {
    get count() {
      return watched.size;
    },
    add(relay) {
      const place = watched.add({ relay, bytes: 0, sinceMs: clock.nowMs() });
      return () => void place.leave();
    },
    stop: () => timer.cancel(),
  };
}

export function relayResult(relay: Relay, error: MeshError | undefined): RelayResult {
  const flag = error === undefined ? '-' : (error.flag ?? 'RESET');
  return { bytesToA: relay.bytesToA, bytesToB: relay.bytesToB, flag, error };
}
