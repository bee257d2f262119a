/**
 * The X509-SVID rules (threats 1.6) for a leaf, and the identity in it. The issuer's tests and every
 * verifier go through this one function.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { formatIdentity, type Identity, parseIdentity, type SpiffeId } from '../core/identity.ts';
import { type CertificateFields, KEY_USAGE, URI_NAME_TAG } from './certificate-reader.ts';
import { OID } from './oids.ts';

/** Who a certificate says its holder is. */
export interface SvidIdentity {
  readonly id: SpiffeId;
  readonly identity: Identity;
}

/**
 * The identity of a leaf, if it keeps every rule: exactly one URI SAN and that a SPIFFE ID of a workload, not
 * a CA, keyUsage critical with digitalSignature and without the signing bits, EKU (when there) with both
 * purposes, SAN critical when the subject is empty. Says nothing about who signed it. Errors are
 * `MESH_CERTIFICATE_INVALID` or `MESH_IDENTITY_INVALID`.
 */
export function readSvid(leaf: CertificateFields): Result<SvidIdentity> {
  if (leaf.isCa) return refuse('it is a CA certificate');
  const { keyUsage, extendedKeyUsage } = leaf;
  if (keyUsage === undefined) return refuse('it has no key usage');
  if (!leaf.isKeyUsageCritical) return refuse('its key usage is not critical');
  if ((keyUsage & KEY_USAGE.digitalSignature) === 0) return refuse('its key may not sign');
  if ((keyUsage & (KEY_USAGE.keyCertSign | KEY_USAGE.cRLSign)) !== 0) {
    return refuse('its key may sign certificates or revocation lists');
  }
  if (
    extendedKeyUsage !== undefined &&
    !(extendedKeyUsage.includes(OID.serverAuth) && extendedKeyUsage.includes(OID.clientAuth))
  ) {
    return refuse('its extended key usage is not for both server and client');
  }
  const uris = leaf.names.filter(({ tag }) => tag === URI_NAME_TAG);
  const [uri] = uris;
  if (uri === undefined || uris.length !== 1) {
    return refuse(`it has ${uris.length} URI names where one must be`);
  }
  if (leaf.isSubjectEmpty && !leaf.areNamesCritical) {
    return refuse('its subject is empty and its names are not critical');
  }
  // latin1 keeps one character per byte: NUL and bytes above 0x7f reach the parser, which refuses them.
  const identity = parseIdentity(uri.bytes.toString('latin1'));
  if (!identity.ok) return identity;
  return ok({ id: formatIdentity(identity.value), identity: identity.value });
}

function refuse(reason: string): Result<never> {
  return fail(new MeshError('MESH_CERTIFICATE_INVALID', `Cannot accept certificate: ${reason}`));
}
