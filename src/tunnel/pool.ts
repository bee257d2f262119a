/**
 * The pool of tunnel sessions: one entry per (source workload and identity, credential generation, acceptable
 * destination identities, destination address), so that a session is never handed to another source (T45).
 *
 * Invariants:
 * - Dials are single-flight per entry: who finds no free slot waits for the dial under way, and shares its
 *   error; a dial serves as many waiters as its session has slots, then the next dial starts.
 * - A full session stays in its entry and serves again as soon as one of its streams ends.
 * - A session that drains or closes gets no new stream; its running streams are left alone. So does one whose
 *   peer hangs (`H2Session.suspect`), until it is heard again: each new stream asks, so that only those of the
 *   first second wait for it. When no other session can be opened, it has to do.
 * - A session without streams for `idleMs` is drained.
 * - A request is never sent twice: what happens after `request` is the caller's.
 */

import type { Clock, Timer } from '../base/clock.ts';
import { MeshError, errorFromNode } from '../base/errors.ts';
import { formatSocketAddress, type SocketAddress } from '../core/address.ts';
import type { SpiffeId } from '../core/identity.ts';
import type { H2Session, H2Stream, H2StreamHandlers, HeaderList } from '../http/h2/contract.ts';

/** Whom a session belongs to and where it leads. */
export interface TunnelTarget {
  readonly source: SpiffeId;
  /** Key of the source workload (its pod UID): streams of two pods never share a session. */
  readonly sourceWorkload: string;
  /** Changes with the source's certificate and with the trusted roots. */
  readonly generation: string;
  /** The identities that may answer, sorted. */
  readonly destinations: readonly SpiffeId[];
  readonly address: SocketAddress;
}

export interface TunnelPoolOptions {
  readonly clock: Clock;
  /** Opens a verified session to the target; aborted when nobody waits for it any more. */
  readonly dial: (target: TunnelTarget, signal: AbortSignal) => Promise<H2Session>;
  /** Streams on one session, whatever the peer allows. Default 100 (ztunnel's). */
  readonly streamsPerSessionMax?: number;
  /** An unused session is drained after this. Default 300,000 ms. */
  readonly idleMs?: number;
  /** Callers waiting for one entry. Default 1,024; beyond it `MESH_LIMIT_EXCEEDED`. */
  readonly waitersMax?: number;
  /** Sessions in all. Default 16,384; beyond it `MESH_LIMIT_EXCEEDED`. */
  readonly sessionsMax?: number;
}

export interface TunnelPool {
  readonly sessionCount: number;
  readonly waiterCount: number;
  /**
   * Opens a stream on a session of `target`. `onStream` is called synchronously when the request has been
   * sent, `onError` once if none could be. Returns a function that gives up while waiting. `endStream`: nothing
   * follows the headers; default false.
   */
  request(
    target: TunnelTarget,
    headers: HeaderList,
    handlers: H2StreamHandlers,
    onStream: (stream: H2Stream) => void,
    onError: (error: MeshError) => void,
    endStream?: boolean,
  ): () => void;
  /** Drains every session of a source workload: it is gone, or its identity changed. */
  release(sourceWorkload: string): void;
  /** Drains everything; running streams go on. */
  drain(): void;
}

interface Waiter {
  readonly headers: HeaderList;
  readonly handlers: H2StreamHandlers;
  readonly onStream: (stream: H2Stream) => void;
  readonly onError: (error: MeshError) => void;
  readonly endStream: boolean;
}

interface Member {
  readonly session: H2Session;
  idleTimer: Timer | undefined;
}

interface Entry {
  readonly key: string;
  readonly target: TunnelTarget;
  readonly members: Set<Member>;
  readonly waiters: Set<Waiter>;
  dialing: AbortController | undefined;
  /**
   * Streams the peer has allowed on a session before. A new session does not know until its SETTINGS arrive,
   * and a peer with few slots would refuse most of what is sent till then.
   */
  peerSlots: number;
}

function targetKey(target: TunnelTarget): string {
  return [
    target.sourceWorkload,
    target.source,
    target.generation,
    formatSocketAddress(target.address),
    ...target.destinations,
  ].join('|');
}

export function createTunnelPool(options: TunnelPoolOptions): TunnelPool {
  const { clock, dial } = options;
  const streamsMax = options.streamsPerSessionMax ?? 100;
  const idleMs = options.idleMs ?? 300_000;
  const waitersMax = options.waitersMax ?? 1024;
  const sessionsMax = options.sessionsMax ?? 16_384;
  const entries = new Map<string, Entry>();
  let sessionCount = 0;
  let waiterCount = 0;

  const slots = (entry: Entry, { session }: Member, evenSuspect: boolean): number => {
    if (session.state !== 'open' || (session.suspect && !evenSuspect)) return 0;
    const most = Math.min(streamsMax, entry.peerSlots);
    return Math.min(session.streamSlots, most - session.openStreams);
  };

  const forget = (entry: Entry): void => {
    if (entry.members.size === 0 && entry.waiters.size === 0 && entry.dialing === undefined) {
      entries.delete(entry.key);
    }
  };

  const watchIdle = (member: Member): void => {
    member.idleTimer?.cancel();
    member.idleTimer = undefined;
    // One that has just closed says so too: a timer would keep it for nothing.
    if (member.session.state !== 'open' || member.session.openStreams > 0) return;
    member.idleTimer = clock.after(idleMs, () => {
      if (member.session.openStreams === 0) member.session.drain();
    });
  };

  /** Sends on the fullest session that still has a slot, so that the others can fall idle. */
  const send = (entry: Entry, waiter: Waiter, evenSuspect = false): boolean => {
    let best: Member | undefined;
    let bestSlots = Number.POSITIVE_INFINITY;
    for (const member of entry.members) {
      const free = slots(entry, member, evenSuspect);
      if (free > 0 && free < bestSlots) [best, bestSlots] = [member, free];
    }
    if (best === undefined) return false;
    best.idleTimer?.cancel();
    best.idleTimer = undefined;
    try {
      waiter.onStream(best.session.request(waiter.headers, waiter.handlers, waiter.endStream));
      best.session.probe();
    } catch (error) {
      waiter.onError(errorFromNode(error, 'Cannot open a stream'));
    }
    return true;
  };

  const serve = (entry: Entry): void => {
    for (const waiter of entry.waiters) {
      if (!send(entry, waiter)) break;
      entry.waiters.delete(waiter);
      waiterCount--;
    }
    if (entry.waiters.size > 0) startDial(entry);
    else forget(entry);
  };

  const failAll = (entry: Entry, error: MeshError): void => {
    const waiters = [...entry.waiters];
    entry.waiters.clear();
    waiterCount -= waiters.length;
    forget(entry);
    for (const waiter of waiters) waiter.onError(error);
  };

  const adopt = (entry: Entry, session: H2Session): void => {
    const member: Member = { session, idleTimer: undefined };
    entry.members.add(member);
    sessionCount++;
    session.onClosed(() => {
      member.idleTimer?.cancel();
      if (!entry.members.delete(member)) return;
      sessionCount--;
      if (entry.waiters.size > 0) serve(entry);
      else forget(entry);
    });
    session.onSlots(() => {
      if (session.state === 'open' && !session.suspect) {
        entry.peerSlots = Math.max(1, session.streamSlots + session.openStreams);
      }
      watchIdle(member);
      if (entry.waiters.size > 0) serve(entry);
    });
    watchIdle(member);
  };

  const startDial = (entry: Entry): void => {
    if (entry.dialing !== undefined) return;
    if (sessionCount >= sessionsMax) {
      const message = `Cannot open a tunnel: ${sessionsMax} sessions are open already`;
      failAll(entry, new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'LIMIT' }));
      return;
    }
    const controller = new AbortController();
    entry.dialing = controller;
    dial(entry.target, controller.signal).then(
      (session) => {
        entry.dialing = undefined;
        adopt(entry, session);
        serve(entry);
      },
      (error: unknown) => {
        entry.dialing = undefined;
        // Where nothing can be opened the one that hangs is as good: a starved machine answers late.
        for (const waiter of entry.waiters) {
          if (!send(entry, waiter, true)) break;
          entry.waiters.delete(waiter);
          waiterCount--;
        }
        const where = formatSocketAddress(entry.target.address);
        failAll(entry, errorFromNode(error, `Cannot open a tunnel to "${where}"`));
      },
    );
  };

  return {
    get sessionCount() {
      return sessionCount;
    },
    get waiterCount() {
      return waiterCount;
    },
    request(target, headers, handlers, onStream, onError, endStream = false) {
      const key = targetKey(target);
      let entry = entries.get(key);
      if (entry === undefined) {
        entry = {
          key,
          target,
          members: new Set(),
          waiters: new Set(),
          dialing: undefined,
          peerSlots: Number.POSITIVE_INFINITY,
        };
        entries.set(key, entry);
      }
      const waiter: Waiter = { headers, handlers, onStream, onError, endStream };
      if (entry.waiters.size === 0 && send(entry, waiter)) return () => {};
      if (entry.waiters.size >= waitersMax) {
        const message = `Cannot open a tunnel to "${formatSocketAddress(target.address)}": ${waitersMax} callers wait for it already`;
        onError(new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'LIMIT' }));
        return () => {};
      }
      entry.waiters.add(waiter);
      waiterCount++;
      startDial(entry);
      const { waiters } = entry;
      const owner = entry;
      return () => {
        if (!waiters.delete(waiter)) return;
        waiterCount--;
        if (waiters.size === 0) owner.dialing?.abort();
      };
    },
    release(sourceWorkload) {
      for (const entry of entries.values()) {
        if (entry.target.sourceWorkload !== sourceWorkload) continue;
        entry.dialing?.abort();
        for (const member of entry.members) member.session.drain();
      }
    },
    drain() {
      for (const entry of entries.values()) {
        for (const member of entry.members) member.session.drain();
      }
    },
  };
}
