/**
 * What the HTTP/2 codec offers to the tunnel, to gRPC and to the waypoint: sessions and streams as
 * interfaces. The session (session.ts) implements them; nothing here does anything.
 *
 * Ownership of bytes: a chunk given to `onData` is a view of the session's read buffer and holds only during
 * the call. Whoever needs it longer copies it.
 *
 * Flow control: bytes given to `onData` count against the windows until the reader calls
 * `stream.consume(n)`. A reader that never consumes stops its own stream, never the others (T66).
 */

import type { MeshError } from '../../base/errors.ts';

/** Names in lower case; pseudo headers first; order kept. */
export type HeaderField = readonly [name: string, value: string];
export type HeaderList = readonly HeaderField[];

export const H2_ERROR = {
  NO_ERROR: 0,
  PROTOCOL_ERROR: 1,
  INTERNAL_ERROR: 2,
  FLOW_CONTROL_ERROR: 3,
  SETTINGS_TIMEOUT: 4,
  STREAM_CLOSED: 5,
  FRAME_SIZE_ERROR: 6,
  REFUSED_STREAM: 7,
  CANCEL: 8,
  COMPRESSION_ERROR: 9,
  CONNECT_ERROR: 10,
  ENHANCE_YOUR_CALM: 11,
  INADEQUATE_SECURITY: 12,
  HTTP_1_1_REQUIRED: 13,
} as const;

/** Bytes to leave free in front of a payload given to `writeFramed`. */
export const FRAME_HEADER_BYTES = 9;

/** Callbacks of one stream. None is called after `onReset`, nor after both sides have ended. */
export interface H2StreamHandlers {
  /**
   * The response head (client side; 1xx ones come first, each with a call) or trailers (either side).
   * `endStream`: no more bytes follow; `onEnd` is called all the same.
   */
  onHeaders(headers: HeaderList, endStream: boolean): void;
  /** See "Ownership of bytes" and "Flow control" above. Never empty. */
  onData(chunk: Buffer): void;
  /** The peer ended its side (END_STREAM). Ours may still be open. */
  onEnd(): void;
  /** The stream died: RST_STREAM from the peer, the session's end, or our own `reset`. Called once. */
  onReset(error: MeshError): void;
  /** After a write returned false: more may be written now. */
  onDrain(): void;
}

export interface H2Stream {
  readonly id: number;
  readonly session: H2Session;
  /** HTTP/2 code of the RST_STREAM that ended it, if one did. */
  readonly resetCode: number | undefined;
  /** Replaces the callbacks; a server sets them in `onStream`, before it returns. */
  setHandlers(handlers: H2StreamHandlers): void;
  sendHeaders(headers: HeaderList, endStream: boolean): void;
  /** Takes `chunk` (copying what it cannot send at once). False: stop until `onDrain`. */
  write(chunk: Buffer): boolean;
  /**
   * As `write`, without a copy when the windows and the socket allow: the payload is
   * `buffer[9 .. 9+payloadBytes)`; the first nine bytes are overwritten with the frame header. The caller
   * may reuse `buffer` as soon as this returns.
   */
  writeFramed(buffer: Buffer, payloadBytes: number): boolean;
  /** END_STREAM after everything written. Idempotent. */
  end(): void;
  /** RST_STREAM now; what is queued is dropped. */
  reset(code: number): void;
  /** `bytes` of `onData` have been disposed of: gives them back to both windows. */
  consume(bytes: number): void;
}

/** What a server's `onStream` gets. */
export interface H2ServerStream extends H2Stream {
  /**
   * The stream counts as one of the peer's open streams until the returned function is called, even when the
   * peer has reset it: for handlers whose work goes on after a reset (T61). Idempotent.
   */
  retain(): () => void;
}

export interface H2Session {
  /** `open`; `draining` after GOAWAY either way, no new streams; `closed`. */
  readonly state: 'open' | 'draining' | 'closed';
  readonly openStreams: number;
  /** How many more streams we may open now, by the peer's SETTINGS, GOAWAY and our stream-id limit (T72). */
  readonly streamSlots: number;
  /** Opens a stream (client side). Throws `MESH_HTTP2_GOAWAY` when `streamSlots` is 0. */
  request(headers: HeaderList, handlers: H2StreamHandlers, endStream: boolean): H2Stream;
  /** GOAWAY; open streams go on; the session closes when the last one ends. */
  drain(): void;
  /** Ends everything now; streams get `onReset`. */
  destroy(error?: MeshError): void;
  /** Called once when the session has closed; undefined after a clean end. At once if it has already. */
  onClosed(listener: (error: MeshError | undefined) => void): void;
  /** The peer was asked with `probe` and has sent nothing for a second; over with its next byte. */
  readonly suspect: boolean;
  /** PING, unless the peer is being asked already: shows within a second whether it still runs. */
  probe(): void;
  /** Called whenever `streamSlots` or `suspect` may have changed. One listener. */
  onSlots(listener: () => void): void;
}
