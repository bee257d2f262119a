/**
 * The roots of the mesh in one ConfigMap, which node proxies mount to know the controller by (T07). It outlives
 * the Secret with the keys, and so also says that identities exist.
 */

import { ok, type Result } from '../base/result.ts';
import { statusOf, type ApiClient } from './api-client.ts';

export const ROOT_CONFIG_MAP = 'nodemesh-root';
export const ROOT_KEY = 'root-cert.pem';

interface ConfigMapObject {
  readonly metadata?: Readonly<Record<string, unknown>>;
  readonly data?: Readonly<Record<string, unknown>> | null;
}

function pathOf(namespace: string): string {
  return `/api/v1/namespaces/${namespace}/configmaps`;
}

/** What is published; empty when nothing ever was. */
export async function readPublishedRoots(
  client: ApiClient,
  namespace: string,
): Promise<Result<string>> {
  const answer = await client.request({ path: `${pathOf(namespace)}/${ROOT_CONFIG_MAP}` });
  if (!answer.ok) return statusOf(answer.error) === 404 ? ok('') : answer;
  const pem = ((answer.value ?? {}) as ConfigMapObject).data?.[ROOT_KEY];
  return ok(typeof pem === 'string' ? pem : '');
}

/** Writes only what has changed. A retryable error, or a conflict with another replica: call again. */
export async function publishRoots(
  client: ApiClient,
  namespace: string,
  pem: string,
): Promise<Result<void>> {
  const path = pathOf(namespace);
  const answer = await client.request({ path: `${path}/${ROOT_CONFIG_MAP}` });
  if (!answer.ok && statusOf(answer.error) !== 404) return answer;
  const before = answer.ok ? ((answer.value ?? {}) as ConfigMapObject) : undefined;
  if (before?.data?.[ROOT_KEY] === pem) return ok(undefined);
  const labels = { 'app.kubernetes.io/part-of': 'nodemesh' };
  const fresh = { name: ROOT_CONFIG_MAP, namespace, labels };
  const written = await client.request({
    method: before === undefined ? 'POST' : 'PUT',
    path: before === undefined ? path : `${path}/${ROOT_CONFIG_MAP}`,
    body: {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: before?.metadata ?? fresh,
      data: { ...before?.data, [ROOT_KEY]: pem },
    },
  });
  return written.ok ? ok(undefined) : written;
}
