/**
 * A node's certificates: one per identity in use, fetched, renewed and forgotten. In memory only.
 *
 * - An identity is held while somebody retains it; with the last release its key is forgotten (T02).
 * - At most one request per identity and eight in all; a waiting connection goes before a prefetch, that before
 *   a renewal. All who wait for one identity share one outcome.
 * - Renewed at 40 % to 50 % of its life; a failure is tried again after 0.5 s to 150 s and keeps the certificate as long
 *   as it is valid, never longer (T127, T128: held-certificate.ts). A jump of the calendar is noticed within 30 s.
 */

import { type Backoff, createBackoff } from '../base/backoff.ts';
import type { Clock, Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Random } from '../base/random.ts';
import type { Result } from '../base/result.ts';
import { parseIdentity, type SpiffeId } from '../core/identity.ts';
import { NOT_BEFORE_BACKDATE_MS } from './certificate.ts';
import {
  type CertificateSigner,
  checkChain,
  checkOutcome,
  requestCertificate,
} from './certificate-request.ts';
import { type HeldCertificate, holdIssued, holdRestored } from './held-certificate.ts';
import { type CertificateMetrics, createCertificateMetrics } from './metrics.ts';
import { SigningQueue } from './signing-queue.ts';
import type { TrustBundle } from './trust-bundle.ts';
import { TrustRoots } from './trust-roots.ts';
import type { WorkloadCertificate } from './workload-certificate.ts';

export const SIGN_CONCURRENCY_MAX = 8;
export const HELD_IDENTITIES_MAX = 4096;
/** Connections that may wait for one identity. */
export const WAITERS_MAX = 10_000;
/** A connection does not wait for a retry that is further off: it fails with the last error at once. */
export const RETRY_WAIT_MAX_MS = 5000;
const RETRY = { initialMs: 1000, maxMs: 150_000 } as const;
const REISSUE_SPREAD_MS = 10_000;
const SWEEP_PERIOD_MS = 30_000;
const SKEW_REPORTED_MS: number = 5 * 60 * 1000;
/** What `Clock.after` waits at most; longer delays are waited for in parts. */
const TIMER_MAX_MS = 0x7fffffff;

export interface CertificateStoreOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly registry: Registry;
  readonly signer: CertificateSigner;
}

/** What happened to one identity; `certificate` is what is to be used from now on. */
export type CertificateChange =
  | {
      readonly kind: 'issued';
      readonly identity: SpiffeId;
      readonly certificate: WorkloadCertificate;
    }
  | { readonly kind: 'expired' | 'forgotten'; readonly identity: SpiffeId };

export interface Retention {
  /** Idempotent. */
  release(): void;
}

interface Waiter {
  resolve(certificate: WorkloadCertificate): void;
  reject(error: Error): void;
}

interface Entry {
  readonly identity: SpiffeId;
  readonly trustDomain: string;
  readonly backoff: Backoff;
  readonly waiters: Set<Waiter>;
  /** Ends a running request when the identity is released. */
  readonly released: AbortController;
  retainCount: number;
  held: HeldCertificate | undefined;
  /** The next renewal or retry. */
  timer: Timer | undefined;
  /** While `timer` stands for a retry: its monotonic time and what failed. */
  retry: { readonly atMs: number; readonly error: MeshError } | undefined;
}

export class CertificateStore implements Disposable {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;
  readonly #signer: CertificateSigner;
  readonly #metrics: CertificateMetrics;
  readonly #entries = new Map<SpiffeId, Entry>();
  readonly #queue: SigningQueue<Entry>;
  readonly #roots: TrustRoots;
  readonly #changeListeners = new Set<(change: CertificateChange) => void>();
  readonly #bundleListeners = new Set<(bundle: TrustBundle) => void>();
  readonly #sweep: Timer;
  /** Grows with `reissueAll`: a request begun before it may bring a certificate of the old issuer. */
  #issuerEpoch = 0;
  #skewMs = 0;
  #isClosed = false;

  constructor(options: CertificateStoreOptions) {
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
    this.#signer = options.signer;
    this.#queue = new SigningQueue(SIGN_CONCURRENCY_MAX, (entry) => this.#request(entry));
    this.#roots = new TrustRoots((bundle) => this.#notify(this.#bundleListeners, bundle));
    this.#metrics = createCertificateMetrics(options.registry, {
      heldCount: () => this.certificates().length,
      secondsToExpiry: () => this.#secondsToExpiry(),
      skewSeconds: () => this.#skewMs / 1000,
    });
    this.#sweep = options.clock.every(SWEEP_PERIOD_MS, () => this.#sweepEntries());
  }

  /** The roots known so far; generation 0 without any domain before the first. */
  get bundle(): TrustBundle {
    return this.#roots.bundle;
  }

  /**
   * Holds `identity`, fetching its certificate ahead of need, until released as often as retained. A valid
   * `restored` certificate of it (from key-store.ts) is used instead of a first request. Throws
   * `MESH_IDENTITY_INVALID`, `MESH_LIMIT_EXCEEDED`, or `MESH_CERTIFICATE_UNAVAILABLE` after `close`.
   */
  retain(identity: SpiffeId, restored?: WorkloadCertificate): Retention {
    if (this.#isClosed) throw unavailable(identity, 'the store is closed');
    const entry = this.#entries.get(identity) ?? this.#createEntry(identity, restored);
    entry.retainCount++;
    let isReleased = false;
    return {
      release: () => {
        if (isReleased) return;
        isReleased = true;
        if (--entry.retainCount === 0) this.#forget(entry);
      },
    };
  }

  /** The certificate of a held identity if it is valid now. */
  get(identity: SpiffeId): WorkloadCertificate | undefined {
    const held = this.#entries.get(identity)?.held;
    return held?.isExpired === false ? held.certificate : undefined;
  }

  /** Every certificate that is valid now. */
  certificates(): WorkloadCertificate[] {
    const valid: WorkloadCertificate[] = [];
    for (const { held } of this.#entries.values()) {
      if (held?.isExpired === false) valid.push(held.certificate);
    }
    return valid;
  }

  /**
   * The certificate of a held identity, waiting for the request under way or the next retry if none is valid.
   * Rejects with `MESH_CERTIFICATE_UNAVAILABLE` (not held, refused, released, closed),
   * `MESH_CERTIFICATE_EXPIRED` (there was one and it could not be renewed), `MESH_LIMIT_EXCEEDED`, or the
   * signal's reason.
   */
  async acquire(identity: SpiffeId, signal?: AbortSignal): Promise<WorkloadCertificate> {
    const certificate = this.get(identity);
    if (certificate !== undefined) return certificate;
    const entry = this.#entries.get(identity);
    if (entry === undefined) {
      throw unavailable(identity, 'no pod on this node has this identity');
    }
    signal?.throwIfAborted();
    if (entry.waiters.size >= WAITERS_MAX) {
      const message = `Cannot wait for a certificate of "${identity}": ${WAITERS_MAX} wait already`;
      throw new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'LIMIT' });
    }
    const { retry } = entry;
    if (retry !== undefined && retry.atMs - this.#clock.nowMs() > RETRY_WAIT_MAX_MS) {
      throw this.#noCertificate(entry, retry.error);
    }
    const outcome = waitIn(entry.waiters, signal);
    if (retry === undefined) this.#queue.add(entry, 'connection');
    return outcome;
  }

  /**
   * The roots of one trust domain as the control plane publishes them: from now on instead of those that come
   * with chains. An unusable list changes nothing and is returned as the error. Certificates that no root vouches
   * for any more are replaced at once.
   */
  setRoots(trustDomain: string, rootsPem: readonly string[]): Result<void> {
    const pushed = this.#roots.push(trustDomain, rootsPem);
    if (pushed.ok) this.#replaceUntrusted();
    return pushed;
  }

  /** The CA issues under another root now: every certificate is replaced within `spreadMs` (default 10 s). */
  reissueAll(spreadMs: number = REISSUE_SPREAD_MS): void {
    this.#issuerEpoch++;
    for (const entry of this.#entries.values()) {
      const isComing = entry.held === undefined || entry.retry !== undefined;
      if (!isComing) this.#schedule(entry, this.#random.next() * spreadMs);
    }
  }

  /** Calls `listener` after every change; returns a function that ends that. */
  onChange(listener: (change: CertificateChange) => void): () => void {
    this.#changeListeners.add(listener);
    return () => void this.#changeListeners.delete(listener);
  }

  /** Calls `listener` after every change of `bundle`; returns a function that ends that. */
  onBundle(listener: (bundle: TrustBundle) => void): () => void {
    this.#bundleListeners.add(listener);
    return () => void this.#bundleListeners.delete(listener);
  }

  /** Forgets everything; waiters and requests under way are refused. No listener is called. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#changeListeners.clear();
    this.#bundleListeners.clear();
    this.#sweep.cancel();
    for (const entry of this.#entries.values()) this.#forget(entry);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Kept from before a restart, say, while the CA was replaced: valid by the calendar, and nobody accepts them. */
  #replaceUntrusted(): void {
    for (const entry of this.#entries.values()) {
      const { held, identity } = entry;
      if (held === undefined || entry.retry !== undefined) continue;
      const checked = checkChain(held.certificate, this.bundle, this.#clock.wallMs());
      if (checked.ok) continue;
      const { message } = checked.error;
      this.#logger.warn('Certificate is not trusted any more', { identity, error: message });
      this.#schedule(entry, 0);
    }
  }

  #createEntry(identity: SpiffeId, restored: WorkloadCertificate | undefined): Entry {
    const parsed = parseIdentity(identity);
    if (!parsed.ok) throw parsed.error;
    if (this.#entries.size >= HELD_IDENTITIES_MAX) {
      const message = `Cannot hold more than ${HELD_IDENTITIES_MAX} identities`;
      throw new MeshError('MESH_LIMIT_EXCEEDED', message);
    }
    const entry: Entry = {
      identity,
      trustDomain: parsed.value.trustDomain,
      backoff: createBackoff(this.#random, RETRY),
      waiters: new Set(),
      released: new AbortController(),
      retainCount: 0,
      held: undefined,
      timer: undefined,
      retry: undefined,
    };
    this.#entries.set(identity, entry);
    const isUsable = restored?.identity === identity && restored.notAfterMs > this.#clock.wallMs();
    if (isUsable) this.#hold(entry, holdRestored(restored, this.#clock, this.#random));
    else this.#queue.add(entry, 'prefetch');
    return entry;
  }

  #forget(entry: Entry): void {
    this.#entries.delete(entry.identity);
    this.#queue.remove(entry);
    entry.timer?.cancel();
    entry.held = undefined;
    const error = unavailable(entry.identity, 'it was released');
    entry.released.abort(error);
    rejectAll(entry.waiters, error);
    this.#announce({ kind: 'forgotten', identity: entry.identity });
  }

  /** Runs one request to its end. Never rejects. */
  async #request(entry: Entry): Promise<void> {
    const { identity, trustDomain, released } = entry;
    const epoch = this.#issuerEpoch;
    entry.timer?.cancel();
    entry.retry = undefined;
    try {
      const outcome = await requestCertificate(
        this.#signer,
        identity,
        this.#clock,
        released.signal,
      );
      if (released.signal.aborted) return;
      const roots = this.#roots.learn(trustDomain, outcome.signed.rootsPem);
      if (!roots.ok) throw roots.error;
      const nowMs = this.#clock.wallMs();
      const certificate = checkOutcome(identity, outcome, this.bundle, nowMs);
      if (!certificate.ok) throw certificate.error;
      this.#noteSkew(nowMs - (certificate.value.notBeforeMs + NOT_BEFORE_BACKDATE_MS));
      this.#metrics.requests.add(1, ['issued']);
      entry.backoff.reset();
      this.#hold(entry, holdIssued(certificate.value, this.#clock, this.#random));
      if (epoch !== this.#issuerEpoch) {
        this.#schedule(entry, this.#random.next() * REISSUE_SPREAD_MS);
      }
    } catch (error) {
      if (!released.signal.aborted) this.#failed(entry, error);
    }
  }

  #hold(entry: Entry, held: HeldCertificate): void {
    const { identity, waiters } = entry;
    const { certificate } = held;
    entry.held = held;
    this.#schedule(entry, held.renewAfterMs);
    const waiting = [...waiters];
    waiters.clear();
    for (const waiter of waiting) waiter.resolve(certificate);
    this.#announce({ kind: 'issued', identity, certificate });
  }

  #failed(entry: Entry, cause: unknown): void {
    const { identity, held } = entry;
    const reason = cause instanceof Error ? cause.message : String(cause);
    const error = cause instanceof MeshError ? cause : unavailable(identity, reason, cause);
    const isTimeout = error.code === 'MESH_DEADLINE_EXCEEDED';
    this.#metrics.requests.add(1, [isTimeout ? 'timeout' : 'refused']);
    const retryMs = entry.backoff.nextMs();
    entry.retry = { atMs: this.#clock.nowMs() + retryMs, error };
    this.#schedule(entry, retryMs);
    rejectAll(entry.waiters, this.#noCertificate(entry, error));
    const fields = { identity, error: error.message, retryMs: Math.round(retryMs) };
    if (held?.isNearEnd === true && !held.isAlerted) {
      held.isAlerted = true;
      this.#logger.error('Certificate is near its end and cannot be renewed', fields);
    } else {
      this.#logger.warn('Certificate was not issued', fields);
    }
  }

  /** One timer per entry: what was scheduled before is replaced. */
  #schedule(entry: Entry, delayMs: number): void {
    entry.timer?.cancel();
    entry.timer = this.#clock.after(Math.min(delayMs, TIMER_MAX_MS), () => {
      if (delayMs > TIMER_MAX_MS) {
        this.#schedule(entry, delayMs - TIMER_MAX_MS);
        return;
      }
      entry.retry = undefined;
      this.#enqueue(entry);
    });
  }

  #enqueue(entry: Entry): void {
    if (entry.waiters.size > 0) this.#queue.add(entry, 'connection');
    else this.#queue.add(entry, entry.held?.isExpired === false ? 'renewal' : 'prefetch');
  }

  #sweepEntries(): void {
    for (const entry of this.#entries.values()) {
      const { held, identity } = entry;
      if (held === undefined) continue;
      const { isExpired, certificate } = held;
      if (isExpired !== held.isExpiryAnnounced) {
        held.isExpiryAnnounced = isExpired;
        if (isExpired) this.#logger.error('Certificate has expired', { identity });
        const issued = { kind: 'issued', identity, certificate } as const;
        this.#announce(isExpired ? { kind: 'expired', identity } : issued);
      }
      if ((isExpired || held.isRenewalDue) && entry.retry === undefined) this.#enqueue(entry);
    }
  }

  #noteSkew(skewMs: number): void {
    this.#skewMs = skewMs;
    if (Math.abs(skewMs) <= SKEW_REPORTED_MS) return;
    const aheadSeconds = Math.round(skewMs / 1000);
    this.#logger.warn('Clocks of this node and of the CA differ', { aheadSeconds });
  }

  #noCertificate(entry: Entry, cause: MeshError): MeshError {
    const { identity, held } = entry;
    if (held === undefined) return unavailable(identity, cause.message, cause);
    const message = `Cannot use the certificate of "${identity}": it has expired; not renewed: ${cause.message}`;
    return new MeshError('MESH_CERTIFICATE_EXPIRED', message, { cause, ...NO_CERTIFICATE });
  }

  #announce(change: CertificateChange): void {
    this.#notify(this.#changeListeners, change);
  }

  #notify<T>(listeners: ReadonlySet<(value: T) => void>, value: T): void {
    for (const listener of listeners) {
      try {
        listener(value);
      } catch (error) {
        this.#logger.error('Certificate listener failed', { error: String(error) });
      }
    }
  }

  #secondsToExpiry(): number {
    let firstMs = Number.POSITIVE_INFINITY;
    for (const { held } of this.#entries.values()) {
      if (held !== undefined) firstMs = Math.min(firstMs, held.certificate.notAfterMs);
    }
    return (firstMs - this.#clock.wallMs()) / 1000;
  }
}

const NO_CERTIFICATE = { retryable: true, flag: 'IDENTITY_ERROR' } as const;

function unavailable(identity: string, reason: string, cause?: unknown): MeshError {
  const message = `Cannot get a certificate for "${identity}": ${reason}`;
  return new MeshError('MESH_CERTIFICATE_UNAVAILABLE', message, { cause, ...NO_CERTIFICATE });
}

/** Waits in `waiters` until somebody settles it, or for the signal. */
function waitIn(
  waiters: Set<Waiter>,
  signal: AbortSignal | undefined,
): Promise<WorkloadCertificate> {
  return new Promise((resolve, reject) => {
    const leave = (): void => signal?.removeEventListener('abort', onAbort);
    const waiter: Waiter = {
      resolve: (certificate) => {
        leave();
        resolve(certificate);
      },
      reject: (error) => {
        leave();
        reject(error);
      },
    };
    const onAbort = (): void => {
      waiters.delete(waiter);
      reject(signal?.reason as Error);
    };
    waiters.add(waiter);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

function rejectAll(waiters: Set<Waiter>, error: MeshError): void {
  const waiting = [...waiters];
  waiters.clear();
  for (const waiter of waiting) waiter.reject(error);
}
