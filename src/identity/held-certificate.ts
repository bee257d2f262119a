/**
 * One certificate in use and its two clocks. Expiry is judged by the calendar and by the monotonic clock, and
 * either is enough: a calendar set back does not revive a certificate, one set forward ends it (T128).
 */

import type { Clock } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import type { WorkloadCertificate } from './workload-certificate.ts';

/** Only ever earlier than half: whenever the CA goes away, half a life is left (G05). */
const RENEW_JITTER = 0.2;
/** What the request itself may take, and a retry after it. */
const RENEW_LEAD_MS = 60_000;
/** However short the life: no tighter loop than this. */
const RENEW_AFTER_MIN_MS = 5000;

export class HeldCertificate {
  readonly certificate: WorkloadCertificate;
  /** How long after it was taken it is to be renewed. */
  readonly renewAfterMs: number;
  /** Set by the holder once it has told of the expiry. */
  isExpiryAnnounced = false;
  /** Set by the holder once it has told that the end is near. */
  isAlerted = false;
  readonly #clock: Clock;
  readonly #expiresAtMs: number;
  readonly #renewAtMs: number;
  readonly #renewAtWallMs: number;

  constructor(certificate: WorkloadCertificate, clock: Clock, renewAfterMs: number) {
    const nowMs = clock.nowMs();
    const wallMs = clock.wallMs();
    const { notBeforeMs, notAfterMs } = certificate;
    this.certificate = certificate;
    this.renewAfterMs = Math.max(renewAfterMs, RENEW_AFTER_MIN_MS);
    this.#clock = clock;
    this.#expiresAtMs = nowMs + notAfterMs - Math.max(wallMs, notBeforeMs);
    this.#renewAtMs = nowMs + this.renewAfterMs;
    this.#renewAtWallMs = wallMs + this.renewAfterMs;
  }

  get isExpired(): boolean {
    const { notAfterMs } = this.certificate;
    return this.#clock.wallMs() >= notAfterMs || this.#clock.nowMs() >= this.#expiresAtMs;
  }

  get isRenewalDue(): boolean {
    return this.#clock.nowMs() >= this.#renewAtMs || this.#clock.wallMs() >= this.#renewAtWallMs;
  }

  /** Less than a third of its life is left (T127). */
  get isNearEnd(): boolean {
    const { notBeforeMs, notAfterMs } = this.certificate;
    return notAfterMs - this.#clock.wallMs() < (notAfterMs - notBeforeMs) / 3;
  }
}

/** One that was just issued: renewed before half of what is left of it is over. */
export function holdIssued(
  certificate: WorkloadCertificate,
  clock: Clock,
  random: Random,
): HeldCertificate {
  const { notBeforeMs, notAfterMs } = certificate;
  const remainingMs = notAfterMs - Math.max(clock.wallMs(), notBeforeMs);
  return new HeldCertificate(certificate, clock, renewalMs(remainingMs, random));
}

/** One that was issued some time ago: renewed before half of its whole life is over, or now. */
export function holdRestored(
  certificate: WorkloadCertificate,
  clock: Clock,
  random: Random,
): HeldCertificate {
  const { notBeforeMs, notAfterMs } = certificate;
  const afterMs = renewalMs(notAfterMs - notBeforeMs, random);
  return new HeldCertificate(certificate, clock, notBeforeMs + afterMs - clock.wallMs());
}

/** 40 % to 50 % of a life, less the lead where the life is long enough for one. */
function renewalMs(lifeMs: number, random: Random): number {
  const leadMs = Math.min(RENEW_LEAD_MS, lifeMs / 20);
  return (lifeMs / 2) * (1 - RENEW_JITTER * random.next()) - leadMs;
}
