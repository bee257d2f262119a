/**
 * The one error class of the mesh and the closed list of its codes.
 *
 * A code names a condition that somebody tells apart: a caller, a metric or an operator. Facts (addresses,
 * limits, names) travel in `details`, never in new codes. The response flag, when there is one, is what the
 * access log and the metric of the connection will carry.
 */

/** Every code a `MeshError` can have. Add one here, and a test that produces it. */
export const ERROR_CODES = [
  // base
  'MESH_ABORTED',
  'MESH_DEADLINE_EXCEEDED',
  'MESH_LIMIT_EXCEEDED',
  // configuration and input
  'MESH_CONFIG_INVALID',
  'MESH_MANIFEST_INVALID',
  'MESH_ADDRESS_INVALID',
  'MESH_IDENTITY_INVALID',
  'MESH_MESSAGE_INVALID',
  'MESH_CNI_REQUEST_INVALID',
  // command line
  'MESH_USAGE',
  // linux
  'MESH_SYSCALL_FAILED',
  'MESH_PLATFORM_UNSUPPORTED',
  'MESH_COMMAND_FAILED',
  'MESH_NAMESPACE_MISMATCH',
  // sockets
  'MESH_CONNECT_FAILED',
  'MESH_CONNECT_TIMEOUT',
  'MESH_CONNECTION_RESET',
  'MESH_CONNECTION_CLOSED',
  // http
  'MESH_HTTP1_PROTOCOL',
  'MESH_HTTP1_STREAM_RESET',
  'MESH_HTTP2_PROTOCOL',
  'MESH_HTTP2_STREAM_RESET',
  'MESH_HTTP2_GOAWAY',
  'MESH_HTTP2_ABUSE',
  'MESH_HPACK_INVALID',
  'MESH_HTTP_TARGET_INVALID',
  'MESH_TOKEN_INVALID',
  'MESH_JWKS_UNAVAILABLE',
  // identity
  'MESH_DER_INVALID',
  'MESH_CSR_INVALID',
  'MESH_CERTIFICATE_INVALID',
  'MESH_CERTIFICATE_EXPIRED',
  'MESH_CERTIFICATE_UNAVAILABLE',
  'MESH_CA_REFUSED',
  'MESH_CA_KEY_MISSING',
  // discovery
  'MESH_DISCOVERY_UNAUTHENTICATED',
  'MESH_DISCOVERY_STREAM_LOST',
  'MESH_GRPC_STATUS',
  // tunnel
  'MESH_TUNNEL_HANDSHAKE_FAILED',
  'MESH_TUNNEL_HANDSHAKE_TIMEOUT',
  'MESH_TUNNEL_IDENTITY_MISMATCH',
  'MESH_TUNNEL_REFUSED',
  'MESH_TUNNEL_REQUEST_INVALID',
  'MESH_TUNNEL_CLOSED',
  // node
  'MESH_POLICY_DENIED',
  'MESH_POLICY_UNKNOWN',
  'MESH_DESTINATION_UNKNOWN',
  'MESH_DESTINATION_FORBIDDEN',
  'MESH_NO_HEALTHY_ENDPOINT',
  'MESH_WAYPOINT_UNAVAILABLE',
  'MESH_WAYPOINT_BYPASSED',
  'MESH_CONFIG_UNAVAILABLE',
  'MESH_DRAINED',
  // kubernetes
  'MESH_API_REFUSED',
  'MESH_API_UNREACHABLE',
  // waypoint
  'MESH_RATE_STORE_FAILED',
  // redirection
  'MESH_RULES_FAILED',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/** Why a connection or request failed, as one short word for metric and access log (Istio's names where it has one). */
export const RESPONSE_FLAGS = [
  '-',
  'DENY',
  'CONNECT',
  'TLS_FAILURE',
  'H2_HANDSHAKE_FAILURE',
  'NETWORK_POLICY',
  'IDENTITY_ERROR',
  'CERT_REVOKED',
  'NO_ENDPOINT',
  'WAYPOINT',
  'CONFIG',
  'RESET',
  'DRAIN',
  'LIMIT',
  'TIMEOUT',
  'OVERFLOW',
  'RATE_LIMIT',
  'RETRY_BUDGET',
  'FAULT',
] as const;

export type ResponseFlag = (typeof RESPONSE_FLAGS)[number];

export interface MeshErrorOptions {
  readonly cause?: unknown;
  /** Whether the same act may succeed when tried again. Default false. */
  readonly retryable?: boolean;
  readonly flag?: ResponseFlag;
  readonly details?: Readonly<Record<string, unknown>>;
}

/** Messages: sentence case, no period, the action that failed, quoted values, the likely cause if known. */
export class MeshError extends Error {
  override readonly name = 'MeshError';
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly flag: ResponseFlag | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: MeshErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = options.retryable ?? false;
    this.flag = options.flag;
    this.details = options.details ?? {};
  }
}

const CAUSE_DEPTH_MAX = 8;

function nodeCode(error: unknown): string | undefined {
  let current: unknown = error;
  for (let depth = 0; depth < CAUSE_DEPTH_MAX && current instanceof Error; depth++) {
    if ('code' in current && typeof current.code === 'string') return current.code;
    current = current.cause;
  }
  return undefined;
}

const BY_NODE_CODE: ReadonlyMap<string, readonly [ErrorCode, ResponseFlag]> = new Map([
  ['ECONNREFUSED', ['MESH_CONNECT_FAILED', 'CONNECT']],
  ['EHOSTUNREACH', ['MESH_CONNECT_FAILED', 'CONNECT']],
  ['ENETUNREACH', ['MESH_CONNECT_FAILED', 'CONNECT']],
  ['EADDRNOTAVAIL', ['MESH_CONNECT_FAILED', 'CONNECT']],
  ['ENOENT', ['MESH_CONNECT_FAILED', 'CONNECT']],
  ['ETIMEDOUT', ['MESH_CONNECT_TIMEOUT', 'CONNECT']],
  ['ECONNRESET', ['MESH_CONNECTION_RESET', 'RESET']],
  ['EPIPE', ['MESH_CONNECTION_RESET', 'RESET']],
  ['ERR_STREAM_DESTROYED', ['MESH_CONNECTION_CLOSED', 'RESET']],
  ['ERR_STREAM_PREMATURE_CLOSE', ['MESH_CONNECTION_CLOSED', 'RESET']],
  ['ERR_STREAM_WRITE_AFTER_END', ['MESH_CONNECTION_CLOSED', 'RESET']],
]);

/**
 * The only place that knows Node's socket error codes: walks `cause` and returns a `MeshError`.
 * A `MeshError` is returned as it is. Unknown errors become `MESH_CONNECTION_RESET`.
 */
export function errorFromNode(error: unknown, action: string): MeshError {
  if (error instanceof MeshError) return error;
  const code = nodeCode(error);
  const known = code === undefined ? undefined : BY_NODE_CODE.get(code);
  const reason = error instanceof Error ? error.message : String(error);
  const [meshCode, flag] = known ?? (['MESH_CONNECTION_RESET', 'RESET'] as const);
  return new MeshError(meshCode, `${action}: ${reason}`, { cause: error, flag, retryable: true });
}
