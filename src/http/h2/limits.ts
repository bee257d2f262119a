/**
 * The numbers of a session: what it advertises and how much a peer may ask of it. The defaults suit
 * authenticated peers that carry the connections of many users (HBONE); a waypoint may set tighter ones.
 */

/** Tokens for one kind of frame: `burst` at once, `perSecond` in the long run. */
export interface Rate {
  readonly burst: number;
  readonly perSecond: number;
}

export interface H2Limits {
  /** Streams the peer may have open, advertised. Default 200. */
  readonly streamsMax: number;
  /** Decoded header list, advertised. Larger: 431 from a server, reset from a client. Default 64 KiB. */
  readonly headerListMaxBytes: number;
  /** Encoded header block; larger ends the session. Default 64 KiB. */
  readonly headerBlockMaxBytes: number;
  /** CONTINUATION frames of one header block. Default 8. */
  readonly continuationsMax: number;
  /** A header block must be complete after this. Default 5,000 ms. */
  readonly headerBlockTimeoutMs: number;
  /** Preface and SETTINGS must have come after this. Default 10,000 ms. */
  readonly prefaceTimeoutMs: number;
  /** Answers (acks, resets, window updates) waiting for the socket. Default 1,000. */
  readonly controlQueuedMax: number;
  /** Bytes queued in all streams of the session; the stream that exceeds it is reset. Default 64 MiB. */
  readonly queuedMaxBytes: number;
  /**
   * A session with more than `stallMinBytes` queued that could send nothing for `stallTimeoutMs` ends. One
   * stalled user never queues that much. Defaults 1 MiB and 60,000 ms.
   */
  readonly stallMinBytes: number;
  readonly stallTimeoutMs: number;
  /** RST_STREAM before we answered (T60). Default 2,000 at once, 500/s: a tunnel's users give up often. */
  readonly earlyResets: Rate;
  /** RST_STREAM on answered streams: how a tunnelled connection is aborted. Default 20,000 and 5,000/s. */
  readonly lateResets: Rate;
  /** Resets the peer provoked from us by breaking rules (T61). Default 100 and 10/s. */
  readonly provokedResets: Rate;
  /** SETTINGS, PING, PRIORITY, WINDOW_UPDATE, GOAWAY; DATA we send earns more. Default 10,000 and 2,000/s. */
  readonly controlFrames: Rate;
  /** DATA without bytes and without END_STREAM. Default 100 and 10/s. */
  readonly emptyData: Rate;
  /** Frames of unknown types, one per 16 KiB or part of it. Default 1,000 and 100/s. */
  readonly unknownFrames: Rate;
  /** A session that has ended but whose socket has not closed is destroyed after this. Default 10,000 ms. */
  readonly reapAfterMs: number;
  /** The session drains itself after this stream id (T72). Default 2^24. */
  readonly streamIdMax: number;
  /** The session drains itself at this age (T72). Default 24 h. */
  readonly ageMaxMs: number;
}

export const H2_LIMITS_DEFAULT: H2Limits = {
  streamsMax: 200,
  headerListMaxBytes: 64 * 1024,
  headerBlockMaxBytes: 64 * 1024,
  continuationsMax: 8,
  headerBlockTimeoutMs: 5000,
  prefaceTimeoutMs: 10_000,
  controlQueuedMax: 1000,
  queuedMaxBytes: 64 * 1024 * 1024,
  stallMinBytes: 1024 * 1024,
  stallTimeoutMs: 60_000,
  earlyResets: { burst: 2000, perSecond: 500 },
  lateResets: { burst: 20_000, perSecond: 5000 },
  provokedResets: { burst: 100, perSecond: 10 },
  controlFrames: { burst: 10_000, perSecond: 2000 },
  emptyData: { burst: 100, perSecond: 10 },
  unknownFrames: { burst: 1000, perSecond: 100 },
  reapAfterMs: 10_000,
  streamIdMax: 2 ** 24,
  ageMaxMs: 24 * 3_600_000,
};
