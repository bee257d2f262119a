/**
 * What every certificate authority of the mesh offers, and the one plugged in from files with the names of
 * Istio's `cacerts`. The self-signed one, with rotation, is in self-signed-ca.ts.
 */

import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { SpiffeId } from '../core/identity.ts';
import {
  type IssuedCertificate,
  issueLeaf,
  type ServerHosts,
  type SigningCertificate,
} from './ca-issuer.ts';
import { isSignedBy } from './certificate-reader.ts';
import { publicKeyDer } from './keys.ts';
import { parseOnePem, parsePem } from './pem.ts';
import { createTrustBundle, readRoot, type TrustBundle, type TrustRoot } from './trust-bundle.ts';

export interface CertificateAuthority {
  readonly trustDomain: string;
  /** The roots to be trusted now, with a generation that grows when they change. */
  readonly bundle: TrustBundle;
  /** Changes exactly when certificates in use should be issued anew, since another CA issues now. */
  readonly issuerId: string;
  /**
   * An X509-SVID for a caller who has authorised `identity`; the key comes from `parseCsr`. Errors:
   * `MESH_IDENTITY_INVALID`, `MESH_CSR_INVALID`, `MESH_CA_REFUSED`.
   */
  issue(publicKey: KeyObject, identity: SpiffeId, ttlMs: number): Result<IssuedCertificate>;
  /** As `issue`, with host names beside the identity: for controllers only. */
  issueServer(
    publicKey: KeyObject,
    identity: SpiffeId,
    hosts: ServerHosts,
    ttlMs: number,
  ): Result<IssuedCertificate>;
}

/** Contents of `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` and `root-cert.pem`. */
export interface PluggedCaFiles {
  readonly caCert: string;
  readonly caKey: string;
  /** The issuing certificate and those above it; may repeat `caCert` and may end in a root. */
  readonly certChain: string;
  /** Every trusted root: during a rotation by the operator, the old and the new one. */
  readonly rootCert: string;
}

export interface CaDependencies {
  readonly clock: Clock;
  readonly random: Random;
}

/**
 * A CA whose key an operator provides, as `readPluggedCa` reads it. `generation` is the bundle's. Nothing of it
 * changes: `plugged-ca.ts` has the one that is replaced while it is used.
 */
export function createPluggedCa(
  trustDomain: string,
  files: PluggedCaFiles,
  generation: number,
  dependencies: CaDependencies,
): Result<CertificateAuthority> {
  const state = readPluggedCa(trustDomain, files, generation);
  if (!state.ok) return state;
  return ok(createIssuingAuthority(trustDomain, dependencies, () => state.value));
}

/**
 * Checks that the key fits, that the certificate may sign, and that it chains to one of the roots. Errors:
 * `MESH_CA_KEY_MISSING`, `MESH_DER_INVALID`, `MESH_CERTIFICATE_INVALID`.
 */
export function readPluggedCa(
  trustDomain: string,
  files: PluggedCaFiles,
  generation: number,
): Result<IssuingState> {
  const bundle = createTrustBundle(generation, new Map([[trustDomain, [files.rootCert]]]));
  if (!bundle.ok) return bundle;
  const certificateDer = parseOnePem('CERTIFICATE', files.caCert);
  if (!certificateDer.ok) return certificateDer;
  const certificate = readRoot(certificateDer.value);
  if (!certificate.ok) return certificate;
  const privateKey = readPrivateKey(files.caKey, certificate.value);
  if (!privateKey.ok) return privateKey;
  const above = parsePem('CERTIFICATE', files.certChain);
  if (!above.ok) return above;
  const path = pathToRoot(
    certificate.value,
    above.value,
    bundle.value.domains.get(trustDomain) ?? [],
  );
  if (!path.ok) return path;
  const signing: SigningCertificate = {
    certificate: certificate.value,
    privateKey: privateKey.value,
    chainPem: path.value.map(({ pem }) => pem),
  };
  return ok({ bundle: bundle.value, issuerId: certificate.value.fingerprint, signing });
}

/** What an authority issues with at this moment. */
export interface IssuingState {
  readonly bundle: TrustBundle;
  readonly issuerId: string;
  readonly signing: SigningCertificate;
}

const NO_HOSTS: ServerHosts = { dnsNames: [], ips: [] };

/** The authority with more to it; what is read through a getter stays so. */
export function extendAuthority<T extends object>(
  authority: CertificateAuthority,
  more: T,
): CertificateAuthority & T {
  const properties = Object.getOwnPropertyDescriptors(more);
  return Object.defineProperties(authority, properties) as CertificateAuthority & T;
}

/** A `CertificateAuthority` over whatever `current` says when it is used. */
export function createIssuingAuthority(
  trustDomain: string,
  { clock, random }: CaDependencies,
  current: () => IssuingState,
): CertificateAuthority {
  const issueServer: CertificateAuthority['issueServer'] = (publicKey, identity, hosts, ttlMs) => {
    const { signing } = current();
    const nowMs = clock.wallMs();
    return issueLeaf(signing, trustDomain, publicKey, identity, hosts, ttlMs, nowMs, random);
  };
  return {
    trustDomain,
    get bundle() {
      return current().bundle;
    },
    get issuerId() {
      return current().issuerId;
    },
    issue: (publicKey, identity, ttlMs) => issueServer(publicKey, identity, NO_HOSTS, ttlMs),
    issueServer,
  };
}

const KEY_MAX_CHARS = 64 * 1024;

/** The private key of a CA certificate; `MESH_CA_KEY_MISSING` unless it is there and fits. */
export function readPrivateKey(pem: string, certificate: TrustRoot): Result<KeyObject> {
  const refuse = (reason: string): Result<never> =>
    fail(new MeshError('MESH_CA_KEY_MISSING', `Cannot use CA key: ${reason}`));
  if (pem.length > KEY_MAX_CHARS) return refuse('it is too long');
  try {
    const key = createPrivateKey(pem);
    const fits = publicKeyDer(createPublicKey(key)).equals(certificate.fields.publicKeyDer);
    return fits ? ok(key) : refuse('it does not belong to the CA certificate');
  } catch {
    return refuse('it is not an unencrypted PEM private key');
  }
}

/** The certificates from `start` up to, and without, one of `roots`; empty when `start` is a root itself. */
function pathToRoot(
  start: TrustRoot,
  others: readonly Buffer[],
  roots: readonly TrustRoot[],
): Result<TrustRoot[]> {
  const candidates: TrustRoot[] = [];
  for (const der of others) {
    const other = readRoot(der);
    if (!other.ok) return other;
    candidates.push(other.value);
  }
  const path: TrustRoot[] = [];
  const isRoot = (one: TrustRoot): boolean =>
    roots.some(({ fingerprint }) => fingerprint === one.fingerprint);
  let current: TrustRoot | undefined = start;
  while (current !== undefined && path.length <= candidates.length) {
    const subject: TrustRoot = current;
    if (isRoot(subject)) return ok(path);
    path.push(subject);
    if (roots.some((root) => isIssuedBy(subject, root))) return ok(path);
    current = candidates.find(
      (one) =>
        !path.some((seen) => seen.fingerprint === one.fingerprint) && isIssuedBy(subject, one),
    );
  }
  const message =
    'Cannot use CA certificate: it does not chain to any certificate of the root file';
  return fail(new MeshError('MESH_CERTIFICATE_INVALID', message));
}

function isIssuedBy(subject: TrustRoot, issuer: TrustRoot): boolean {
  return (
    issuer.fields.subjectDer.equals(subject.fields.issuerDer) &&
    isSignedBy(subject.fields, issuer.fields.publicKeyDer)
  );
}
