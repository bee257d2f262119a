/**
 * The mesh's certificate authority in a cluster: the operator's from Secret `cacerts`, else our own from Secret
 * `nodemesh-ca`, made at the very first start. Every replica signs with it; what the one that rotates has
 * stored, and what the operator puts in the place of its own, is taken over by the others within seconds.
 */

import { createBackoff } from '../base/backoff.ts';
import { sleep, type Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Random } from '../base/random.ts';
import { unwrap } from '../base/result.ts';
import type { PluggedCaFiles } from '../identity/ca.ts';
import { createReplaceableCa, type PluggedCa } from '../identity/plugged-ca.ts';
import { openSelfSignedCa, type SelfSignedCa } from '../identity/self-signed-ca.ts';
import type { ApiClient } from './api-client.ts';
import {
  CA_SECRET,
  createSecretCaStorage,
  isConflict,
  PLUGGED_CA_SECRET,
  pluggedCaFiles,
  readPluggedCa,
} from './ca-secret.ts';
import { createReflectorMetrics } from './metrics.ts';
import { createReflector, type Reflector } from './reflector.ts';
import { readPublishedRoots } from './root-config-map.ts';

export interface ClusterCaOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly client: ApiClient;
  readonly namespace: string;
  readonly trustDomain: string;
  /** Other traces of identities than the published roots. */
  readonly identitiesExist: () => Promise<boolean>;
}

const BACKOFF = { initialMs: 400, maxMs: 10_000, floor: 0.25 };

/**
 * Waits for the API server as long as it takes. Rejects with `MESH_CA_KEY_MISSING` when the cluster has
 * identities and the Secret is gone: only its backup, or removing the published roots as well, helps then.
 */
export async function openClusterCa(options: ClusterCaOptions): Promise<PluggedCa | SelfSignedCa> {
  const backoff = createBackoff(options.random, BACKOFF);
  let complained = '';
  for (;;) {
    try {
      return await openOnce(options);
    } catch (error) {
      const isTransient =
        isConflict(error) ||
        (error instanceof MeshError && error.code.startsWith('MESH_API_') && isWorthWaiting(error));
      if (!isTransient) throw error;
      const message = error instanceof Error ? error.message : '';
      if (message !== complained) options.logger.warn('Cannot open the CA yet', { error });
      complained = message;
      await sleep(options.clock, backoff.nextMs());
    }
  }
}

/** A role that is still missing is installed a moment later, as often as not. */
function isWorthWaiting(error: MeshError): boolean {
  return error.retryable || error.details['status'] === 403 || error.details['status'] === 401;
}

async function openOnce(options: ClusterCaOptions): Promise<PluggedCa | SelfSignedCa> {
  const { clock, random, logger, client, namespace, trustDomain } = options;
  const files = await readPluggedCa(client, namespace);
  const published = unwrap(await readPublishedRoots(client, namespace));
  if (files !== undefined) {
    logger.info('The CA is the operator’s own', { secret: PLUGGED_CA_SECRET });
    const publishedRoots = published;
    return unwrap(createReplaceableCa({ trustDomain, files, publishedRoots, clock, random }));
  }
  const mustExist = published !== '' || (await options.identitiesExist());
  const storage = createSecretCaStorage(client, namespace);
  return openSelfSignedCa({ clock, random, trustDomain, storage, mustExist });
}

export interface CaWatchOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly registry: Registry;
  readonly client: ApiClient;
  readonly namespace: string;
  /** The authority has other roots or another issuer now. */
  readonly onChanged: () => void;
}

/** Follows the Secret: takes what others stored, and raises the alarm when it is gone (T132, F13). */
export function watchClusterCa(options: CaWatchOptions & { readonly ca: SelfSignedCa }): Reflector {
  const { clock, random, logger, client, namespace, ca } = options;
  const missing = options.registry.gauge({
    name: 'nodemesh_ca_secret_missing',
    help: '1 while the Secret with the key of the CA is gone: signing goes on from memory, a restart cannot',
  });
  missing.set(0);
  const refresh = (): void => {
    ca.refresh().then(
      (changed) => {
        if (changed) options.onChanged();
      },
      (error: unknown) => logger.error('Cannot take over the CA’s state', { error }),
    );
  };
  return createReflector<string, string>({
    clock,
    random,
    logger,
    metrics: createReflectorMetrics(options.registry),
    client,
    name: `secret ${CA_SECRET}`,
    path: `/api/v1/namespaces/${namespace}/secrets`,
    fieldSelector: `metadata.name=${CA_SECRET}`,
    read: () => ({ status: 'object', key: CA_SECRET, object: '' }),
    onChanges(changes) {
      const last = changes.at(-1);
      missing.set(last?.type === 'delete' ? 1 : 0);
      if (last?.type === 'put') refresh();
      else {
        logger.error(
          'The CA’s Secret was deleted: restore its backup before the controller restarts',
          {
            secret: `${namespace}/${CA_SECRET}`,
          },
        );
      }
    },
  });
}

/** Follows the operator's Secret. One that does not fit together, or is gone, leaves the authority as it is. */
export function watchPluggedCa(options: CaWatchOptions & { readonly ca: PluggedCa }): Reflector {
  const { clock, random, logger, client, namespace, ca } = options;
  return createReflector<string, PluggedCaFiles>({
    clock,
    random,
    logger,
    metrics: createReflectorMetrics(options.registry),
    client,
    name: `secret ${PLUGGED_CA_SECRET}`,
    path: `/api/v1/namespaces/${namespace}/secrets`,
    fieldSelector: `metadata.name=${PLUGGED_CA_SECRET}`,
    read(value) {
      const files = pluggedCaFiles(value);
      const key = PLUGGED_CA_SECRET;
      if (files.ok) return { status: 'object', key, object: files.value };
      return { status: 'invalid', key, message: files.error.message };
    },
    onChanges(changes) {
      const last = changes.at(-1);
      if (last?.type !== 'put') {
        const secret = `${namespace}/${PLUGGED_CA_SECRET}`;
        logger.error('The operator’s CA was deleted: signing goes on from memory', { secret });
        return;
      }
      const replaced = ca.replace(last.object);
      if (!replaced.ok) {
        logger.error('Cannot take over the operator’s CA', { error: replaced.error });
      } else if (replaced.value) {
        logger.info('The operator’s CA was replaced', { phase: ca.phase });
        options.onChanged();
      }
    },
  });
}
