/** SETTINGS (RFC 9113 section 6.5): what the peer has set, and our own frame. */

import { H2_ERROR } from './contract.ts';
import {
  FRAME_SIZE_DEFAULT,
  FRAME_SIZE_MAX,
  SETTING,
  WINDOW_DEFAULT,
  WINDOW_MAX,
} from './frames.ts';
import { readUint32, writeUint32 } from './frames.ts';

export const SETTING_BYTES = 6;
/** Settings in one frame; there are six we know. */
export const SETTINGS_MAX = 64;
/** Streams we open before the peer's SETTINGS have come. */
const STREAMS_ASSUMED = 100;

/** The peer's, with the RFC's defaults until it says otherwise. */
export interface PeerSettings {
  maxConcurrentStreams: number;
  initialWindowBytes: number;
  maxFrameBytes: number;
}

export function createPeerSettings(): PeerSettings {
  return {
    maxConcurrentStreams: STREAMS_ASSUMED,
    initialWindowBytes: WINDOW_DEFAULT,
    maxFrameBytes: FRAME_SIZE_DEFAULT,
  };
}

/** Applies a payload whose length is a multiple of six. Returns an HTTP/2 error code, 0 when all is well. */
export function applySettings(peer: PeerSettings, payload: Buffer, peerIsServer: boolean): number {
  for (let at = 0; at + SETTING_BYTES <= payload.length; at += SETTING_BYTES) {
    const id = ((payload[at] ?? 0) << 8) | (payload[at + 1] ?? 0);
    const value = readUint32(payload, at + 2);
    switch (id) {
      case SETTING.ENABLE_PUSH:
        // A server must not ask for pushes (RFC 9113 section 6.5.2).
        if (value > 1 || (peerIsServer && value === 1)) return H2_ERROR.PROTOCOL_ERROR;
        break;
      case SETTING.MAX_CONCURRENT_STREAMS:
        peer.maxConcurrentStreams = value;
        break;
      case SETTING.INITIAL_WINDOW_SIZE:
        if (value > WINDOW_MAX) return H2_ERROR.FLOW_CONTROL_ERROR;
        peer.initialWindowBytes = value;
        break;
      case SETTING.MAX_FRAME_SIZE:
        if (value < FRAME_SIZE_DEFAULT || value > FRAME_SIZE_MAX) return H2_ERROR.PROTOCOL_ERROR;
        peer.maxFrameBytes = value;
        break;
      default:
        // HEADER_TABLE_SIZE: our encoder has no table. MAX_HEADER_LIST_SIZE is advice; the peer refuses what it
        // does not want, stream by stream. Unknown ones are to be ignored.
        break;
    }
  }
  return H2_ERROR.NO_ERROR;
}

export function encodeSettings(
  settings: readonly (readonly [id: number, value: number])[],
): Buffer {
  const payload = Buffer.alloc(settings.length * SETTING_BYTES);
  for (const [index, [id, value]] of settings.entries()) {
    payload[index * SETTING_BYTES + 1] = id;
    writeUint32(payload, index * SETTING_BYTES + 2, value);
  }
  return payload;
}
