/** gRPC status codes, their `MeshError` form, and what HTTP statuses and HTTP/2 resets mean in them. */

import { MeshError } from '../base/errors.ts';
import { H2_ERROR } from '../http/h2/contract.ts';

export const GRPC_STATUS = {
  OK: 0,
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

const RETRYABLE: ReadonlySet<number> = new Set([
  GRPC_STATUS.UNAVAILABLE,
  GRPC_STATUS.RESOURCE_EXHAUSTED,
  GRPC_STATUS.ABORTED,
]);
/** A peer's message that ends in a log line or an error. */
const MESSAGE_CHARS_MAX = 1_024;

/**
 * An error whose `details` carry the number (`status`) and the message (`statusMessage`). A server handler
 * that throws it ends its call with exactly these.
 */
export function grpcError(status: number, message: string, cause?: unknown): MeshError {
  const statusMessage = message.slice(0, MESSAGE_CHARS_MAX);
  const name = Object.entries(GRPC_STATUS).find(([, value]) => value === status)?.[0] ?? 'UNKNOWN';
  return new MeshError('MESH_GRPC_STATUS', `Cannot complete call: ${name}: ${statusMessage}`, {
    cause,
    retryable: RETRYABLE.has(status),
    details: { status, statusMessage },
  });
}

/** The status number of an error made by `grpcError`; undefined for others. */
export function grpcStatusOf(error: unknown): number | undefined {
  if (!(error instanceof MeshError) || error.code !== 'MESH_GRPC_STATUS') return undefined;
  const { status } = error.details;
  return typeof status === 'number' ? status : undefined;
}

/** `grpc-message`: printable ASCII, the rest of the UTF-8 bytes percent-encoded. */
export function encodeStatusMessage(message: string): string {
  let encoded = '';
  for (const byte of Buffer.from(message.slice(0, MESSAGE_CHARS_MAX))) {
    const plain = byte >= 0x20 && byte <= 0x7e && byte !== 0x25;
    encoded += plain
      ? String.fromCharCode(byte)
      : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  return encoded;
}

/** Never fails: what is not a valid escape stays as it is, as the protocol demands. */
export function decodeStatusMessage(text: string): string {
  if (!text.includes('%')) return text;
  const bytes: number[] = [];
  for (let at = 0; at < text.length; at++) {
    const hex = text.slice(at + 1, at + 3);
    if (text[at] === '%' && /^[0-9A-Fa-f]{2}$/.test(hex)) {
      bytes.push(Number.parseInt(hex, 16));
      at += 2;
    } else {
      bytes.push(...Buffer.from(text[at] ?? ''));
    }
  }
  return Buffer.from(bytes).toString();
}

/** What a response without gRPC in it means: a proxy or a stranger answered. */
export function statusFromHttp(httpStatus: string): number {
  switch (httpStatus) {
    case '400':
      return GRPC_STATUS.INTERNAL;
    case '401':
      return GRPC_STATUS.UNAUTHENTICATED;
    case '403':
      return GRPC_STATUS.PERMISSION_DENIED;
    case '404':
      return GRPC_STATUS.UNIMPLEMENTED;
    case '429':
    case '502':
    case '503':
    case '504':
      return GRPC_STATUS.UNAVAILABLE;
    default:
      return GRPC_STATUS.UNKNOWN;
  }
}

/** What the end of a stream without trailers means; undefined code: the session was lost. */
export function statusFromReset(code: number | undefined): number {
  switch (code) {
    case undefined:
    case H2_ERROR.REFUSED_STREAM:
      return GRPC_STATUS.UNAVAILABLE;
    case H2_ERROR.CANCEL:
      return GRPC_STATUS.CANCELLED;
    case H2_ERROR.ENHANCE_YOUR_CALM:
      return GRPC_STATUS.RESOURCE_EXHAUSTED;
    case H2_ERROR.INADEQUATE_SECURITY:
      return GRPC_STATUS.PERMISSION_DENIED;
    default:
      return GRPC_STATUS.INTERNAL;
  }
}
