/**
 * The certificate authority's state in one Secret, read and replaced as a whole by every controller replica.
 *
 * - Made once, by whoever is first: creation and every change are refused by the API server when somebody else
 *   was faster, so replicas can never hold different roots for long, and no step of a rotation is lost.
 * - It is never made where there has been one: the published roots outlive it, and say so (T132).
 * - An operator's own authority is taken from a second Secret, with Istio's names, when that is there.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, unwrap, type Result } from '../base/result.ts';
import type { CaStorage } from '../identity/ca-storage.ts';
import type { PluggedCaFiles } from '../identity/ca.ts';
import { statusOf, type ApiClient } from './api-client.ts';

export const CA_SECRET = 'nodemesh-ca';
export const PLUGGED_CA_SECRET = 'cacerts';
const PLUGGED_CA_PARTS = ['ca-cert.pem', 'ca-key.pem', 'cert-chain.pem', 'root-cert.pem'] as const;

interface SecretObject {
  readonly metadata?: { readonly resourceVersion?: unknown };
  readonly data?: Readonly<Record<string, unknown>> | null;
}

export function secretPath(namespace: string, name: string): string {
  return `/api/v1/namespaces/${namespace}/secrets/${name}`;
}

function decode(secret: SecretObject): Map<string, string> {
  const files = new Map<string, string>();
  for (const [name, value] of Object.entries(secret.data ?? {})) {
    if (typeof value === 'string') files.set(name, Buffer.from(value, 'base64').toString('utf8'));
  }
  return files;
}

/** Rejects with the API's error; a Secret that is not there reads as nothing stored. */
export function createSecretCaStorage(client: ApiClient, namespace: string): CaStorage {
  /** Of the state that was read or written last; undefined while there is none. */
  let version: string | undefined;
  const take = (value: unknown): SecretObject => {
    const secret = (value ?? {}) as SecretObject;
    const { resourceVersion } = secret.metadata ?? {};
    version = typeof resourceVersion === 'string' ? resourceVersion : undefined;
    return secret;
  };
  return {
    async read() {
      const answer = await client.request({ path: secretPath(namespace, CA_SECRET) });
      if (answer.ok) return decode(take(answer.value));
      if (statusOf(answer.error) !== 404) throw answer.error;
      version = undefined;
      return new Map();
    },
    async write(files) {
      const data = Object.fromEntries(
        [...files].map(([name, text]) => [name, Buffer.from(text).toString('base64')]),
      );
      const labels = { 'app.kubernetes.io/part-of': 'nodemesh' };
      const metadata = { name: CA_SECRET, namespace, labels, resourceVersion: version };
      const body = { apiVersion: 'v1', kind: 'Secret', type: 'Opaque', metadata, data };
      const isNew = version === undefined;
      const path = isNew
        ? `/api/v1/namespaces/${namespace}/secrets`
        : secretPath(namespace, CA_SECRET);
      const answer = await client.request({ method: isNew ? 'POST' : 'PUT', path, body });
      if (!answer.ok) throw answer.error;
      take(answer.value);
    },
  };
}

/** Whether a write was refused because another replica was faster: read again. */
export function isConflict(error: unknown): boolean {
  return error instanceof MeshError && statusOf(error) === 409;
}

/** The operator's authority; undefined when there is none. Rejects when it cannot be read or lacks a part. */
export async function readPluggedCa(
  client: ApiClient,
  namespace: string,
): Promise<PluggedCaFiles | undefined> {
  const answer = await client.request({ path: secretPath(namespace, PLUGGED_CA_SECRET) });
  if (!answer.ok) {
    if (statusOf(answer.error) === 404) return undefined;
    throw answer.error;
  }
  return unwrap(pluggedCaFiles(answer.value));
}

/** What the operator's Secret holds; `MESH_CONFIG_INVALID` when it lacks a part. */
export function pluggedCaFiles(secret: unknown): Result<PluggedCaFiles> {
  const files = decode(secret ?? {});
  const missing = PLUGGED_CA_PARTS.find((name) => !files.has(name));
  if (missing !== undefined) {
    const message = `Cannot use Secret "${PLUGGED_CA_SECRET}": it has no "${missing}"`;
    return fail(new MeshError('MESH_CONFIG_INVALID', message));
  }
  const part = (name: (typeof PLUGGED_CA_PARTS)[number]): string => files.get(name) ?? '';
  return ok({
    caCert: part('ca-cert.pem'),
    caKey: part('ca-key.pem'),
    certChain: part('cert-chain.pem'),
    rootCert: part('root-cert.pem'),
  });
}
