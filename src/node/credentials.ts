/**
 * The credentials of a worker: certificates and trusted roots as the agent sends them, ready for TLS. Contexts
 * are made when first used and kept until their certificate or the roots change.
 */

import type { SpiffeId } from '../core/identity.ts';
import { SecureContextCache } from '../identity/secure-context-cache.ts';
import type { TrustBundle } from '../identity/trust-bundle.ts';
import type { WorkloadCertificate } from '../identity/workload-certificate.ts';
import type { TunnelCredentials } from '../tunnel/handshake.ts';

export interface Credentials {
  get(identity: SpiffeId): TunnelCredentials | undefined;
  set(certificate: WorkloadCertificate): void;
  remove(identity: SpiffeId): void;
  setBundle(bundle: TrustBundle): void;
  readonly size: number;
  /** Called after each change. One listener. */
  onChange(listener: () => void): void;
}

export function createCredentials(): Credentials {
  const certificates = new Map<SpiffeId, WorkloadCertificate>();
  const ready = new Map<SpiffeId, TunnelCredentials>();
  const contexts = new SecureContextCache();
  let bundle: TrustBundle | undefined;
  let changed: (() => void) | undefined;
  return {
    get size() {
      return certificates.size;
    },
    get(identity) {
      const known = ready.get(identity);
      if (known !== undefined) return known;
      const certificate = certificates.get(identity);
      if (certificate === undefined || bundle === undefined) return undefined;
      const made: TunnelCredentials = {
        identity,
        context: contexts.contextFor(certificate, bundle),
        bundle,
        generation: `${certificate.serial}/${bundle.generation}`,
      };
      ready.set(identity, made);
      return made;
    },
    set(certificate) {
      certificates.set(certificate.identity, certificate);
      ready.delete(certificate.identity);
      changed?.();
    },
    remove(identity) {
      certificates.delete(identity);
      ready.delete(identity);
      contexts.forget(identity);
      changed?.();
    },
    onChange(listener) {
      changed = listener;
    },
    setBundle(next) {
      bundle = next;
      ready.clear();
      changed?.();
    },
  };
}
