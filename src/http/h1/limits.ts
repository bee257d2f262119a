/** How much of each part of an HTTP/1.1 message is accepted. What exceeds is refused, never cut off (T85). */

export interface H1Limits {
  /** Request or status line. Default 8 KiB; larger requests get 414. */
  readonly startLineMaxBytes: number;
  /** The whole head. Default 64 KiB; larger requests get 431. */
  readonly headMaxBytes: number;
  /** Fields of a head, and of a trailer section. Default 256; more get 431. */
  readonly fieldsMax: number;
  /** Trailer section. Default 8 KiB. */
  readonly trailersMaxBytes: number;
  /** Informational responses to one request (T84). Default 10. */
  readonly informationalMax: number;
  /** Bytes that may wait behind the request that is being served. Default 1 MiB. */
  readonly aheadMaxBytes: number;
  /** From the first byte of a head to its last. Default 10,000 ms. */
  readonly headTimeoutMs: number;
}

export const H1_LIMITS_DEFAULT: H1Limits = {
  startLineMaxBytes: 8192,
  headMaxBytes: 64 * 1024,
  fieldsMax: 256,
  trailersMaxBytes: 8192,
  informationalMax: 10,
  aheadMaxBytes: 1024 * 1024,
  headTimeoutMs: 10_000,
};
