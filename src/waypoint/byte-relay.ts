/**
 * Joins two byte streams: every byte passed on, an end as an end of that direction only, a reset as a reset. What one
 * side cannot take holds the other side's window back.
 */

import type { MeshError } from '../base/errors.ts';
import type { ByteStream } from '../http/byte-stream.ts';

export interface ByteRelayResult {
  readonly bytesToUpstream: number;
  readonly bytesToClient: number;
  /** Undefined when both sides have ended as they should. */
  readonly error: MeshError | undefined;
}

export interface ByteRelay {
  /** One side has ended, or does not take what the other has sent. */
  readonly stuck: boolean;
  close(error: MeshError): void;
}

/** Sets the handlers of both. `onActive`: bytes have passed. `onEnd`: once. */
export function relayBytes(
  client: ByteStream,
  upstream: ByteStream,
  onActive: () => void,
  onEnd: (result: ByteRelayResult) => void,
): ByteRelay {
  let over = false;
  let endedSides = 0;
  const counts = { toUpstream: 0, toClient: 0 };
  const owed = { toUpstream: 0, toClient: 0 };
  const finish = (error: MeshError | undefined): void => {
    if (over) return;
    over = true;
    onEnd({ bytesToUpstream: counts.toUpstream, bytesToClient: counts.toClient, error });
  };
  const cut = (error: MeshError): void => {
    if (over) return;
    finish(error);
    client.reset();
    upstream.reset();
  };
  const join = (from: ByteStream, to: ByteStream, direction: keyof typeof counts): void => {
    from.setHandlers({
      onData(chunk) {
        counts[direction] += chunk.length;
        onActive();
        if (to.write(chunk) && owed[direction] === 0) from.consume(chunk.length);
        else owed[direction] += chunk.length;
      },
      onEnd() {
        to.end();
        endedSides++;
        if (endedSides === 2) finish(undefined);
      },
      onReset: cut,
      onDrain() {
        drained(direction === 'toUpstream' ? 'toClient' : 'toUpstream');
      },
    });
    const repay = (): void => {
      const bytes = owed[direction];
      owed[direction] = 0;
      if (bytes > 0) from.consume(bytes);
    };
    repays[direction] = repay;
  };
  const repays: Record<keyof typeof counts, () => void> = {
    toUpstream: () => {},
    toClient: () => {},
  };
  /** The side that this direction writes to takes more. */
  const drained = (direction: keyof typeof counts): void => repays[direction]();
  join(client, upstream, 'toUpstream');
  join(upstream, client, 'toClient');
  return {
    get stuck() {
      return endedSides > 0 || owed.toUpstream + owed.toClient > 0;
    },
    close: cut,
  };
}
