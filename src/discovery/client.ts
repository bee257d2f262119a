/**
 * The delta ADS client: keeps one stream to a server for as long as it runs, and what was received stays in use
 * while there is none.
 *
 * - A response is acknowledged after it was applied; a resource that was not accepted is named in a NACK and
 *   the last good one stays.
 * - After a loss it reconnects with backoff and says what it holds, so that nothing known is sent again; reports
 *   are repeated.
 * - Names, reports and what waits to be sent are bounded; whoever asks for more is told.
 */

import { createBackoff } from '../base/backoff.ts';
import { sleep, type Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Random } from '../base/random.ts';
import type { H2Session } from '../http/h2/contract.ts';
import { createDiscoveryClientMetrics } from './client-metrics.ts';
import { ClientStream } from './client-stream.ts';
import { TypeHolding, type TypeUpdate } from './client-type.ts';
import { openGrpcCall, type GrpcMetadata } from './grpc-client.ts';
import { TYPE_ORDER, typeLabel } from './type-urls.ts';
import { DISCOVERY_PATH, type NodeClaim, type Rejection } from './wire-messages.ts';
import type { WireResource } from './wire-resource.ts';

export interface TypeSubscription {
  readonly typeUrl: string;
  /** `wildcard`: everything the server has for us. `on-demand`: only what `subscribe` names. */
  readonly mode: 'wildcard' | 'on-demand';
  /**
   * Takes one update; the next one of any type waits for it. Returns what it did not accept. `removed` also
   * answers names that select nothing. Must do long work in slices, and must not throw.
   */
  apply(update: TypeUpdate): Promise<readonly Rejection[]>;
}

export interface DiscoveryClientOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly registry: Registry;
  /**
   * Dials; the client owns the session and drains it when its stream has ended. The session must find out by
   * pings that the server is dead, and must honour the signal.
   */
  connect(signal: AbortSignal): Promise<H2Session>;
  /** Read anew per connection; undefined sends no `authorization`. */
  token(): Promise<string | undefined>;
  readonly node: NodeClaim;
  readonly authority: string;
  /** Default `https`. */
  readonly scheme?: 'http' | 'https';
  /** Sent besides `authorization`, e.g. `clusterid`. */
  readonly metadata?: GrpcMetadata;
  readonly subscriptions: readonly TypeSubscription[];
  /** After a loss the first attempt waits a random part of it, so that nodes do not all come at once. Default 500. */
  readonly reconnectSpreadMs?: number;
}

export interface DiscoveryClient {
  /** Connects, applies and reconnects until `signal` is aborted; never rejects. Call it once. */
  run(signal: AbortSignal): Promise<void>;
  /** Whether a stream stands on which the server has answered. */
  readonly connected: boolean;
  /** Counts the streams so far: whoever answers on another one may know nothing of what was delivered on those before. */
  readonly streamCount: number;
  /** Whether the first complete set of the type was applied. Stays true when the server goes. */
  isSynced(typeUrl: string): boolean;
  /** Resolves when all of `typeUrls` are synced; rejects with the signal's reason. */
  whenSynced(typeUrls: readonly string[], signal?: AbortSignal): Promise<void>;
  /**
   * On demand: asks for `names`, until `unsubscribe`. Asking again makes the server answer again. False, and
   * nothing asked, when that would be more than `HELD_NAMES_MAX` names.
   */
  subscribe(typeUrl: string, names: readonly string[]): boolean;
  unsubscribe(typeUrl: string, names: readonly string[]): void;
  /** Replaces what is reported of one type; told now, and again after each reconnect. */
  report(typeUrl: string, resources: readonly WireResource[]): void;
  /**
   * Sends something once. True when the server has taken it; false when the stream was lost before it said so
   * (it may have), or none stands, or `DELIVERIES_MAX` wait. Only our own servers ever answer.
   */
  deliver(typeUrl: string, resources: readonly WireResource[]): Promise<boolean>;
}

export const RECONNECT_INITIAL_MS = 10;
export const RECONNECT_MAX_MS = 15_000;
export const CONNECT_TIMEOUT_MS = 5_000;
const SPREAD_DEFAULT_MS = 500;
/** Types that may be reported. */
const REPORT_TYPES_MAX = 16;
/** How often failed attempts of one outage are logged. */
const LOST_AGAIN_MS = 10_000;

export function createDiscoveryClient(options: DiscoveryClientOptions): DiscoveryClient {
  const { clock, logger } = options;
  const types = new Map<string, TypeHolding>();
  for (const subscription of sortTypes(options.subscriptions)) {
    types.set(subscription.typeUrl, new TypeHolding(subscription));
  }
  const reports = new Map<string, readonly WireResource[]>();
  const syncWaiters = new Set<() => void>();
  let stream: ClientStream | undefined;
  let streamCount = 0;
  /** The server has answered on this stream. */
  let standing = false;
  let lostMs = clock.nowMs();
  /** Since the stream stood last. */
  let attempts = 0;
  let toldMs = -Infinity;
  const metrics = createDiscoveryClientMetrics(options.registry, () =>
    standing ? 0 : (clock.nowMs() - lostMs) / 1_000,
  );
  const backoff = createBackoff(options.random, {
    initialMs: RECONNECT_INITIAL_MS,
    maxMs: RECONNECT_MAX_MS,
  });

  /** One connection from dial to loss; always throws what ended it. */
  const connectOnce = async (signal: AbortSignal): Promise<never> => {
    const session = await dial(options, signal);
    try {
      const token = await options.token();
      const metadata = new Map(options.metadata);
      if (token !== undefined) metadata.set('authorization', `Bearer ${token}`);
      const { authority, scheme = 'https' } = options;
      const path = DISCOVERY_PATH;
      const call = openGrpcCall({ session, path, authority, scheme, clock, metadata, signal });
      metrics.connects.add(1, ['opened']);
      const current = new ClientStream({ clock, call, node: options.node, types, reports });
      stream = current;
      streamCount++;
      return await current.run((response, rejections) => {
        if (!standing) {
          logger.info('Configuration stream stands', { authority: options.authority, attempts });
          attempts = 0;
        }
        standing = true;
        backoff.reset();
        noteApplied(response.typeUrl, response.systemVersion, rejections);
        for (const check of syncWaiters) check();
      });
    } finally {
      if (standing) lostMs = clock.nowMs();
      standing = false;
      stream = undefined;
      session.drain();
    }
  };

  const noteApplied = (
    typeUrl: string,
    version: string,
    rejections: readonly Rejection[],
  ): void => {
    const labels = [typeLabel(typeUrl)];
    metrics.responses.add(1, labels);
    if (/^\d{1,15}$/.test(version)) metrics.version.set(Number(version), labels);
    if (rejections.length === 0) return;
    metrics.rejected.add(rejections.length, labels);
    const shown = rejections.slice(0, 10);
    logger.warn('Configuration rejected in part; the last good one stays in use', {
      type: typeLabel(typeUrl),
      count: rejections.length,
      rejections: shown,
    });
  };

  const run = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      try {
        await connectOnce(signal);
      } catch (error) {
        if (signal.aborted) return;
        metrics.connects.add(1, ['failed']);
        // Told at once when it is lost, and then now and again: a server that is gone for long fills no log.
        if (attempts === 0 || clock.nowMs() - toldMs >= LOST_AGAIN_MS) {
          toldMs = clock.nowMs();
          const message = 'Configuration stream lost; the last configuration stays in use';
          logger.warn(message, { error, attempts });
        }
        attempts++;
      }
      let delayMs = backoff.nextMs();
      // The first bound of the backoff: the server had answered, and now many clients lose it together.
      if (delayMs <= RECONNECT_INITIAL_MS) {
        delayMs += options.random.next() * (options.reconnectSpreadMs ?? SPREAD_DEFAULT_MS);
      }
      await sleep(clock, delayMs, signal).catch(() => {});
    }
  };

  const holding = (typeUrl: string): TypeHolding => {
    const type = types.get(typeUrl);
    if (type === undefined) throw new Error(`There is no subscription for "${typeUrl}"`);
    return type;
  };

  return {
    run,
    get connected() {
      return standing;
    },
    get streamCount() {
      return streamCount;
    },
    isSynced: (typeUrl) => types.get(typeUrl)?.synced ?? false,
    whenSynced(typeUrls, signal) {
      const isDone = (): boolean => typeUrls.every((typeUrl) => holding(typeUrl).synced);
      return waitUntil(isDone, syncWaiters, signal);
    },
    subscribe(typeUrl, names) {
      const accepted = holding(typeUrl).subscribe(names);
      if (accepted) stream?.wake();
      return accepted;
    },
    unsubscribe(typeUrl, names) {
      holding(typeUrl).unsubscribe(names);
      stream?.wake();
    },
    report(typeUrl, resources) {
      if (!reports.has(typeUrl) && reports.size >= REPORT_TYPES_MAX) {
        const message = `Cannot report type "${typeUrl}": more than ${REPORT_TYPES_MAX} types`;
        throw new MeshError('MESH_LIMIT_EXCEEDED', message);
      }
      reports.set(typeUrl, resources);
      stream?.reportAgain(typeUrl);
    },
    deliver: (typeUrl, resources) => stream?.deliver(typeUrl, resources) ?? Promise.resolve(false),
  };
}

/** What must be there first is asked for first. */
function sortTypes(subscriptions: readonly TypeSubscription[]): TypeSubscription[] {
  const place = ({ typeUrl }: TypeSubscription): number => {
    const index = TYPE_ORDER.indexOf(typeUrl);
    return index < 0 ? TYPE_ORDER.length : index;
  };
  return subscriptions.toSorted((a, b) => place(a) - place(b));
}

async function dial(options: DiscoveryClientOptions, signal: AbortSignal): Promise<H2Session> {
  const timeout = new AbortController();
  const message = `Cannot connect to "${options.authority}": no answer in ${CONNECT_TIMEOUT_MS} ms`;
  const timer = options.clock.after(CONNECT_TIMEOUT_MS, () =>
    timeout.abort(new MeshError('MESH_CONNECT_TIMEOUT', message, { retryable: true })),
  );
  try {
    return await options.connect(AbortSignal.any([signal, timeout.signal]));
  } finally {
    timer.cancel();
  }
}

/** Resolves when `isDone`, which is asked whenever one of `waiters` is called. */
function waitUntil(
  isDone: () => boolean,
  waiters: Set<() => void>,
  signal: AbortSignal | undefined,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const leave = (): void => {
      waiters.delete(check);
      signal?.removeEventListener('abort', onAbort);
    };
    const check = (): void => {
      if (!isDone()) return;
      leave();
      resolve();
    };
    const onAbort = (): void => {
      leave();
      reject(signal?.reason as Error);
    };
    if (signal?.aborted === true) {
      onAbort();
      return;
    }
    waiters.add(check);
    signal?.addEventListener('abort', onAbort, { once: true });
    check();
  });
}
