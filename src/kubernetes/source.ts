/**
 * The Kubernetes source: everything the mesh reads from the API server as one stream of changes, shaped like
 * the folder source. One reflector per kind; kinds that are installed later are followed from then on.
 *
 * - `start` resolves when every kind that is needed was told once. Until then nothing must be served: what is
 *   missing would look deleted. A kind that is needed and forbidden therefore holds the start up, by name, in
 *   the log and in `report`; an optional one (foreign policies, Gateway API) does not.
 * - A kind that is taken away counts as deleted only when the server says 404 to a list of it.
 */

import { createBackoff } from '../base/backoff.ts';
import { sleep, type Clock, type Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Random } from '../base/random.ts';
import type { MeshObject, ObjectChange, ObjectKey, ObjectKind } from '../controlplane/objects.ts';
import type { ApiClient } from './api-client.ts';
import { discoverKinds } from './api-discovery.ts';
import { createReflectorMetrics } from './metrics.ts';
import { GATEWAY_RESOURCES, OWN_RESOURCES } from './rbac.ts';
import type { Refusal } from './own-status.ts';
import {
  createReflector,
  type ReflectedChange,
  type Reflector,
  type ReflectorStatus,
} from './reflector.ts';
import {
  admit,
  BUILT_IN_KINDS,
  kindName,
  kindPath,
  optionalKinds,
  type Admitted,
  type WatchedKind,
} from './watched-kinds.ts';

export interface KubernetesSourceOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly registry: Registry;
  readonly client: ApiClient;
  /** Every batch of changes; never empty. */
  readonly onChanges: (changes: readonly ObjectChange[]) => void;
  /** Every object of our own group as it came. */
  readonly onOwnObject?: (kind: WatchedKind, value: unknown, refusal: Refusal | undefined) => void;
  /** How often newly installed kinds are looked for. Default 10,000. */
  readonly discoveryPeriodMs?: number;
}

export interface KubernetesReport {
  readonly kinds: readonly ReflectorStatus[];
  /** Why the list of kinds could not be read last time. */
  readonly discoveryError: string;
}

export interface KubernetesSource extends AsyncDisposable {
  /** Waits, as long as it takes, until everything needed was told once. Rejects only when closed. */
  start(): Promise<void>;
  report(): KubernetesReport;
}

const OWN_GROUP = 'nodemesh.dev';
const DISCOVERY_PERIOD_DEFAULT_MS = 10_000;
const AGE_PERIOD_MS = 5_000;
const DISCOVERY_BACKOFF = { initialMs: 400, maxMs: 10_000, floor: 0 };
const OPTIONAL_KINDS = optionalKinds(OWN_RESOURCES, GATEWAY_RESOURCES);

interface Followed {
  readonly kind: WatchedKind;
  readonly reflector: Reflector;
}

export function createKubernetesSource(options: KubernetesSourceOptions): KubernetesSource {
  const { clock, logger, client } = options;
  const metrics = createReflectorMetrics(options.registry);
  const stop = new AbortController();
  /** By plural and group: a kind whose best version changes is followed in the old one until it is gone. */
  const followed = new Map<string, Followed>();
  const timers: Timer[] = [];
  let discoveryError = '';
  let looking: Promise<void> | undefined;

  const follow = (kind: WatchedKind): void => {
    const name = kindName(kind);
    if (followed.has(name) || stop.signal.aborted) return;
    const reflector = createReflector<ObjectKey, MeshObject>({
      clock,
      random: options.random,
      logger,
      metrics,
      client,
      name,
      path: kindPath(kind),
      read(value) {
        const admitted = admit(value, kind);
        if (kind.group === OWN_GROUP && admitted.status !== 'ignored') {
          options.onOwnObject?.(kind, value, refusalOf(admitted));
        }
        return admitted;
      },
      onChanges: (changes) => options.onChanges(changes.map(asObjectChange)),
      // Found again by the next discovery if it comes back, perhaps in another version.
      ...(BUILT_IN_KINDS.includes(kind) ? {} : { onMissing: () => void followed.delete(name) }),
    });
    followed.set(name, { kind, reflector });
  };

  /** True when the server could be asked. */
  const discover = async (): Promise<boolean> => {
    const found = await discoverKinds(client, OPTIONAL_KINDS);
    if (!found.ok) {
      const { message } = found.error;
      if (message !== discoveryError && !stop.signal.aborted) {
        logger.warn('Cannot ask which kinds are installed; trying again', { error: found.error });
      }
      discoveryError = message;
      return false;
    }
    discoveryError = '';
    for (const kind of found.value) follow(kind);
    return true;
  };

  const lookAgain = (): void => {
    looking ??= discover()
      .then(() => {})
      .finally(() => {
        looking = undefined;
      });
  };

  return {
    async start() {
      const backoff = createBackoff(options.random, DISCOVERY_BACKOFF);
      for (const kind of BUILT_IN_KINDS) follow(kind);
      while (!(await discover())) await sleep(clock, backoff.nextMs(), stop.signal);
      timers.push(
        clock.every(options.discoveryPeriodMs ?? DISCOVERY_PERIOD_DEFAULT_MS, lookAgain),
        clock.every(AGE_PERIOD_MS, () => {
          for (const { reflector } of followed.values()) {
            const { name, ageMs } = reflector.status();
            metrics.age.set(ageMs / 1000, [name]);
          }
        }),
      );
      const closed = new Promise<never>((_, reject) => {
        stop.signal.addEventListener('abort', () => reject(stop.signal.reason as Error), {
          once: true,
        });
      });
      const told = [...followed.values()].map(({ kind, reflector }) =>
        kind.required ? reflector.synced : reflector.tried,
      );
      await Promise.race([Promise.all(told), closed]);
    },
    report: () => ({
      kinds: [...followed.values()].map(({ reflector }) => reflector.status()),
      discoveryError,
    }),
    async [Symbol.asyncDispose]() {
      stop.abort(new MeshError('MESH_ABORTED', 'The source was closed'));
      for (const timer of timers) timer.cancel();
      await looking;
      await Promise.all(
        [...followed.values()].map(({ reflector }) => reflector[Symbol.asyncDispose]()),
      );
    },
  };
}

function refusalOf(admitted: Admitted): Refusal | undefined {
  if (admitted.status !== 'invalid') return undefined;
  return { problem: admitted.message, effect: admitted.stead?.effect };
}

/** A key is `KIND/NAMESPACE/NAME`, and none of them holds a slash. */
function asObjectChange(change: ReflectedChange<ObjectKey, MeshObject>): ObjectChange {
  if (change.type === 'put') return { type: 'put', object: change.object };
  const [kind = '', namespace = '', name = ''] = change.key.split('/');
  return { type: 'delete', kind: kind as ObjectKind, namespace, name };
}
