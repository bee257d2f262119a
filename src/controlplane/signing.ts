/**
 * Who may have which certificate (T01, T02, T10), and how often a caller may ask (T09).
 *
 * Who calls comes from its authenticated token, never from the request. For a node proxy an identity is signed
 * only while a pod with that service account is scheduled there, enrolled, and alive by its UID's own record;
 * any other workload gets only its own identity, while a pod with that service account is alive.
 */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { formatIdentity, type Identity } from '../core/identity.ts';
import type { PodUid } from '../core/pod.ts';
import { callerId, type CallerIdentity } from './caller.ts';
import type { Pod } from './objects.ts';
import { isTerminal, type PodRecord, type PodRegistry } from './pod-registry.ts';

/** Facts about pods; `World` is one. */
export interface PodFactSource {
  readonly pods: Pick<PodRegistry, 'withAccount' | 'withAccountAnywhere'>;
  isAttached(record: PodRecord): boolean;
}

/** Neither ended nor past the time at which it was to be deleted. */
export function isAlive(pod: Pod, wallMs: number): boolean {
  return !isTerminal(pod) && (pod.deletionMs === undefined || wallMs < pod.deletionMs);
}

/** The pod for which the caller may have `identity`, or why not: for the audit log, never for the caller. */
export function maySign(
  source: PodFactSource,
  caller: CallerIdentity,
  identity: Identity,
  trustDomain: string,
  wallMs: number,
): Result<PodUid> {
  const client = callerId(caller);
  const refuse = (reason: string): Result<never> => {
    const message = `Cannot sign "${formatIdentity(identity)}" for "${client}": ${reason}`;
    return fail(new MeshError('MESH_CA_REFUSED', message, { details: { client, reason } }));
  };
  if (identity.trustDomain !== trustDomain) return refuse(`this CA serves "${trustDomain}"`);
  const { namespace, serviceAccount } = identity;
  if (caller.kind === 'workload') {
    const own = caller.namespace === namespace && caller.serviceAccount === serviceAccount;
    if (!own) return refuse('a workload gets only its own identity');
    for (const { pod } of source.pods.withAccountAnywhere(namespace, serviceAccount)) {
      const named = caller.pod === undefined || caller.pod === pod.meta.name;
      if (named && isAlive(pod, wallMs)) return ok(pod.uid);
    }
    return refuse('no such pod with that service account is alive');
  }
  if (caller.node === '') return refuse('the caller is no node');
  let reason = 'no pod with that service account is scheduled there';
  for (const record of source.pods.withAccount(caller.node, namespace, serviceAccount)) {
    if (record.pod.hostNetwork) reason = 'the pod uses the host network';
    else if (!isAlive(record.pod, wallMs)) reason = 'the pod has ended';
    else if (!source.isAttached(record)) reason = 'the pod is not enrolled';
    else return ok(record.pod.uid);
  }
  return refuse(reason);
}

/** Certificates one caller may ask for at once: all accounts of a full node after a restart. */
export const SIGNING_BURST = 500;
export const SIGNING_PER_SECOND = 50;
/** Requests of one caller in progress; ztunnel has at most eight. */
export const SIGNING_CONCURRENCY = 16;

interface Bucket {
  tokens: number;
  filledMs: number;
  running: number;
}

/** A token bucket and a concurrency bound per caller. */
export interface SigningLimits {
  /** Takes a place, to be released once; or the error that asks the caller to come again. */
  enter(client: string): Result<Disposable>;
  /** Forgets what is known of a caller that has gone. */
  forget(client: string): void;
}

/** Callers with a bucket; above, full buckets of idle ones are dropped. */
const BUCKETS_MAX = 20_000;

export function createSigningLimits(clock: Clock): SigningLimits {
  const buckets = new Map<string, Bucket>();
  const refuse = (client: string, reason: string): Result<never> => {
    const message = `Cannot sign for "${client}" now: ${reason}`;
    return fail(new MeshError('MESH_LIMIT_EXCEEDED', message, { retryable: true }));
  };
  const bucketOf = (client: string): Bucket => {
    const nowMs = clock.nowMs();
    const known = buckets.get(client);
    if (known !== undefined) {
      const earned = ((nowMs - known.filledMs) * SIGNING_PER_SECOND) / 1_000;
      known.tokens = Math.min(SIGNING_BURST, known.tokens + earned);
      known.filledMs = nowMs;
      return known;
    }
    if (buckets.size >= BUCKETS_MAX) {
      for (const [name, { running }] of buckets) if (running === 0) buckets.delete(name);
    }
    const fresh = { tokens: SIGNING_BURST, filledMs: nowMs, running: 0 };
    buckets.set(client, fresh);
    return fresh;
  };
  return {
    enter(client) {
      const bucket = bucketOf(client);
      if (bucket.running >= SIGNING_CONCURRENCY) return refuse(client, 'too many requests at once');
      if (bucket.tokens < 1) return refuse(client, 'too many requests');
      bucket.tokens--;
      bucket.running++;
      let released = false;
      return ok({
        [Symbol.dispose]() {
          if (released) return;
          released = true;
          bucket.running--;
        },
      });
    },
    forget(client) {
      if (buckets.get(client)?.running === 0) buckets.delete(client);
    },
  };
}
