/** One request to a CA: fresh key, CSR, deadline; and the check of what comes back as if it came from anybody. */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { SpiffeId } from '../core/identity.ts';
import { createCsr } from './csr.ts';
import { createKeyPair, privateKeyPem } from './keys.ts';
import { verifyPeer } from './peer.ts';
import { parsePem } from './pem.ts';
import type { TrustBundle } from './trust-bundle.ts';
import { createWorkloadCertificate, type WorkloadCertificate } from './workload-certificate.ts';

export const SIGN_TIMEOUT_MS = 15_000;

export interface SignedChain {
  /** PEM texts, leaf first, no roots. */
  readonly chainPem: readonly string[];
  /** PEM texts of the roots to trust for the identity's domain; empty: none were sent. */
  readonly rootsPem: readonly string[];
}

/** How a request gets to a CA. Rejects with a `MeshError`, or anything, when it is refused. */
export interface CertificateSigner {
  sign(csrPem: string, identity: SpiffeId, signal: AbortSignal): Promise<SignedChain>;
}

export interface SigningOutcome {
  readonly privateKeyPem: string;
  readonly signed: SignedChain;
}

/**
 * Asks `signer` for a certificate of a new key. Rejects with what the signer does, with the reason of
 * `signal`, or with `MESH_DEADLINE_EXCEEDED` after `SIGN_TIMEOUT_MS`; a signer that never answers holds nobody.
 */
export async function requestCertificate(
  signer: CertificateSigner,
  identity: SpiffeId,
  clock: Clock,
  signal: AbortSignal,
): Promise<SigningOutcome> {
  const deadline = new AbortController();
  const timer = clock.after(SIGN_TIMEOUT_MS, () => {
    const message = `Cannot get a certificate for "${identity}": no answer in ${SIGN_TIMEOUT_MS} ms`;
    deadline.abort(new MeshError('MESH_DEADLINE_EXCEEDED', message, { retryable: true }));
  });
  try {
    const keys = createKeyPair();
    const either = AbortSignal.any([deadline.signal, signal]);
    const csr = createCsr(identity, keys);
    const signed = await abortable(signer.sign(csr, identity, either), either);
    return { privateKeyPem: privateKeyPem(keys.privateKey), signed };
  } finally {
    timer.cancel();
  }
}

/**
 * The certificate in a signer's answer, if it is of `identity` and our key, chains to a root of `bundle`, and
 * has not expired. Errors as `createWorkloadCertificate` and `verifyPeer`.
 */
export function checkOutcome(
  identity: SpiffeId,
  outcome: SigningOutcome,
  bundle: TrustBundle,
  nowMs: number,
): Result<WorkloadCertificate> {
  const { privateKeyPem: key, signed } = outcome;
  const certificate = createWorkloadCertificate(identity, key, signed.chainPem);
  if (!certificate.ok) return certificate;
  const verified = checkChain(certificate.value, bundle, nowMs);
  if (!verified.ok) return verified;
  if (certificate.value.notAfterMs > nowMs) return ok(certificate.value);
  const message = `Cannot use the certificate of "${identity}": it has expired on arrival; a clock is wrong`;
  return fail(new MeshError('MESH_CERTIFICATE_EXPIRED', message, { retryable: true }));
}

/** Whether peers with `bundle` accept the certificate's chain. Errors as `verifyPeer`. */
export function checkChain(
  certificate: WorkloadCertificate,
  bundle: TrustBundle,
  nowMs: number,
): Result<unknown> {
  const { notBeforeMs, notAfterMs, chainPem } = certificate;
  const chain = parsePem('CERTIFICATE', chainPem.join(''));
  if (!chain.ok) return chain;
  // Our calendar may be wrong; whether the chain holds is asked for a moment inside the leaf's life.
  const momentMs = Math.min(Math.max(nowMs, notBeforeMs), notAfterMs);
  return verifyPeer(chain.value, bundle, momentMs);
}

function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
