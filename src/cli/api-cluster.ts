/** The cluster over the API server, by the user's kubeconfig. */

import { createSystemClock } from '../base/clock.ts';
import type { MeshError } from '../base/errors.ts';
import { unwrap } from '../base/result.ts';
import { createApiClient, statusOf, type ApiRequest } from '../kubernetes/api-client.ts';
import { openKubeconfig, type Impersonation } from '../kubernetes/kubeconfig.ts';
import type { Cluster } from './cluster.ts';

export interface ClusterOptions {
  readonly kubeconfigs: readonly string[];
  readonly context: string | undefined;
  /** Whose rights count; undefined: those of the kubeconfig's user. */
  readonly impersonate: Impersonation | undefined;
  readonly requestTimeoutMs: number;
  readonly signal: AbortSignal;
}

const PAGE = 500;
const NOT_FOUND = 404;
const APPLY_CONTENT_TYPE = 'application/apply-patch+yaml';
const MERGE_PATCH_CONTENT_TYPE = 'application/merge-patch+json';
const FIELD_MANAGER = 'meshctl';

interface ListAnswer {
  readonly items?: readonly unknown[];
  readonly metadata?: { readonly continue?: string };
}

export async function connectCluster(options: ClusterOptions): Promise<Cluster> {
  const clock = createSystemClock();
  const { kubeconfigs: paths, context, impersonate, signal } = options;
  const { requestTimeoutMs: timeoutMs } = options;
  const kubeconfig = await openKubeconfig({ clock, paths, context, impersonate });
  const client = createApiClient({ clock, credentials: kubeconfig.credentials });
  const isMissing = (error: MeshError): boolean => statusOf(error) === NOT_FOUND;

  const ask = async (request: ApiRequest): Promise<unknown> =>
    unwrap(await client.request({ timeoutMs, signal, ...request }));
  const askOptional = async (request: ApiRequest): Promise<unknown> => {
    const answer = await client.request({ timeoutMs, signal, ...request });
    return answer.ok || !isMissing(answer.error) ? unwrap(answer) : undefined;
  };
  return {
    context: kubeconfig.context,
    namespace: kubeconfig.namespace,
    get: (path) => askOptional({ path }),
    async list(path, query = {}) {
      const items: unknown[] = [];
      let next: string | undefined = '';
      while (next !== undefined) {
        const page: Record<string, string> = { ...query, limit: String(PAGE) };
        if (next !== '') page['continue'] = next;
        const answer = (await askOptional({ path, query: page })) as ListAnswer | undefined;
        if (answer === undefined) return undefined;
        items.push(...(answer.items ?? []));
        next = answer.metadata?.continue === '' ? undefined : answer.metadata?.continue;
      }
      return items;
    },
    create: (path, body) => ask({ method: 'POST', path, body }),
    apply: (path, body) =>
      ask({
        method: 'PATCH',
        path,
        query: { fieldManager: FIELD_MANAGER, force: 'true', fieldValidation: 'Strict' },
        body,
        contentType: APPLY_CONTENT_TYPE,
      }),
    merge: (path, body) =>
      ask({
        method: 'PATCH',
        path,
        query: { fieldManager: FIELD_MANAGER },
        body,
        contentType: MERGE_PATCH_CONTENT_TYPE,
      }),
    async remove(path) {
      const body = { propagationPolicy: 'Background' };
      return (await askOptional({ method: 'DELETE', path, body })) !== undefined;
    },
    exec: (pod, command) => kubeconfig.exec(pod, command, timeoutMs, signal),
  };
}
