/**
 * Who is at the other end: the one place that turns a peer's certificate into an identity.
 *
 * - The identity is read from the DER of the leaf, never from Node's printed names (C30, C62).
 * - On a TLS connection OpenSSL has verified chain and validity against the context's roots; here its verdict
 *   is demanded and the SVID rules are added. `verifyPeer` does the whole chain without TLS.
 * - A leaf of trust domain A must chain to a root of A, also when roots of others are trusted (T11).
 */

import type { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { Identity, SpiffeId } from '../core/identity.ts';
import {
  type CertificateFields,
  isSignedBy,
  KEY_USAGE,
  readCertificate,
} from './certificate-reader.ts';
import { readSvid } from './svid.ts';
import type { TrustBundle, TrustRoot } from './trust-bundle.ts';
import { CHAIN_MAX_CERTIFICATES } from './workload-certificate.ts';

export interface PeerIdentity {
  readonly id: SpiffeId;
  readonly identity: Identity;
  /** Of the leaf, hex. */
  readonly serial: string;
  readonly notAfterMs: number;
}

/**
 * The identity of a TLS peer; call it in `secure` (server) or `secureConnect` (client), before any byte is
 * read or written, and destroy the socket on an error. Needs contexts made by tls.ts with this `bundle`.
 * Errors: `MESH_CERTIFICATE_INVALID`, `MESH_CERTIFICATE_EXPIRED`, `MESH_IDENTITY_INVALID`,
 * `MESH_DER_INVALID`, all with a response flag.
 *
 * A `TLSSocket` made by hand with `isServer` reports nothing by itself: it emits `secure` for a peer without
 * a certificate or with a false one, `authorized` stays false for all, and `rejectUnauthorized` only
 * makes OpenSSL insist on some certificate. The verdict is in the handle's `verifyError()` (tried, Node 26).
 */
export function authenticatePeer(
  socket: TLSSocket,
  bundle: TrustBundle,
  nowMs: number,
): Result<PeerIdentity> {
  const handle = (socket as { readonly ssl?: VerifyingHandle | null }).ssl;
  if (typeof handle?.verifyError !== 'function') return refuse('the connection is gone');
  const verdict = handle.verifyError();
  if (verdict !== null && verdict !== undefined) return refuseByOpenssl(verdict);
  // 30 us; getPeerCertificate(true), banned by C19, takes 170.
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) return refuse('the peer presented none');
  if (bundle.domains.size > 1) return verifyPeer(presentedChain(certificate), bundle, nowMs);
  const leaf = readLeaf(certificate.raw, bundle);
  return leaf.ok ? ok(leaf.value.peer) : leaf;
}

/**
 * The identity in `derChain` (leaf first, roots not needed) after verifying all of it: SVID rules, validity
 * at `nowMs`, signatures and CA rules up to a root of the leaf's own trust domain. Errors as
 * `authenticatePeer`.
 */
export function verifyPeer(
  derChain: readonly Buffer[],
  bundle: TrustBundle,
  nowMs: number,
): Result<PeerIdentity> {
  const [leafDer, ...others] = derChain;
  if (leafDer === undefined) return refuse('the chain is empty');
  if (derChain.length > CHAIN_MAX_CERTIFICATES) {
    return refuse(`the chain has more than ${CHAIN_MAX_CERTIFICATES} certificates`);
  }
  const leaf = readLeaf(leafDer, bundle);
  if (!leaf.ok) return leaf;
  const intermediates: CertificateFields[] = [];
  for (const der of others) {
    const fields = readCertificate(der);
    if (!fields.ok) return flagged(fields.error);
    intermediates.push(fields.value);
  }
  const fault = verifyPath(leaf.value.fields, intermediates, leaf.value.roots, nowMs);
  return fault === undefined ? ok(leaf.value.peer) : fault;
}

interface VerifyingHandle {
  verifyError?(): (Error & { code?: string }) | null | undefined;
}

interface Leaf {
  readonly peer: PeerIdentity;
  readonly fields: CertificateFields;
  readonly roots: readonly TrustRoot[];
}

function readLeaf(der: Buffer, bundle: TrustBundle): Result<Leaf> {
  const fields = readCertificate(der);
  if (!fields.ok) return flagged(fields.error);
  const svid = readSvid(fields.value);
  if (!svid.ok) return flagged(svid.error);
  const { id, identity } = svid.value;
  const roots = bundle.domains.get(identity.trustDomain);
  if (roots === undefined) return refuse(`trust domain "${identity.trustDomain}" is not trusted`);
  const { serial, notAfterMs } = fields.value;
  return ok({ peer: { id, identity, serial, notAfterMs }, fields: fields.value, roots });
}

/** The certificates the peer sent, as far as each names the next; OpenSSL has parsed them already. */
function presentedChain(leaf: X509Certificate): Buffer[] {
  const chain: Buffer[] = [];
  let current: X509Certificate | undefined = leaf;
  while (current !== undefined && chain.length < CHAIN_MAX_CERTIFICATES) {
    chain.push(current.raw);
    current = current.issuerCertificate;
  }
  return chain;
}

function verifyPath(
  leaf: CertificateFields,
  intermediates: readonly CertificateFields[],
  roots: readonly TrustRoot[],
  nowMs: number,
): Result<never> | undefined {
  let current = leaf;
  const unused = new Set(intermediates);
  for (let casBelow = 0; ; casBelow++) {
    const expired = validityFault(current, nowMs);
    if (expired !== undefined) return expired;
    const subject = current;
    const isIssuer = (ca: CertificateFields): boolean =>
      ca.subjectDer.equals(subject.issuerDer) &&
      mayIssue(ca, casBelow) &&
      isSignedBy(subject, ca.publicKeyDer);
    const root = roots.find(({ fields }) => isIssuer(fields));
    if (root !== undefined) return validityFault(root.fields, nowMs);
    const next = [...unused].find(isIssuer);
    if (next === undefined) return refuse('no trusted root vouches for it');
    unused.delete(next);
    current = next;
  }
}

/** `casBelow` counts the CAs between this one and the leaf (RFC 5280, 4.2.1.9). */
function mayIssue(ca: CertificateFields, casBelow: number): boolean {
  if (!ca.isCa || (ca.pathLength !== undefined && ca.pathLength < casBelow)) return false;
  return ca.keyUsage === undefined || (ca.keyUsage & KEY_USAGE.keyCertSign) !== 0;
}

function validityFault(fields: CertificateFields, nowMs: number): Result<never> | undefined {
  if (nowMs < fields.notBeforeMs) return refuse('it is not valid yet; a clock may be wrong');
  return nowMs > fields.notAfterMs ? refuseExpired() : undefined;
}

function refuseExpired(): Result<never> {
  const message =
    'Cannot accept peer certificate: it has expired; renewal or a clock may have failed';
  return fail(new MeshError('MESH_CERTIFICATE_EXPIRED', message, { flag: 'TLS_FAILURE' }));
}

function refuseByOpenssl(verdict: Error & { code?: string }): Result<never> {
  if (verdict.code === 'CERT_HAS_EXPIRED') return refuseExpired();
  return refuse(`${verdict.message} (${verdict.code ?? 'unknown'})`);
}

function refuse(reason: string): Result<never> {
  const message = `Cannot accept peer certificate: ${reason}`;
  return fail(new MeshError('MESH_CERTIFICATE_INVALID', message, { flag: 'TLS_FAILURE' }));
}

function flagged(error: MeshError): Result<never> {
  return fail(new MeshError(error.code, error.message, { flag: 'IDENTITY_ERROR', cause: error }));
}
