/**
 * Which controllers live, and how far the nodes of each have followed: one Lease per replica, renewed every 5 s
 * and read by the others through a watch. One whose Lease has not changed for 20 s, by our own clock, is dead.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { APPLY_CONTENT_TYPE, FIELD_MANAGER, type ApiClient } from './api-client.ts';
import type { ReflectorMetrics } from './metrics.ts';
import { createReflector } from './reflector.ts';

export const REPLICA_LABEL = 'nodemesh.dev/replica';
const ACKNOWLEDGED = 'nodemesh.dev/acknowledged';
export const RENEW_MS = 5_000;
export const DEAD_MS = 20_000;
/** Leases of dead replicas are removed after so long. */
const FORGET_MS = 600_000;

export interface ReplicasOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: ReflectorMetrics;
  readonly client: ApiClient;
  readonly namespace: string;
  readonly identity: string;
  /** Whether this one cleans up. */
  readonly leads: () => boolean;
}

export interface Replicas extends AsyncDisposable {
  /** Resolves when our Lease is there and the others' have been read. */
  start(): Promise<void>;
  isAlive(identity: string): boolean;
  /** The lowest version that every other live replica has acknowledged; Infinity when there is none. */
  readonly acknowledgedByOthers: number;
  /** Says how far our nodes are; written soon. */
  acknowledge(version: number): void;
}

interface Seen {
  readonly name: string;
  readonly record: string;
  readonly seenMs: number;
  readonly acknowledged: number;
}

interface LeaseObject {
  readonly metadata: Readonly<Record<string, unknown>> & {
    readonly name: string;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec?: { readonly holderIdentity?: string; readonly renewTime?: string };
}

export function createReplicas(options: ReplicasOptions): Replicas {
  const { clock, random, logger, metrics, client, namespace, identity } = options;
  const path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
  const name = `nodemesh-replica-${identity}`;
  const seen = new Map<string, Seen>();
  const timers: Timer[] = [];
  let acknowledged = 0;
  let writing: Promise<void> | undefined;
  let again = false;
  let complained = '';

  const write = async (): Promise<void> => {
    const body = {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: {
        name,
        namespace,
        labels: { 'app.kubernetes.io/part-of': 'nodemesh', [REPLICA_LABEL]: 'true' },
        annotations: { [ACKNOWLEDGED]: String(acknowledged) },
      },
      spec: {
        holderIdentity: identity,
        leaseDurationSeconds: DEAD_MS / 1000,
        renewTime: new Date(clock.wallMs()).toISOString().replace('Z', '000Z'),
      },
    };
    // Applied, since nobody else writes it: made when missing, and the newest word counts.
    const answer = await client.request({
      method: 'PATCH',
      path: `${path}/${name}`,
      query: { fieldManager: FIELD_MANAGER, force: 'true' },
      contentType: APPLY_CONTENT_TYPE,
      body,
    });
    const problem = answer.ok ? '' : answer.error.message;
    if (problem !== '' && problem !== complained) {
      logger.warn('Cannot tell the other controllers that this one lives', { error: problem });
    }
    complained = problem;
  };
  const writeSoon = (): Promise<void> => {
    again = true;
    writing ??= (async () => {
      while (again) {
        again = false;
        await write();
      }
    })().finally(() => {
      writing = undefined;
    });
    return writing;
  };

  const take = (lease: LeaseObject): void => {
    const holder = lease.spec?.holderIdentity ?? '';
    const record = `${lease.spec?.renewTime} ${lease.metadata.annotations?.[ACKNOWLEDGED]}`;
    const said = Number(lease.metadata.annotations?.[ACKNOWLEDGED] ?? 0);
    if (seen.get(holder)?.record === record) return;
    const known = { name: lease.metadata.name, record, seenMs: clock.nowMs() };
    seen.set(holder, { ...known, acknowledged: Number.isFinite(said) ? said : 0 });
  };
  const isFresh = ({ seenMs }: Seen): boolean => clock.nowMs() - seenMs < DEAD_MS;
  const forgetDead = (): void => {
    if (!options.leads()) return;
    for (const [holder, lease] of seen) {
      if (holder === identity || clock.nowMs() - lease.seenMs < FORGET_MS) continue;
      void client.request({ method: 'DELETE', path: `${path}/${lease.name}` });
    }
  };

  let reflector: ReturnType<typeof createReflector> | undefined;
  return {
    async start() {
      await writeSoon();
      timers.push(
        clock.every(RENEW_MS, () => void writeSoon()),
        clock.every(DEAD_MS, forgetDead),
      );
      reflector = createReflector<string, LeaseObject>({
        clock,
        random,
        logger,
        metrics,
        client,
        name: 'replica leases',
        path,
        labelSelector: `${REPLICA_LABEL}=true`,
        read: (value) => {
          const lease = value as LeaseObject;
          const key = lease.spec?.holderIdentity;
          if (typeof key !== 'string') return { status: 'ignored' };
          return { status: 'object', key, object: lease };
        },
        onChanges(changes) {
          for (const change of changes) {
            if (change.type === 'put') take(change.object);
            else seen.delete(change.key);
          }
        },
      });
      await reflector.synced;
    },
    isAlive(holder) {
      const lease = seen.get(holder);
      return holder === identity || (lease !== undefined && isFresh(lease));
    },
    get acknowledgedByOthers() {
      let lowest = Infinity;
      for (const [holder, lease] of seen) {
        if (holder === identity || !isFresh(lease)) continue;
        lowest = Math.min(lowest, lease.acknowledged);
      }
      return lowest;
    },
    acknowledge(version) {
      if (version <= acknowledged) return;
      acknowledged = version;
      void writeSoon();
    },
    async [Symbol.asyncDispose]() {
      for (const timer of timers) timer.cancel();
      await reflector?.[Symbol.asyncDispose]();
      await writing;
      // Gone in peace: nobody need wait for our nodes, which connect elsewhere now.
      await client.request({ method: 'DELETE', path: `${path}/${name}` });
    },
  };
}
