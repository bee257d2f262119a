/**
 * A signing certificate with its key, and what it issues: the part that a self-signed and a plugged-in CA
 * share. What a leaf may say is decided here, from the identity the caller has authorised; nothing else.
 */

import type { KeyObject } from 'node:crypto';

import { MeshError } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { IpAddress } from '../core/address.ts';
import { parseIdentity, type SpiffeId } from '../core/identity.ts';
import {
  buildServerLeaf,
  type CertificateIssuer,
  keyIdOf,
  NOT_BEFORE_BACKDATE_MS,
} from './certificate.ts';
import { readCertificate } from './certificate-reader.ts';
import { publicKeyDer, parseWorkloadPublicKey } from './keys.ts';
import { formatPem } from './pem.ts';
import type { TrustRoot } from './trust-bundle.ts';

export const LEAF_TTL_MIN_MS: number = 60 * 1000;
export const LEAF_TTL_MAX_MS: number = 90 * 24 * 3600 * 1000;
const DNS_NAMES_MAX = 32;
const DNS_NAME =
  /^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/;

export interface IssuedCertificate {
  /** Leaf first, then intermediates; no root. */
  readonly chainPem: readonly string[];
  readonly notAfterMs: number;
  readonly serial: string;
}

/** Extra names of a controller's certificate, for clients that check a host name. */
export interface ServerHosts {
  readonly dnsNames: readonly string[];
  readonly ips: readonly IpAddress[];
}

export interface SigningCertificate {
  readonly certificate: TrustRoot;
  readonly privateKey: KeyObject;
  /** PEM of what goes after the leaf, this certificate first when it is not itself a root. */
  readonly chainPem: readonly string[];
}

/** How a certificate signs: its own name and key id, as they stand in it. */
export function issuerOf(
  signing: Pick<SigningCertificate, 'certificate' | 'privateKey'>,
): CertificateIssuer {
  const { fields } = signing.certificate;
  return {
    privateKey: signing.privateKey,
    subjectDer: fields.subjectDer,
    keyId: fields.subjectKeyId ?? keyIdOf(fields.publicKeyDer),
  };
}

/**
 * Signs a leaf for `identity`. The ttl is cut to `LEAF_TTL_MAX_MS` and to the life of the signing
 * certificate. Errors: `MESH_IDENTITY_INVALID`, `MESH_CSR_INVALID` (the key), `MESH_CA_REFUSED`.
 */
export function issueLeaf(
  signing: SigningCertificate,
  trustDomain: string,
  publicKey: KeyObject,
  identity: SpiffeId,
  hosts: ServerHosts,
  ttlMs: number,
  nowMs: number,
  random: Random,
): Result<IssuedCertificate> {
  const parsed = parseIdentity(identity);
  if (!parsed.ok) return parsed;
  if (parsed.value.trustDomain !== trustDomain) {
    return refuse(identity, `its trust domain is not "${trustDomain}"`);
  }
  const key = parseWorkloadPublicKey(publicKeyDer(publicKey));
  if (!key.ok) return key;
  if (hosts.dnsNames.length > DNS_NAMES_MAX || hosts.ips.length > DNS_NAMES_MAX) {
    return refuse(identity, `more than ${DNS_NAMES_MAX} host names`);
  }
  const badName = hosts.dnsNames.find((name) => !DNS_NAME.test(name));
  if (badName !== undefined) {
    return refuse(identity, `${JSON.stringify(badName.slice(0, 80))} is not a DNS name`);
  }
  if (!Number.isFinite(ttlMs) || ttlMs < LEAF_TTL_MIN_MS) {
    return refuse(identity, `a validity of ${ttlMs} ms is too short`);
  }
  const { fields } = signing.certificate;
  const endMs = Math.min(nowMs + Math.min(ttlMs, LEAF_TTL_MAX_MS), fields.notAfterMs);
  if (endMs < nowMs + LEAF_TTL_MIN_MS) {
    return refuse(identity, 'the signing certificate has expired or is about to');
  }
  // Whole seconds, as X.509 writes them.
  const notAfterMs = Math.floor(endMs / 1000) * 1000;
  const validity = { notBeforeMs: nowMs - NOT_BEFORE_BACKDATE_MS, notAfterMs };
  const names = { identity, dnsNames: hosts.dnsNames, ips: hosts.ips };
  const leaf = buildServerLeaf(issuerOf(signing), key.value, names, validity, random);
  return ok({
    chainPem: [formatPem('CERTIFICATE', leaf), ...signing.chainPem],
    notAfterMs,
    serial: serialOf(leaf),
  });
}

function serialOf(leaf: Buffer): string {
  const fields = readCertificate(leaf);
  // What we just built is readable, or we have a bug.
  if (!fields.ok) throw fields.error;
  return fields.value.serial;
}

function refuse(identity: string, reason: string): Result<never> {
  const message = `Cannot issue a certificate for "${identity}": ${reason}`;
  return fail(new MeshError('MESH_CA_REFUSED', message));
}
