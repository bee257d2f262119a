/** A workload's key and chain as plain values: what an agent holds, hands to its workers, and never writes to a disk. */

import { createPrivateKey, createPublicKey } from 'node:crypto';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { SpiffeId } from '../core/identity.ts';
import { readCertificate } from './certificate-reader.ts';
import { publicKeyDer } from './keys.ts';
import { formatPem, parsePem } from './pem.ts';
import { readSvid } from './svid.ts';

/** Leaf and intermediates; roots are not part of it. */
export const CHAIN_MAX_CERTIFICATES = 8;
const PRIVATE_KEY_PEM_MAX_CHARS = 8192;

export interface WorkloadCertificate {
  readonly identity: SpiffeId;
  /** PKCS #8. */
  readonly privateKeyPem: string;
  /** One certificate per element, leaf first. */
  readonly chainPem: readonly string[];
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** Of the leaf, hex. With the identity it names this very certificate. */
  readonly serial: string;
}

/**
 * Puts a chain from a CA and our key together, and believes neither: the leaf must be an X509-SVID of
 * exactly `identity` and belong to the key. Errors: `MESH_DER_INVALID`, `MESH_CERTIFICATE_INVALID`,
 * `MESH_IDENTITY_INVALID`.
 */
export function createWorkloadCertificate(
  identity: SpiffeId,
  privateKey: string,
  chainPem: readonly string[],
): Result<WorkloadCertificate> {
  const chain: Buffer[] = [];
  for (const text of chainPem) {
    const blocks = parsePem('CERTIFICATE', text);
    if (!blocks.ok) return blocks;
    chain.push(...blocks.value);
    if (chain.length > CHAIN_MAX_CERTIFICATES) {
      return refuse(`the chain has more than ${CHAIN_MAX_CERTIFICATES} certificates`);
    }
  }
  const [leafDer] = chain;
  if (leafDer === undefined) return refuse('the chain is empty');
  const leaf = readCertificate(leafDer);
  if (!leaf.ok) return leaf;
  const svid = readSvid(leaf.value);
  if (!svid.ok) return svid;
  if (svid.value.id !== identity) return refuse(`it is for "${svid.value.id}", not "${identity}"`);
  const ownKey = publicKeyOf(privateKey);
  if (ownKey === undefined || !ownKey.equals(leaf.value.publicKeyDer)) {
    return refuse('it does not belong to the private key');
  }
  return ok({
    identity,
    privateKeyPem: privateKey,
    chainPem: chain.map((der) => formatPem('CERTIFICATE', der)),
    notBeforeMs: leaf.value.notBeforeMs,
    notAfterMs: leaf.value.notAfterMs,
    serial: leaf.value.serial,
  });
}

function publicKeyOf(pem: string): Buffer | undefined {
  if (pem.length > PRIVATE_KEY_PEM_MAX_CHARS) return undefined;
  try {
    return publicKeyDer(createPublicKey(createPrivateKey(pem)));
  } catch {
    return undefined;
  }
}

function refuse(reason: string): Result<never> {
  const message = `Cannot take workload certificate: ${reason}`;
  return fail(new MeshError('MESH_CERTIFICATE_INVALID', message));
}
