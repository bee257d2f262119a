/**
 * One stream of a discovery client: applies responses in the order they come, and sends what is due — ACKs,
 * changed subscriptions, reports — one request at a time, so that a server that does not read costs no memory.
 */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { createTimeSlice, type TimeSlice } from '../base/time-slice.ts';
import type { TypeHolding } from './client-type.ts';
import type { GrpcClientCall } from './grpc-client.ts';
import {
  createDeltaRequest,
  decodeDeltaResponse,
  encodeDeltaRequest,
  type DeltaRequest,
  type DeltaResponse,
  type NodeClaim,
  type Rejection,
} from './wire-messages.ts';
import type { WireResource } from './wire-resource.ts';

/** Deliveries that wait for the server's word. */
export const DELIVERIES_MAX = 64;

export interface ClientStreamParts {
  readonly clock: Clock;
  readonly call: GrpcClientCall;
  readonly node: NodeClaim;
  readonly types: ReadonlyMap<string, TypeHolding>;
  readonly reports: ReadonlyMap<string, readonly WireResource[]>;
}

/** Called after each response was applied. */
export type AppliedListener = (response: DeltaResponse, rejections: readonly Rejection[]) => void;

interface Answer {
  readonly nonce: string;
  readonly rejections: readonly Rejection[];
}

interface Delivery {
  readonly typeUrl: string;
  readonly resources: readonly WireResource[];
  readonly settle: (taken: boolean) => void;
}

export class ClientStream {
  readonly #parts: ClientStreamParts;
  readonly #slice: TimeSlice;
  /** One per type at most: a server waits for the answer before it sends the next. */
  readonly #answers = new Map<string, Answer>();
  readonly #reportsDue: Set<string>;
  /** Not sent yet, and sent under a sequence but not taken yet. */
  readonly #deliveriesDue: Delivery[] = [];
  readonly #deliveriesSent = new Map<number, Delivery>();
  #reportSequence = 0;
  #wake: (() => void) | undefined;
  #over = false;

  constructor(parts: ClientStreamParts) {
    this.#parts = parts;
    this.#slice = createTimeSlice(parts.clock);
    this.#reportsDue = new Set(parts.reports.keys());
  }

  /** Runs until the stream is lost, and throws why. */
  async run(onApplied: AppliedListener): Promise<never> {
    try {
      return await Promise.race([this.#send(), this.#receive(onApplied)]);
    } finally {
      this.#over = true;
      this.#parts.call.cancel();
      this.wake();
      const waiting = [...this.#deliveriesDue, ...this.#deliveriesSent.values()];
      for (const delivery of waiting) delivery.settle(false);
    }
  }

  /** Something may be due. */
  wake(): void {
    this.#wake?.();
  }

  reportAgain(typeUrl: string): void {
    this.#reportsDue.add(typeUrl);
    this.wake();
  }

  deliver(typeUrl: string, resources: readonly WireResource[]): Promise<boolean> {
    const waiting = this.#deliveriesDue.length + this.#deliveriesSent.size;
    if (this.#over || waiting >= DELIVERIES_MAX) return Promise.resolve(false);
    return new Promise((settle) => {
      this.#deliveriesDue.push({ typeUrl, resources, settle });
      this.wake();
    });
  }

  async #receive(onApplied: AppliedListener): Promise<never> {
    for (;;) {
      const bytes = await this.#parts.call.read();
      if (bytes === undefined) {
        const message = 'Cannot keep the discovery stream: the server ended it';
        throw new MeshError('MESH_DISCOVERY_STREAM_LOST', message, { retryable: true });
      }
      const response = await decodeDeltaResponse(bytes, this.#slice);
      if (response.reportSequence > 0) {
        this.#settleDeliveries(response.reportSequence);
        continue;
      }
      const type = this.#parts.types.get(response.typeUrl);
      if (type === undefined) continue;
      const rejections = [...response.malformed, ...(await type.apply(response))];
      if (!response.partial) type.synced = true;
      this.#answers.set(response.typeUrl, { nonce: response.nonce, rejections });
      this.wake();
      onApplied(response, rejections);
    }
  }

  #settleDeliveries(sequence: number): void {
    for (const [sent, delivery] of this.#deliveriesSent) {
      if (sent > sequence) break;
      this.#deliveriesSent.delete(sent);
      delivery.settle(true);
    }
  }

  async #send(): Promise<never> {
    let node: NodeClaim | undefined = this.#parts.node;
    for (const type of this.#parts.types.values()) {
      await this.#write({
        ...(node === undefined ? {} : { node }),
        typeUrl: type.typeUrl,
        ...type.start(),
        initialVersions: type.versions,
        acceptsPartial: true,
      });
      node = undefined;
    }
    for (;;) {
      const request = this.#nextRequest();
      if (request === undefined) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = undefined;
      } else {
        await this.#write(request);
      }
    }
  }

  async #write(request: Partial<DeltaRequest> & Pick<DeltaRequest, 'typeUrl'>): Promise<void> {
    const bytes = await encodeDeltaRequest(createDeltaRequest(request), this.#slice);
    await this.#parts.call.write(bytes);
  }

  /** ACKs first, since the server waits for them; then what is asked; then what is told. */
  #nextRequest(): (Partial<DeltaRequest> & Pick<DeltaRequest, 'typeUrl'>) | undefined {
    for (const type of this.#parts.types.values()) {
      const { typeUrl } = type;
      const answer = this.#answers.get(typeUrl);
      if (answer === undefined && !type.hasUntold) continue;
      this.#answers.delete(typeUrl);
      const rejections = answer?.rejections ?? [];
      return {
        typeUrl,
        ...type.takeUntold(),
        responseNonce: answer?.nonce ?? '',
        ...(rejections.length === 0 ? {} : { rejections }),
      };
    }
    for (const typeUrl of this.#reportsDue) {
      this.#reportsDue.delete(typeUrl);
      const reports = this.#parts.reports.get(typeUrl) ?? [];
      return { typeUrl, reports, reportSequence: ++this.#reportSequence };
    }
    const delivery = this.#deliveriesDue.shift();
    if (delivery === undefined) return undefined;
    this.#deliveriesSent.set(++this.#reportSequence, delivery);
    const { typeUrl, resources } = delivery;
    return { typeUrl, reports: resources, reportSequence: this.#reportSequence };
  }
}
