/**
 * The certificate call of Istio's CA, server side: reads and bounds the request, hands it to the issuer that
 * decides. Outside a refusal says nothing; the full reason is in the log (T01).
 */

import { create, fromBinary, toBinary } from '@bufbuild/protobuf';

import type { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Result } from '../base/result.ts';
import { formatIdentity, parseIdentity, type SpiffeId } from '../core/identity.ts';
import {
  IstioCertificateRequestSchema,
  IstioCertificateResponseSchema,
  type IstioCertificateRequest,
} from './gen/istio/v1/auth/ca_pb.ts';
import type { GrpcMetadata } from './grpc-client.ts';
import { unaryMethod, type GrpcMethod } from './grpc-server.ts';
import { GRPC_STATUS, grpcError } from './grpc-status.ts';
import type { ClientInfo } from './server.ts';

export interface CertificateCall {
  readonly csrPem: string;
  /** The identity asked for; undefined: the caller's own. */
  readonly identity: SpiffeId | undefined;
  /** What was asked for, at least 1 ms; the issuer bounds it. */
  readonly ttlMs: number;
}

export interface CaServiceOptions<C extends ClientInfo, P> {
  readonly logger: Logger;
  readonly registry: Registry;
  /** Runs before the request is read. */
  authenticate(metadata: GrpcMetadata, peer: P): Promise<Result<C>>;
  /**
   * Decides and issues: PEM texts, leaf first, then intermediates, last the roots in one text. An error that is
   * `retryable` tells the caller to come again (UNAVAILABLE); all others are a refusal.
   */
  issue(client: C, call: CertificateCall): Promise<Result<readonly string[]>>;
}

const REQUEST_MAX_BYTES = 131_072;
const TTL_DEFAULT_MS = 86_400_000;
/** Far above what any issuer grants; keeps the number exact. */
const TTL_MAX_MS = 315_360_000_000;

/** To be served under `CA_PATH` (ca-client.ts). */
export function createCaMethod<C extends ClientInfo, P>(
  options: CaServiceOptions<C, P>,
): GrpcMethod<P> {
  const { logger } = options;
  const requests = options.registry.counter({
    name: 'nodemesh_ca_requests_total',
    help: 'Certificate calls by outcome',
    labels: ['outcome'],
  });
  const refuse = (outcome: string, status: number, error: MeshError, client?: C): MeshError => {
    requests.add(1, [outcome]);
    logger.warn('Certificate refused', { client: client?.id ?? '', outcome, error });
    return grpcError(status, OPAQUE[outcome] ?? 'Refused', error);
  };
  return unaryMethod(async (bytes, { metadata, peer }) => {
    const client = await options.authenticate(metadata, peer);
    if (!client.ok && client.error.retryable) {
      throw refuse('unavailable', GRPC_STATUS.UNAVAILABLE, client.error);
    }
    if (!client.ok) {
      throw refuse('unauthenticated', GRPC_STATUS.UNAUTHENTICATED, client.error);
    }
    const call = readCall(parseRequest(bytes));
    if (!call.ok) {
      throw refuse('invalid', GRPC_STATUS.INVALID_ARGUMENT, call.error, client.value);
    }
    const issued = await options.issue(client.value, call.value);
    if (!issued.ok) {
      const { retryable } = issued.error;
      const status = retryable ? GRPC_STATUS.UNAVAILABLE : GRPC_STATUS.PERMISSION_DENIED;
      const outcome = retryable ? 'unavailable' : 'refused';
      throw refuse(outcome, status, issued.error, client.value);
    }
    requests.add(1, ['issued']);
    logger.info('Certificate issued', {
      client: client.value.id,
      identity: call.value.identity ?? '',
    });
    const answer = create(IstioCertificateResponseSchema, { certChain: [...issued.value] });
    return toBinary(IstioCertificateResponseSchema, answer);
  }, REQUEST_MAX_BYTES);
}

const OPAQUE: Readonly<Record<string, string>> = {
  unauthenticated: 'Unauthenticated',
  invalid: 'The request is malformed',
  refused: 'The certificate was refused',
  unavailable: 'Try again',
};

function parseRequest(bytes: Uint8Array): IstioCertificateRequest {
  try {
    return fromBinary(IstioCertificateRequestSchema, bytes);
  } catch (error) {
    throw grpcError(GRPC_STATUS.INVALID_ARGUMENT, 'The request is malformed', error);
  }
}

function readCall(request: IstioCertificateRequest): Result<CertificateCall> {
  const askedMs = Number(request.validityDuration) * 1_000;
  const ttlMs = askedMs > 0 ? Math.min(askedMs, TTL_MAX_MS) : TTL_DEFAULT_MS;
  const asked = request.metadata?.['ImpersonatedIdentity'];
  const call = { csrPem: request.csr, ttlMs };
  if (asked === undefined || asked === '')
    return { ok: true, value: { ...call, identity: undefined } };
  const identity = parseIdentity(typeof asked === 'string' ? asked : '');
  if (!identity.ok) return identity;
  return { ok: true, value: { ...call, identity: formatIdentity(identity.value) } };
}
