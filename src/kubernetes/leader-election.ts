/**
 * Which of several controllers acts for all: the holder of one Lease, by the times and rules of client-go.
 *
 * - A lease is taken only 15 s after its record was last seen to change, by our own monotonic clock: nobody's
 *   wall clock counts.
 * - A holder leads only while its last renewal is younger than 10 s, looked at when asked: one that was stopped
 *   and goes on has stopped leading before it does anything (F12).
 * - Every write is refused by the API server when somebody else wrote meanwhile, so there are never two.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { statusOf, type ApiClient } from './api-client.ts';

export const LEASE_MS = 15_000;
export const RENEW_LIMIT_MS = 10_000;
export const RETRY_MS = 2_000;
/** client-go's jitter: up to a fifth more. */
const RETRY_JITTER = 0.2;

export interface LeaderElectionOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly client: ApiClient;
  readonly namespace: string;
  /** Of the Lease. */
  readonly name: string;
  /** Ours; a pod's name. Two with one identity would both lead. */
  readonly identity: string;
  /** Begins or ends leading; an end by silence is told within two seconds. */
  readonly onChange: (leads: boolean) => void;
}

export interface LeaderElection extends AsyncDisposable {
  /** Whether we lead at this very moment. */
  leads(): boolean;
  /** Who does, as last seen; empty while nobody is known to. */
  readonly holder: string;
}

interface LeaseSpec {
  readonly holderIdentity?: string | null;
  readonly leaseDurationSeconds?: number;
  readonly acquireTime?: string;
  readonly renewTime?: string;
  readonly leaseTransitions?: number;
}

interface LeaseObject {
  readonly metadata?: { readonly resourceVersion?: string; readonly [key: string]: unknown };
  readonly spec?: LeaseSpec;
}

export function createLeaderElection(options: LeaderElectionOptions): LeaderElection {
  const { clock, random, logger, client, namespace, name, identity } = options;
  const path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
  let lease: LeaseObject | undefined;
  /** When the record that we see was first seen, and what it was. */
  let observed = '';
  let observedMs = -Infinity;
  let renewedMs = -Infinity;
  let told = false;
  let error = '';
  let closed = false;
  let busy = false;
  let running: Promise<void> = Promise.resolve();
  let timer: Timer | undefined;

  const leads = (): boolean => !closed && clock.nowMs() - renewedMs < RENEW_LIMIT_MS;
  const tell = (): void => {
    const now = leads();
    if (now === told) return;
    told = now;
    logger.info(now ? 'This controller leads' : 'This controller does not lead any more', {
      lease: name,
      identity,
    });
    options.onChange(now);
  };
  const observe = (value: LeaseObject | undefined): void => {
    lease = value;
    const record = JSON.stringify(value?.spec ?? {});
    if (record === observed) return;
    observed = record;
    observedMs = clock.nowMs();
  };

  /** Writes a record that names us, or nobody; true when it was taken. */
  const write = async (holder: string): Promise<boolean> => {
    const now = new Date(clock.wallMs()).toISOString().replace('Z', '000Z');
    const { spec = {}, metadata } = lease ?? {};
    const renews = spec.holderIdentity === holder;
    const transitions = spec.leaseTransitions ?? 0;
    const next: LeaseSpec = {
      holderIdentity: holder,
      // One second when it is given up, as client-go does.
      leaseDurationSeconds: holder === '' ? 1 : LEASE_MS / 1000,
      acquireTime: renews ? (spec.acquireTime ?? now) : now,
      renewTime: now,
      leaseTransitions: renews || lease === undefined ? transitions : transitions + 1,
    };
    const isNew = lease === undefined;
    const body = {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: metadata ?? { name, namespace },
      spec: next,
    };
    const startMs = clock.nowMs();
    const answer = await client.request({
      method: isNew ? 'POST' : 'PUT',
      path: isNew ? path : `${path}/${name}`,
      body,
      timeoutMs: RENEW_LIMIT_MS / 2,
    });
    if (!answer.ok) return complain(answer.error.message, statusOf(answer.error) === 409);
    error = '';
    observe(answer.value ?? {});
    // From before the request was sent: nobody can count our time from earlier.
    if (holder === identity) renewedMs = startMs;
    return true;
  };

  const complain = (message: string, quiet: boolean): false => {
    if (message !== error && !quiet)
      logger.warn('Cannot take part in the election', { error: message });
    error = quiet ? error : message;
    return false;
  };

  const look = async (): Promise<void> => {
    const answer = await client.request({ path: `${path}/${name}`, timeoutMs: RENEW_LIMIT_MS / 2 });
    if (!answer.ok && statusOf(answer.error) !== 404) {
      complain(answer.error.message, false);
      return;
    }
    observe(answer.ok ? (answer.value ?? {}) : undefined);
    const { holderIdentity, leaseDurationSeconds = LEASE_MS / 1000 } = lease?.spec ?? {};
    const free = holderIdentity === undefined || holderIdentity === null || holderIdentity === '';
    const expired = clock.nowMs() - observedMs >= leaseDurationSeconds * 1000;
    if (free || expired || holderIdentity === identity) await write(identity);
  };

  const lookNow = (): void => {
    if (busy || closed) return;
    busy = true;
    running = look()
      .catch((cause: unknown) => void complain(String(cause), false))
      .finally(() => {
        busy = false;
        tell();
      });
  };
  const turn = (): void => {
    timer = clock.after(RETRY_MS * (1 + RETRY_JITTER * random.next()), () => {
      // By the clock as well: a request may hang for longer than we may lead.
      tell();
      lookNow();
      turn();
    });
  };
  lookNow();
  turn();

  return {
    leads,
    get holder() {
      return lease?.spec?.holderIdentity ?? '';
    },
    async [Symbol.asyncDispose]() {
      timer?.cancel();
      await running;
      const held = leads();
      closed = true;
      tell();
      // Given up at once, so that the next one need not wait.
      if (held) await write('');
    },
  };
}
