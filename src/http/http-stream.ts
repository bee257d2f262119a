/**
 * One request with its response, whatever version carries it. Messages are HTTP/2's header lists: pseudo headers
 * first, lower-case names, no field of the connection; HTTP/1.1 is translated to and from that by its codec.
 *
 * - Informational responses come as heads of their own before the final one.
 * - Trailers are headers after the head, with the end.
 * - `:status 101` exists between HTTP/1.1 peers only; after it both directions carry bytes of another protocol.
 * - A message that is cut short is never ended: `onReset`, and `reset` towards the other side.
 */

import type { H2StreamHandlers, HeaderList } from './h2/contract.ts';

export type HttpStreamHandlers = H2StreamHandlers;

/** An `H2Stream` is one. */
export interface HttpStream {
  setHandlers(handlers: HttpStreamHandlers): void;
  /** Head or trailers. Throws `MESH_MESSAGE_INVALID` for what may not be sent; nothing is sent then. */
  sendHeaders(headers: HeaderList, endStream: boolean): void;
  /** Takes `chunk`, copying what it cannot send at once. False: stop until `onDrain`. */
  write(chunk: Buffer): boolean;
  end(): void;
  /** An HTTP/2 error code; HTTP/1.1 cuts the connection for any. */
  reset(code: number): void;
  consume(bytes: number): void;
}
