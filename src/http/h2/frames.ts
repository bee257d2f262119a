/** Names and layouts of HTTP/2 frames (RFC 9113 section 4 and 6): constants and small writers, no state. */

import { H2_ERROR } from './contract.ts';

export const FRAME = {
  DATA: 0,
  HEADERS: 1,
  PRIORITY: 2,
  RST_STREAM: 3,
  SETTINGS: 4,
  PUSH_PROMISE: 5,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;

export const FLAG = {
  ACK: 0x1,
  END_STREAM: 0x1,
  END_HEADERS: 0x4,
  PADDED: 0x8,
  PRIORITY: 0x20,
} as const;

export const SETTING = {
  HEADER_TABLE_SIZE: 1,
  ENABLE_PUSH: 2,
  MAX_CONCURRENT_STREAMS: 3,
  INITIAL_WINDOW_SIZE: 4,
  MAX_FRAME_SIZE: 5,
  MAX_HEADER_LIST_SIZE: 6,
} as const;

export const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
export const FRAME_SIZE_DEFAULT = 16_384;
export const FRAME_SIZE_MAX = 0xffffff;
export const WINDOW_DEFAULT = 65_535;
export const WINDOW_MAX = 0x7fffffff;
export const STREAM_ID_MAX = 0x7fffffff;

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(H2_ERROR).map(([name, code]) => [code, name]),
);

/** The RFC's name of an error code, or its number. */
export function errorCodeName(code: number): string {
  return NAMES.get(code) ?? String(code);
}

export function writeFrameHead(
  target: Buffer,
  offset: number,
  length: number,
  type: number,
  flags: number,
  streamId: number,
): void {
  target[offset] = length >>> 16;
  target[offset + 1] = length >>> 8;
  target[offset + 2] = length;
  target[offset + 3] = type;
  target[offset + 4] = flags;
  writeUint32(target, offset + 5, streamId);
}

export function writeUint32(target: Buffer, offset: number, value: number): void {
  target[offset] = value >>> 24;
  target[offset + 1] = value >>> 16;
  target[offset + 2] = value >>> 8;
  target[offset + 3] = value;
}

/** Big-endian; bytes past the end read as zero, so callers check lengths first. */
export function readUint32(source: Buffer, offset: number): number {
  return (
    (((source[offset] ?? 0) << 24) |
      ((source[offset + 1] ?? 0) << 16) |
      ((source[offset + 2] ?? 0) << 8) |
      (source[offset + 3] ?? 0)) >>>
    0
  );
}

/** As `readUint32` without the reserved bit. */
export function readUint31(source: Buffer, offset: number): number {
  return readUint32(source, offset) & 0x7fffffff;
}
