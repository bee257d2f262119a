/**
 * Workload identities: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
 *
 * One strict parser serves the CA, the proxies, the policies and the command line (T04): an ASCII
 * allow-list, a bound on the length, no decoding and no normalisation. What it refuses is nobody.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';

export interface Identity {
  readonly trustDomain: string;
  readonly namespace: string;
  readonly serviceAccount: string;
}

/** The text form; two identities are the same exactly if their texts are. */
export type SpiffeId = string & { readonly __brand: 'SpiffeId' };

/** SPIFFE-ID section 2.3: at most 2,048 bytes in all, 255 for the trust domain. */
export const SPIFFE_ID_MAX_BYTES = 2048;
const TRUST_DOMAIN = /^[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?$/;
/** A Kubernetes namespace: an RFC 1123 label. */
const NAMESPACE = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
/** A Kubernetes service account: an RFC 1123 subdomain, at most 253 characters, no empty label. */
const SERVICE_ACCOUNT = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$/;
const SERVICE_ACCOUNT_MAX = 253;

export function isTrustDomain(text: string): boolean {
  return TRUST_DOMAIN.test(text) && !text.includes('..');
}

export function isNamespaceName(text: string): boolean {
  return NAMESPACE.test(text);
}

export function isServiceAccountName(text: string): boolean {
  return text.length <= SERVICE_ACCOUNT_MAX && SERVICE_ACCOUNT.test(text);
}

function invalid(text: string, reason: string): Result<never> {
  const shown = JSON.stringify(text.slice(0, 80));
  return fail(new MeshError('MESH_IDENTITY_INVALID', `Cannot read identity ${shown}: ${reason}`));
}

export function parseIdentity(text: string): Result<Identity> {
  if (text.length > SPIFFE_ID_MAX_BYTES) return invalid(text, 'longer than 2048 bytes');
  if (!text.startsWith('spiffe://')) return invalid(text, 'does not start with "spiffe://"');
  const parts = text.slice('spiffe://'.length).split('/');
  const [trustDomain = '', ns, namespace = '', sa, serviceAccount = ''] = parts;
  if (parts.length !== 5 || ns !== 'ns' || sa !== 'sa') {
    return invalid(text, 'not of the form spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT');
  }
  if (!isTrustDomain(trustDomain)) return invalid(text, 'trust domain is malformed');
  if (!isNamespaceName(namespace)) return invalid(text, 'namespace is malformed');
  if (!isServiceAccountName(serviceAccount)) return invalid(text, 'service account is malformed');
  return ok({ trustDomain, namespace, serviceAccount });
}

export function formatIdentity(identity: Identity): SpiffeId {
  const { trustDomain, namespace, serviceAccount } = identity;
  return `spiffe://${trustDomain}/ns/${namespace}/sa/${serviceAccount}` as SpiffeId;
}
