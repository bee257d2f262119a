/** Byte streams in memory, and what a codec's peer sees of them. */

import { createFakeClock, type FakeClock } from '../../../src/base/clock.ts';
import { createDeadlineSweep } from '../../../src/base/deadline-sweep.ts';
import { MeshError } from '../../../src/base/errors.ts';
import type { ByteStream, ByteStreamHandlers } from '../../../src/http/byte-stream.ts';
import { serveH1, type H1ServerConnection } from '../../../src/http/h1/server-connection.ts';
import { createScratchPool } from '../../../src/http/h1/scratch.ts';
import type { H1Refusal } from '../../../src/http/h1/head.ts';
import type { H1Limits } from '../../../src/http/h1/limits.ts';
import type { HeaderList } from '../../../src/http/h2/contract.ts';
import type { HttpStream } from '../../../src/http/http-stream.ts';

/** One end: what is written to it is collected, what is given to `receive` arrives at its owner. */
export class MemoryStream implements ByteStream {
  written = '';
  writes = 0;
  ended = false;
  wasReset = false;
  consumed = 0;
  received = 0;
  blocked = false;
  #handlers: ByteStreamHandlers | undefined;

  setHandlers(handlers: ByteStreamHandlers): void {
    this.#handlers = handlers;
  }

  write(chunk: Buffer): boolean {
    if (this.ended) throw new Error('written after the end');
    this.written += chunk.toString('latin1');
    this.writes++;
    return !this.blocked;
  }

  end(): void {
    this.ended = true;
  }

  reset(): void {
    if (this.wasReset) return;
    this.wasReset = true;
    this.#handlers?.onReset(new MeshError('MESH_CONNECTION_RESET', 'reset from here'));
  }

  consume(bytes: number): void {
    this.consumed += bytes;
  }

  /** As the transport does: a view of a buffer that is overwritten afterwards. */
  receive(text: string): void {
    const bytes = Buffer.from(text, 'latin1');
    this.received += bytes.length;
    this.#handlers?.onData(bytes);
    bytes.fill(0x58);
  }

  receiveEnd(): void {
    this.#handlers?.onEnd();
  }

  receiveReset(): void {
    this.#handlers?.onReset(new MeshError('MESH_CONNECTION_RESET', 'the peer is gone'));
  }

  drain(): void {
    this.blocked = false;
    this.#handlers?.onDrain();
  }
}

/** A message as its reader understood it. */
export interface Seen {
  readonly headers: HeaderList;
  body: string;
  trailers: HeaderList | undefined;
  ended: boolean;
  error: MeshError | undefined;
  readonly stream: HttpStream;
}

export interface ServerRig {
  readonly stream: MemoryStream;
  readonly connection: H1ServerConnection;
  readonly seen: Seen[];
  readonly refusals: H1Refusal[];
  readonly clock: FakeClock;
  closed: boolean;
}

/** `answer`: called when a request is complete; without it nothing is answered. */
export function createServerRig(
  answer: (seen: Seen) => void = () => {},
  limits: Partial<H1Limits> = {},
): ServerRig {
  const clock = createFakeClock();
  const stream = new MemoryStream();
  const seen: Seen[] = [];
  const refusals: H1Refusal[] = [];
  const rig = { stream, seen, refusals, clock, closed: false } as {
    -readonly [K in keyof ServerRig]: ServerRig[K];
  };
  rig.connection = serveH1(stream, {
    deadlines: createDeadlineSweep(clock),
    scratch: createScratchPool(),
    limits,
    onRequest(request, headers) {
      const one: Seen = {
        headers,
        body: '',
        trailers: undefined,
        ended: false,
        error: undefined,
        stream: request,
      };
      seen.push(one);
      request.setHandlers({
        onHeaders: (trailers) => void (one.trailers = trailers),
        onData(chunk) {
          one.body += chunk.toString('latin1');
          request.consume(chunk.length);
        },
        onEnd() {
          one.ended = true;
          answer(one);
        },
        onReset: (error) => void (one.error = error),
        onDrain: () => {},
      });
    },
    onRefused: (refusal) => refusals.push(refusal),
    onClosed: () => void (rig.closed = true),
  });
  return rig;
}

export const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export function answerOk(seen: Seen): void {
  seen.stream.sendHeaders([[':status', '200']], false);
  seen.stream.write(Buffer.from(`got ${seen.body.length}`));
  seen.stream.end();
}
