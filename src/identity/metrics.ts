/** The metrics of a node's certificates. */

import type { Counter, Registry } from '../base/metrics.ts';

export interface CertificateMetrics {
  /** Label `result`: issued, refused (by the signer or by us), timeout. */
  readonly requests: Counter;
}

export interface CertificateReadings {
  heldCount(): number;
  /** Of the one that expires first; infinity when none is held, negative after expiry. */
  secondsToExpiry(): number;
  /** How far our calendar is ahead of the CA's, as the last certificate showed. */
  skewSeconds(): number;
}

export function createCertificateMetrics(
  registry: Registry,
  readings: CertificateReadings,
): CertificateMetrics {
  const observe = (name: string, help: string, read: () => number): void =>
    registry.observedGauge({ name, help }, read);
  observe('nodemesh_certificates', 'Workload certificates held', () => readings.heldCount());
  observe(
    'nodemesh_cert_expiry_seconds',
    'Seconds until the first of the held certificates expires',
    () => readings.secondsToExpiry(),
  );
  observe(
    'nodemesh_cert_clock_skew_seconds',
    'How far the clock of this node is ahead of the CA, from the last certificate',
    () => readings.skewSeconds(),
  );
  return {
    requests: registry.counter({
      name: 'nodemesh_certificate_requests_total',
      help: 'Certificate signing requests by result',
      labels: ['result'],
    }),
  };
}
