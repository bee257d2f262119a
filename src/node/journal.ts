/**
 * The journal of a worker: makes the one record that each connection leaves, and tells the reporter about bytes
 * of long connections before they end. A record is closed once; later ends are ignored.
 */

import type { Clock } from '../base/clock.ts';
import { MeshError, type ResponseFlag } from '../base/errors.ts';
import { Roster, type Place } from '../base/roster.ts';
import type { SocketAddress } from '../core/address.ts';
import type { ConnectionReporter, Edge } from '../core/connection-record.ts';

/** Long connections show their bytes this often. */
const PROGRESS_MS = 5000;

export interface EntryFacts {
  readonly edge: Edge;
  readonly direction: 'outbound' | 'inbound';
  readonly transport: 'hbone' | 'direct' | 'plaintext';
  readonly sourceAddress: SocketAddress;
  readonly destinationAddress: SocketAddress;
  readonly hboneAuthority: string;
  readonly audited: readonly string[];
  readonly traceId: string;
}

export interface EntryEnd {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly flag: ResponseFlag;
  readonly error: MeshError | undefined;
}

/** Reads the counters of a running relay. */
export type ByteCounts = () => { readonly bytesSent: number; readonly bytesReceived: number };

export interface JournalEntry {
  /** Both sides are connected; `counts` is read now and then until `end`. */
  opened(counts: ByteCounts): void;
  end(end: EntryEnd): void;
}

export interface Journal {
  /** A connection begins. `startMs`: when it was accepted, on the monotonic clock. */
  begin(facts: EntryFacts, startMs: number): JournalEntry;
  /** A connection that was refused before anything was opened. */
  refuse(facts: EntryFacts, startMs: number, error: MeshError): void;
  stop(): void;
}

interface Running {
  readonly edge: Edge;
  readonly counts: ByteCounts;
  sent: number;
  received: number;
}

export function createJournal(clock: Clock, reporter: ConnectionReporter): Journal {
  const running = new Roster<Running>();
  const ticker = clock.every(PROGRESS_MS, () => {
    running.each((item) => {
      const { bytesSent, bytesReceived } = item.counts();
      if (bytesSent === item.sent && bytesReceived === item.received) return;
      reporter.progress(item.edge, bytesSent - item.sent, bytesReceived - item.received);
      item.sent = bytesSent;
      item.received = bytesReceived;
    });
  });
  const begin = (facts: EntryFacts, startMs: number): JournalEntry => {
    let item: Running | undefined;
    let place: Place | undefined;
    let ended = false;
    return {
      opened(counts) {
        if (ended || item !== undefined) return;
        item = { edge: facts.edge, counts, sent: 0, received: 0 };
        place = running.add(item);
        reporter.opened(facts.edge);
      },
      end({ bytesSent, bytesReceived, flag, error }) {
        if (ended) return;
        ended = true;
        place?.leave();
        const policy = error?.details['policy'];
        reporter.ended(
          {
            ...facts,
            bytesSent,
            bytesReceived,
            durationMs: clock.nowMs() - startMs,
            flag,
            policy: typeof policy === 'string' ? policy : '',
            errorCode: error?.code,
            error: error?.message ?? '',
            opened: item !== undefined,
          },
          item?.sent ?? 0,
          item?.received ?? 0,
        );
      },
    };
  };
  return {
    begin,
    refuse(facts, startMs, error) {
      const flag = error.flag ?? 'CONNECT';
      begin(facts, startMs).end({ bytesSent: 0, bytesReceived: 0, flag, error });
    },
    stop: () => ticker.cancel(),
  };
}
