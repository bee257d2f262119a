/**
 * One client's stream on the server: reads requests in order and sends responses, each side on its own.
 *
 * - Types go out in the order of `TYPE_ORDER`: while something of an earlier type waits, later ones wait too.
 * - Our own clients get large sets in several responses, each small; a foreign one gets a set in one message,
 *   since it takes the first response of a type for the whole, and that message is made piece by piece.
 */

import type { Timer } from '../base/clock.ts';
import { sleep } from '../base/clock.ts';
import { createTimeSlice, type TimeSlice } from '../base/time-slice.ts';
import type { GrpcServerCall } from './grpc-server.ts';
import { GRPC_STATUS, grpcError } from './grpc-status.ts';
import { ResourceCache } from './resource-cache.ts';
import type { DiscoveryServerMetrics } from './server-metrics.ts';
import type { ClientInfo, DiscoveryServerOptions, View } from './server.ts';
import { Subscription, type Batch } from './subscription.ts';
import { TYPE_ORDER, TYPE_URL, typeLabel } from './type-urls.ts';
import {
  decodeDeltaRequest,
  encodeResources,
  encodeResponseHead,
  resourceFieldBytes,
  type DeltaRequest,
  type DeltaResponse,
} from './wire-messages.ts';
import type { WireResource } from './wire-resource.ts';

/** One response to our own clients: small enough to be applied, and encoded, in a few milliseconds. */
const BATCH_LIMITS = { resources: 512, bytes: 1_048_576 } as const;
/** Types one client may ask for, those we do not have among them. */
const TYPES_MAX = 32;
/** How long a client may stay silent before its first request. */
export const FIRST_REQUEST_TIMEOUT_MS = 10_000;
/** Requests that are read without delay; above, the client waits. ACKs are requests too. */
const REQUESTS_BURST = 1_000;
export const REQUESTS_PER_SECOND = 500;
/**
 * How long addresses wait for the client to ask for policies. ztunnel asks for both at once but for addresses
 * first, and the two requests may be read in different turns.
 */
export const POLICY_GRACE_MS = 100;

export interface ServerStreamParts<C extends ClientInfo, P> {
  readonly options: DiscoveryServerOptions<C, P>;
  readonly pushIntervalMs: number;
  readonly metrics: DiscoveryServerMetrics;
  readonly call: GrpcServerCall<P>;
  readonly client: C;
}

interface TypeState {
  readonly subscription: Subscription;
  readonly cache: ResourceCache;
  readonly order: number;
  /** The nonce the client has not answered yet. */
  outstanding: string | undefined;
  readonly openedMs: number;
  lastPushMs: number;
  /** The cache's generation that the outstanding response completes; 0 when more parts follow. */
  sentGeneration: number;
  /** Everything up to this generation of the cache was acknowledged. */
  ackedGeneration: number;
  /** An answer to a request, or the next part of one, is sent without waiting for the interval. */
  urgent: boolean;
  stopListening: () => void;
}

export class ServerStream<C extends ClientInfo, P> {
  readonly client: C;
  readonly #parts: ServerStreamParts<C, P>;
  readonly #slice: TimeSlice;
  readonly #types = new Map<string, TypeState>();
  #view: View | undefined;
  #acceptsPartial = false;
  #nonce = 0;
  #takenReports: { readonly typeUrl: string; readonly sequence: number } | undefined;
  #wake: (() => void) | undefined;
  #wakeTimer: Timer | undefined;
  #ended = false;
  #tokens = REQUESTS_BURST;
  #tokensMs: number;
  #end: (error: Error | undefined) => void = () => {};

  constructor(parts: ServerStreamParts<C, P>) {
    this.#parts = parts;
    this.client = parts.client;
    this.#slice = createTimeSlice(parts.options.clock);
    this.#tokensMs = parts.options.clock.nowMs();
  }

  /** Ends the stream with a status, from outside. */
  end(status: number, message: string): void {
    this.#end(grpcError(status, message));
  }

  /** Whether the client takes this type and has not acknowledged that generation of its cache. */
  isBehind(typeUrl: string, generation: number): boolean {
    const type = this.#types.get(typeUrl);
    if (type === undefined) return false;
    const idle = !type.subscription.pending && type.outstanding === undefined;
    return !idle && type.ackedGeneration < generation;
  }

  /** Serves until the client ends the stream, or throws what ended it. */
  async serve(): Promise<void> {
    const { call, options } = this.#parts;
    const silent = grpcError(GRPC_STATUS.DEADLINE_EXCEEDED, 'No request came');
    const timer = options.clock.after(FIRST_REQUEST_TIMEOUT_MS, () => {
      if (this.#view === undefined) this.#end(silent);
    });
    const ended = new Promise<void>((resolve, reject) => {
      this.#end = (error) => {
        if (error === undefined) resolve();
        else reject(error);
      };
      const onAbort = (): void => reject(call.signal.reason as Error);
      if (call.signal.aborted) onAbort();
      else call.signal.addEventListener('abort', onAbort, { once: true });
    });
    const stop = (error: unknown): void => this.#end(error as Error);
    this.#readRequests().then(() => this.#end(undefined), stop);
    this.#sendResponses().catch(stop);
    try {
      await ended;
    } finally {
      this.#ended = true;
      timer.cancel();
      this.#wakeTimer?.cancel();
      for (const type of this.#types.values()) type.stopListening();
      this.#wake?.();
    }
  }

  async #readRequests(): Promise<void> {
    const { call, options, client } = this.#parts;
    for (;;) {
      const bytes = await call.read();
      if (bytes === undefined || this.#ended) return;
      await this.#limitRate();
      const request = await this.#decode(bytes);
      const claim = request.node ?? { id: '', cluster: '', metadata: new Map() };
      this.#view ??= await options.viewFor(client, claim);
      if (this.#ended) return;
      if (request.reportSequence > 0) await this.#takeReports(request);
      else this.#handle(request, this.#view);
    }
  }

  async #decode(bytes: Uint8Array): Promise<DeltaRequest> {
    try {
      return await decodeDeltaRequest(bytes, this.#slice);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw grpcError(GRPC_STATUS.INVALID_ARGUMENT, message, error);
    }
  }

  /** A token bucket; an empty one delays reading, which the client sees as a full window. */
  async #limitRate(): Promise<void> {
    const { clock } = this.#parts.options;
    const nowMs = clock.nowMs();
    const earned = ((nowMs - this.#tokensMs) * REQUESTS_PER_SECOND) / 1_000;
    this.#tokens = Math.min(REQUESTS_BURST, this.#tokens + earned) - 1;
    this.#tokensMs = nowMs;
    if (this.#tokens >= 0) return;
    await sleep(clock, (-this.#tokens * 1_000) / REQUESTS_PER_SECOND, this.#parts.call.signal);
  }

  async #takeReports(request: DeltaRequest): Promise<void> {
    const { typeUrl, reportSequence, reports } = request;
    await this.#parts.options.onReports?.(this.client, typeUrl, reports);
    this.#takenReports = { typeUrl, sequence: reportSequence };
    this.#wakeSender();
  }

  #handle(request: DeltaRequest, view: View): void {
    const { typeUrl } = request;
    if (request.acceptsPartial) this.#acceptsPartial = true;
    const type = this.#types.get(typeUrl);
    if (type === undefined) {
      this.#open(request, view);
    } else {
      if (request.responseNonce !== '' && request.responseNonce === type.outstanding) {
        type.outstanding = undefined;
        type.ackedGeneration = Math.max(type.ackedGeneration, type.sentGeneration);
        if (request.rejections !== undefined) this.#rejected(request);
      }
      if (request.subscribe.length > 0 || request.unsubscribe.length > 0) {
        type.subscription.change(request);
        type.urgent = true;
      }
    }
    this.#checkOverflow(this.#types.get(typeUrl));
    this.#wakeSender();
  }

  #open(request: DeltaRequest, view: View): void {
    const { typeUrl } = request;
    if (this.#types.size >= TYPES_MAX) {
      throw grpcError(GRPC_STATUS.RESOURCE_EXHAUSTED, `More than ${TYPES_MAX} types`);
    }
    // A type that the view lacks is answered with nothing, so that the client need not wait for it.
    const cache = view.get(typeUrl) ?? new ResourceCache(typeUrl);
    const place = TYPE_ORDER.indexOf(typeUrl);
    const type: TypeState = {
      subscription: new Subscription(cache, request, request.initialVersions),
      cache,
      order: place < 0 ? TYPE_ORDER.length : place,
      outstanding: undefined,
      sentGeneration: 0,
      ackedGeneration: 0,
      openedMs: this.#parts.options.clock.nowMs(),
      lastPushMs: -Infinity,
      urgent: true,
      stopListening: cache.onChange((names) => {
        if (type.subscription.markChanged(names)) this.#wakeSender();
        this.#checkOverflow(type);
      }),
    };
    this.#types.set(typeUrl, type);
  }

  #checkOverflow(type: TypeState | undefined): void {
    if (type?.subscription.overflowed !== true) return;
    this.#parts.metrics.refused.add(1, ['overflow']);
    const reason = 'Too many names are subscribed, or changed while the client did not read';
    this.end(GRPC_STATUS.RESOURCE_EXHAUSTED, reason);
  }

  #rejected({ typeUrl, rejections = [] }: DeltaRequest): void {
    const { options, metrics } = this.#parts;
    metrics.nacks.add(1, [this.#label(typeUrl)]);
    const shown = rejections.slice(0, 10);
    options.logger.warn('Discovery client rejected resources', {
      client: this.client.id,
      type: typeUrl,
      count: rejections.length,
      rejections: shown,
    });
    options.onRejected?.(this.client, typeUrl, rejections);
  }

  /** A foreign type has no label of its own: clients choose them. */
  #label(typeUrl: string): string {
    return this.#view?.has(typeUrl) === true ? typeLabel(typeUrl) : 'other';
  }

  #wakeSender(): void {
    this.#wake?.();
  }

  async #sendResponses(): Promise<void> {
    while (!this.#ended) {
      // One turn of the loop, so that requests that came together are answered in the order of types.
      await this.#slice.yield();
      const taken = this.#takenReports;
      if (taken !== undefined) {
        this.#takenReports = undefined;
        await this.#send({ typeUrl: taken.typeUrl, reportSequence: taken.sequence }, [], []);
        continue;
      }
      const type = this.#nextType();
      if (type !== undefined) await this.#push(type);
      else await this.#sleepUntilWoken();
    }
  }

  async #sleepUntilWoken(): Promise<void> {
    if (this.#ended || this.#takenReports !== undefined || this.#nextType() !== undefined) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
    this.#wakeTimer?.cancel();
  }

  /** The first type in order that has something to say, if it may say it now. */
  #nextType(): TypeState | undefined {
    let first: TypeState | undefined;
    for (const type of this.#types.values()) {
      if (type.subscription.pending && (first === undefined || type.order < first.order)) {
        first = type;
      }
    }
    if (first === undefined || first.outstanding !== undefined) return undefined;
    const { clock } = this.#parts.options;
    const intervalEndMs = first.urgent ? -Infinity : first.lastPushMs + this.#parts.pushIntervalMs;
    const graceEndMs = this.#lacksPolicies(first) ? first.openedMs + POLICY_GRACE_MS : -Infinity;
    const waitMs = Math.max(intervalEndMs, graceEndMs) - clock.nowMs();
    if (waitMs <= 0) return first;
    this.#wakeTimer?.cancel();
    this.#wakeTimer = clock.after(waitMs, () => this.#wakeSender());
    return undefined;
  }

  /** Addresses are due, and policies, which should go before them, have not been asked for. */
  #lacksPolicies(type: TypeState): boolean {
    if (type.subscription.typeUrl !== TYPE_URL.address) return false;
    const { authorization } = TYPE_URL;
    return !this.#types.has(authorization) && this.#view?.has(authorization) === true;
  }

  async #push(type: TypeState): Promise<void> {
    const batch = this.#acceptsPartial
      ? type.subscription.take(BATCH_LIMITS)
      : await this.#takeAll(type.subscription);
    if (batch === undefined) return;
    const { resources, removed, partial } = batch;
    // Nothing but names the client holds already: look on in the next turn.
    if (partial && resources.length === 0 && removed.length === 0) return;
    const nonce = String(++this.#nonce);
    type.outstanding = nonce;
    type.sentGeneration = partial ? 0 : type.cache.generation;
    type.lastPushMs = this.#parts.options.clock.nowMs();
    type.urgent = partial;
    const { typeUrl } = type.subscription;
    const { metrics } = this.#parts;
    metrics.pushes.add(1, [this.#label(typeUrl)]);
    metrics.resources.add(resources.length + removed.length, [this.#label(typeUrl)]);
    const systemVersion = String(type.cache.generation);
    await this.#send({ typeUrl, nonce, systemVersion, partial }, resources, removed);
  }

  async #takeAll(subscription: Subscription): Promise<Batch | undefined> {
    const resources: WireResource[] = [];
    const removed: string[] = [];
    if (!subscription.pending) return undefined;
    for (;;) {
      const batch = subscription.take(BATCH_LIMITS);
      for (const resource of batch?.resources ?? []) resources.push(resource);
      for (const name of batch?.removed ?? []) removed.push(name);
      if (batch?.partial !== true) return { resources, removed, partial: false };
      if (this.#slice.spent) await this.#slice.yield();
    }
  }

  async #send(
    head: Partial<DeltaResponse> & Pick<DeltaResponse, 'typeUrl'>,
    resources: readonly WireResource[],
    removed: readonly string[],
  ): Promise<void> {
    const { typeUrl } = head;
    const own = this.#acceptsPartial;
    const full = { systemVersion: '', nonce: '', reportSequence: 0, partial: false, ...head };
    const headBytes = encodeResponseHead(full, removed);
    let totalBytes = headBytes.length;
    for (const resource of resources) {
      totalBytes += resourceFieldBytes(typeUrl, resource, own);
      if (this.#slice.spent) await this.#slice.yield();
    }
    const slice = this.#slice;
    async function* pieces(): AsyncGenerator<Uint8Array> {
      yield headBytes;
      for (let at = 0; at < resources.length; at += PIECE_RESOURCES) {
        if (slice.spent) await slice.yield();
        yield encodeResources(typeUrl, resources.slice(at, at + PIECE_RESOURCES), own);
      }
    }
    await this.#parts.call.writePieces(totalBytes, pieces());
  }
}

/** Resources encoded in one go. */
const PIECE_RESOURCES = 256;
