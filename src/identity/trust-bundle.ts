/**
 * The roots we trust, by trust domain. Several per domain, so that a root can be replaced (T129); a leaf of
 * one domain is never vouched for by another domain's root (T11). Immutable: a change makes a new bundle
 * with a higher generation.
 */

import { createHash, createPublicKey, type KeyObject } from 'node:crypto';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { isTrustDomain } from '../core/identity.ts';
import { type CertificateFields, KEY_USAGE, readCertificate } from './certificate-reader.ts';
import { formatPem, parsePem } from './pem.ts';

export const TRUST_DOMAINS_MAX = 32;
export const ROOTS_PER_DOMAIN_MAX = 8;

export interface TrustRoot {
  readonly pem: string;
  readonly fields: CertificateFields;
  readonly publicKey: KeyObject;
  /** SHA-256 of the DER, hex. */
  readonly fingerprint: string;
}

export interface TrustBundle {
  /** Grows with every change; what caches are keyed by. */
  readonly generation: number;
  /** In the order given, without duplicates; never empty for a domain. */
  readonly domains: ReadonlyMap<string, readonly TrustRoot[]>;
}

/**
 * Reads root certificates (PEM texts of one or more blocks each) by trust domain. A root must be a CA that
 * may sign certificates; expiry is judged where chains are. Errors: `MESH_IDENTITY_INVALID`,
 * `MESH_DER_INVALID`, `MESH_CERTIFICATE_INVALID`, `MESH_LIMIT_EXCEEDED`.
 */
export function createTrustBundle(
  generation: number,
  rootsPem: ReadonlyMap<string, readonly string[]>,
): Result<TrustBundle> {
  if (rootsPem.size > TRUST_DOMAINS_MAX) {
    return tooMany(`more than ${TRUST_DOMAINS_MAX} trust domains`);
  }
  const domains = new Map<string, readonly TrustRoot[]>();
  for (const [domain, texts] of rootsPem) {
    if (!isTrustDomain(domain)) {
      const shown = JSON.stringify(domain.slice(0, 80));
      const message = `Cannot trust domain ${shown}: it is malformed`;
      return fail(new MeshError('MESH_IDENTITY_INVALID', message));
    }
    const roots = readRoots(texts);
    if (!roots.ok) return roots;
    if (roots.value.length > ROOTS_PER_DOMAIN_MAX) {
      return tooMany(`more than ${ROOTS_PER_DOMAIN_MAX} roots of "${domain}"`);
    }
    domains.set(domain, roots.value);
  }
  return ok({ generation, domains });
}

/** Whether both trust the same roots for the same domains, whatever the order and generation. */
export function trustBundlesEqual(a: TrustBundle, b: TrustBundle): boolean {
  if (a.domains.size !== b.domains.size) return false;
  for (const [domain, roots] of a.domains) {
    const others = b.domains.get(domain);
    if (others === undefined || others.length !== roots.length) return false;
    const known = new Set(others.map(({ fingerprint }) => fingerprint));
    if (!roots.every(({ fingerprint }) => known.has(fingerprint))) return false;
  }
  return true;
}

/** Every root of every domain, PEM, each once: the `ca` of a TLS context. */
export function bundlePem(bundle: TrustBundle): string[] {
  const all = [...bundle.domains.values()].flat();
  return [...new Map(all.map((root) => [root.fingerprint, root.pem])).values()];
}

/** One CA certificate from DER as a root. */
export function readRoot(der: Buffer): Result<TrustRoot> {
  const fields = readCertificate(der);
  if (!fields.ok) return fields;
  const { isCa, keyUsage, publicKeyDer } = fields.value;
  if (!isCa || (keyUsage !== undefined && (keyUsage & KEY_USAGE.keyCertSign) === 0)) {
    return notRoot('it is not a CA that may sign certificates');
  }
  try {
    return ok({
      pem: formatPem('CERTIFICATE', der),
      fields: fields.value,
      publicKey: createPublicKey({ key: publicKeyDer, format: 'der', type: 'spki' }),
      fingerprint: createHash('sha256').update(der).digest('hex'),
    });
  } catch {
    return notRoot('its public key is not readable');
  }
}

function readRoots(texts: readonly string[]): Result<TrustRoot[]> {
  const roots = new Map<string, TrustRoot>();
  for (const text of texts) {
    const blocks = parsePem('CERTIFICATE', text);
    if (!blocks.ok) return blocks;
    for (const der of blocks.value) {
      const root = readRoot(der);
      if (!root.ok) return root;
      roots.set(root.value.fingerprint, root.value);
    }
  }
  return roots.size === 0 ? notRoot('there is none') : ok([...roots.values()]);
}

function notRoot(reason: string): Result<never> {
  return fail(new MeshError('MESH_CERTIFICATE_INVALID', `Cannot take root certificate: ${reason}`));
}

function tooMany(what: string): Result<never> {
  return fail(new MeshError('MESH_LIMIT_EXCEEDED', `Cannot read trust bundle: ${what}`));
}
