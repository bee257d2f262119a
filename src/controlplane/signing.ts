/**
 * Who may have which certificate (T01, T02, T10), and how often a node may ask (T09).
 *
 * The caller's node comes from its authenticated token, never from the request. An identity is signed only
 * while a pod with that service account is scheduled there, enrolled, and alive by its UID's own record.
 */

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { formatIdentity, type Identity } from '../core/identity.ts';
import type { PodUid } from '../core/pod.ts';
import type { Pod } from './objects.ts';
import { isTerminal, type PodRecord, type PodRegistry } from './pod-registry.ts';

/** Facts about pods; `World` is one. */
export interface PodFactSource {
  readonly pods: Pick<PodRegistry, 'withAccount'>;
  isAttached(record: PodRecord): boolean;
}

/** Neither ended nor past the time at which it was to be deleted. */
export function isAlive(pod: Pod, wallMs: number): boolean {
  return !isTerminal(pod) && (pod.deletionMs === undefined || wallMs < pod.deletionMs);
}

/** The pod for which `node` may have `identity`, or why not: for the audit log, never for the caller. */
export function maySign(
  source: PodFactSource,
  node: string,
  identity: Identity,
  trustDomain: string,
  wallMs: number,
): Result<PodUid> {
  const refuse = (reason: string): Result<never> => {
    const message = `Cannot sign "${formatIdentity(identity)}" for node "${node}": ${reason}`;
    return fail(new MeshError('MESH_CA_REFUSED', message, { details: { node, reason } }));
  };
  if (identity.trustDomain !== trustDomain) return refuse(`this CA serves "${trustDomain}"`);
  if (node === '') return refuse('the caller is no node');
  let reason = 'no pod with that service account is scheduled there';
  for (const record of source.pods.withAccount(node, identity.namespace, identity.serviceAccount)) {
    if (record.pod.hostNetwork) reason = 'the pod uses the host network';
    else if (!isAlive(record.pod, wallMs)) reason = 'the pod has ended';
    else if (!source.isAttached(record)) reason = 'the pod is not enrolled';
    else return ok(record.pod.uid);
  }
  return refuse(reason);
}

/** Certificates one node may ask for at once: all accounts of a full node after a restart. */
export const SIGNING_BURST = 500;
export const SIGNING_PER_SECOND = 50;
/** Requests of one node in progress; ztunnel has at most eight. */
export const SIGNING_CONCURRENCY = 16;

interface Bucket {
  tokens: number;
  filledMs: number;
  running: number;
}

/** A token bucket and a concurrency bound per node. */
export interface SigningLimits {
  /** Takes a place, to be released once; or the error that asks the caller to come again. */
  enter(node: string): Result<Disposable>;
  /** Forgets what is known of a node that has gone. */
  forget(node: string): void;
}

/** Nodes with a bucket; above, full buckets of idle nodes are dropped. */
const BUCKETS_MAX = 20_000;

export function createSigningLimits(clock: Clock): SigningLimits {
  const buckets = new Map<string, Bucket>();
  const refuse = (node: string, reason: string): Result<never> => {
    const message = `Cannot sign for node "${node}" now: ${reason}`;
    return fail(new MeshError('MESH_LIMIT_EXCEEDED', message, { retryable: true }));
  };
  const bucketOf = (node: string): Bucket => {
    const nowMs = clock.nowMs();
    const known = buckets.get(node);
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
    buckets.set(node, fresh);
    return fresh;
  };
  return {
    enter(node) {
      const bucket = bucketOf(node);
      if (bucket.running >= SIGNING_CONCURRENCY) return refuse(node, 'too many requests at once');
      if (bucket.tokens < 1) return refuse(node, 'too many requests');
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
    forget(node) {
      if (buckets.get(node)?.running === 0) buckets.delete(node);
    },
  };
}
