/**
 * Counts the messages of a gRPC call in both directions by their five-byte prefixes alone (gRPC over HTTP/2,
 * "Length-Prefixed-Message"): what lies between is stepped over, so the cost is per message and per chunk, not per byte.
 */

import type { HeaderList } from '../http/h2/contract.ts';
import { isGrpcContent } from './local-answer.ts';

const PREFIX_BYTES = 5;
/** A stream may live for days; what it has carried must show before it ends. */
const REPORT_AT = 64;

/** One direction. A message counts as soon as its prefix is complete. */
class MessageCounter {
  /** Since somebody last took it. */
  count = 0;
  /** Bytes of the message at hand that have not come. */
  #leftBytes = 0;
  /** What has come of a prefix that is split over chunks. */
  #prefixBytes = 0;
  #length = 0;

  push(chunk: Buffer): void {
    const end = chunk.length;
    for (let at = 0; at < end;) {
      if (this.#leftBytes > 0) {
        const step = Math.min(this.#leftBytes, end - at);
        this.#leftBytes -= step;
        at += step;
        continue;
      }
      // The first byte tells whether it is compressed, four more how long it is.
      if (this.#prefixBytes > 0) this.#length = this.#length * 256 + (chunk[at] ?? 0);
      at++;
      this.#prefixBytes++;
      if (this.#prefixBytes < PREFIX_BYTES) continue;
      this.count++;
      this.#leftBytes = this.#length;
      this.#prefixBytes = 0;
      this.#length = 0;
    }
  }
}

/** Of one call. */
export class GrpcMessages {
  readonly #report: (requestCount: number, responseCount: number) => void;
  readonly #request = new MessageCounter();
  readonly #response = new MessageCounter();
  #answersGrpc = false;

  /** `report`: how many more there are, each time some have gathered and when `report` is called. */
  constructor(report: (requestCount: number, responseCount: number) => void) {
    this.#report = report;
  }

  pushRequest(chunk: Buffer): void {
    this.#request.push(chunk);
    if (this.#request.count >= REPORT_AT) this.report();
  }

  /** The head of the answer; what is not gRPC, such as the page of a gateway, has no messages. */
  answered(headers: HeaderList): void {
    this.#answersGrpc = isGrpcContent(headers);
  }

  pushResponse(chunk: Buffer): void {
    if (!this.#answersGrpc) return;
    this.#response.push(chunk);
    if (this.#response.count >= REPORT_AT) this.report();
  }

  report(): void {
    const requests = this.#request.count;
    const responses = this.#response.count;
    this.#request.count = 0;
    this.#response.count = 0;
    if (requests + responses > 0) this.#report(requests, responses);
  }
}
