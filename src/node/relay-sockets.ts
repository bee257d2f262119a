/** The relay between two plain TCP sockets. See relay.ts for what it promises. */

import type { Socket } from 'node:net';

import type { MeshError } from '../base/errors.ts';
import { relayResult, type Relay, type RelayOptions, type SweptRelay } from './relay.ts';
import { SocketEnd } from './socket-end.ts';

/**
 * Joins `a` (the side that opened the connection) and `b`, both connected or connecting. Owns both from
 * here: nobody else may listen to, write to or destroy them.
 */
export function relaySockets(a: Socket, b: Socket, options: RelayOptions): Relay {
  return new SocketRelay(a, b, options);
}

class SocketRelay implements SweptRelay {
  readonly #options: RelayOptions;
  readonly #a: SocketEnd;
  readonly #b: SocketEnd;
  readonly #forget: () => void;
  #error: MeshError | undefined;

  constructor(a: Socket, b: Socket, options: RelayOptions) {
    this.#options = options;
    this.#a = this.#join(a, 'source', () => this.#b);
    this.#b = this.#join(b, 'destination', () => this.#a);
    this.#forget = options.sweep.add(this);
  }

  get bytesToA(): number {
    return this.#a.bytesTaken;
  }

  get bytesToB(): number {
    return this.#b.bytesTaken;
  }

  get halfClosed(): boolean {
    return this.#a.readEnded !== this.#b.readEnded;
  }

  close(error: MeshError): void {
    this.#error ??= error;
    this.#a.reset();
    this.#b.reset();
  }

  probe(): void {
    this.#a.probe();
    this.#b.probe();
  }

  #join(socket: Socket, name: string, other: () => SocketEnd): SocketEnd {
    const end: SocketEnd = new SocketEnd(socket, this.#options.buffers, name, {
      onChunk(buffer, offset, length) {
        const view = buffer.subarray(offset, offset + length);
        if (!other().take(view, end.reader, buffer)) end.reader.pause();
      },
      onEnd: () => other().end(),
      onTaken: () => other().reader.resume(),
      onFailed: (error) => {
        this.#error ??= error;
        if (end.readEnded) other().finish();
        else other().reset();
      },
      onClosed: () => {
        if (!other().closed) return;
        this.#forget();
        this.#options.onResult(relayResult(this, this.#error));
      },
    });
    return end;
  }
}
