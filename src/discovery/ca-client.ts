/**
 * The certificate call of Istio's CA as a `CertificateSigner`: works with our controller and with any other
 * that speaks `IstioCertificateService`.
 */

import { create, fromBinary, toBinary } from '@bufbuild/protobuf';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { SpiffeId } from '../core/identity.ts';
import type { H2Session } from '../http/h2/contract.ts';
import type { CertificateSigner, SignedChain } from '../identity/certificate-request.ts';
import { PEM_MAX_BLOCKS, PEM_MAX_CHARS } from '../identity/pem.ts';
import {
  IstioCertificateRequestSchema,
  IstioCertificateResponseSchema,
} from './gen/istio/v1/auth/ca_pb.ts';
import { callUnary, type GrpcMetadata } from './grpc-client.ts';
import { GRPC_STATUS, grpcStatusOf } from './grpc-status.ts';

export const CA_PATH = '/istio.v1.auth.IstioCertificateService/CreateCertificate';

export interface CaClientOptions {
  readonly clock: Clock;
  /** A session to the CA, dialled if none stands. It stays its owner's. */
  session(signal: AbortSignal): Promise<H2Session>;
  /** Read anew per call; undefined sends no `authorization`. */
  token(): Promise<string | undefined>;
  readonly authority: string;
  /** Default `https`. */
  readonly scheme?: 'http' | 'https';
  /** Sent besides `authorization`, e.g. `clusterid`. */
  readonly metadata?: GrpcMetadata;
  /** What we ask for; a CA may give less. Default 24 h. */
  readonly ttlMs?: number;
  /** Default 10,000; identity/ waits 15,000. */
  readonly deadlineMs?: number;
}

const TTL_DEFAULT_MS = 86_400_000;
const DEADLINE_DEFAULT_MS = 10_000;
const ANSWER_MAX_BYTES = 1_048_576;
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;
/** The CA has decided; asking again changes nothing by itself. */
const REFUSALS: ReadonlySet<number | undefined> = new Set([
  GRPC_STATUS.UNAUTHENTICATED,
  GRPC_STATUS.PERMISSION_DENIED,
  GRPC_STATUS.INVALID_ARGUMENT,
]);

/** Rejects with `MESH_CA_REFUSED` when the CA says no, and with `MESH_GRPC_STATUS` when it did not answer. */
export function createCaClient(options: CaClientOptions): CertificateSigner {
  return {
    async sign(csrPem, identity, signal) {
      const session = await options.session(signal);
      const token = await options.token();
      const metadata = new Map(options.metadata);
      if (token !== undefined) metadata.set('authorization', `Bearer ${token}`);
      const { clock, authority, scheme = 'https' } = options;
      const deadlineMs = options.deadlineMs ?? DEADLINE_DEFAULT_MS;
      const call = { session, clock, authority, scheme, metadata, signal, deadlineMs };
      const request = encodeRequest(csrPem, identity, options.ttlMs ?? TTL_DEFAULT_MS);
      const limits = { path: CA_PATH, responseMaxBytes: ANSWER_MAX_BYTES };
      try {
        return readAnswer(await callUnary({ ...call, ...limits }, request), identity);
      } catch (error) {
        if (!REFUSALS.has(grpcStatusOf(error))) throw error;
        throw new MeshError('MESH_CA_REFUSED', `Cannot get a certificate for "${identity}"`, {
          cause: error,
          retryable: true,
          details: { identity },
        });
      }
    },
  };
}

function encodeRequest(csr: string, identity: SpiffeId, ttlMs: number): Uint8Array {
  const message = create(IstioCertificateRequestSchema, {
    csr,
    validityDuration: BigInt(Math.round(ttlMs / 1_000)),
    metadata: { ImpersonatedIdentity: identity },
  });
  return toBinary(IstioCertificateRequestSchema, message);
}

/** The last element holds the roots, one or several; those before it the chain, leaf first. */
function readAnswer(bytes: Uint8Array, identity: SpiffeId): SignedChain {
  const { certChain } = parseAnswer(bytes);
  const total = certChain.reduce((sum, pem) => sum + pem.length, 0);
  const chain = certChain.length > 1 ? certChain.slice(0, -1) : certChain;
  const roots = certChain.slice(chain.length);
  const certificates = (pems: readonly string[]): string[] =>
    pems.flatMap((pem) => pem.match(CERTIFICATE) ?? []).map((pem) => `${pem}\n`);
  if (total > PEM_MAX_CHARS || certChain.length > PEM_MAX_BLOCKS) {
    throw invalidAnswer(identity, 'it is too long');
  }
  const answer = { chainPem: certificates(chain), rootsPem: certificates(roots) };
  if (answer.chainPem.length === 0) throw invalidAnswer(identity, 'it has no certificate');
  return answer;
}

function parseAnswer(bytes: Uint8Array): { readonly certChain: readonly string[] } {
  try {
    return fromBinary(IstioCertificateResponseSchema, bytes);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new MeshError('MESH_MESSAGE_INVALID', `Cannot read the CA's answer: ${reason}`, {
      cause: error,
    });
  }
}

function invalidAnswer(identity: SpiffeId, reason: string): MeshError {
  const message = `Cannot use the CA's answer for "${identity}": ${reason}`;
  return new MeshError('MESH_CERTIFICATE_INVALID', message);
}
