/**
 * TLS contexts by identity: made once per certificate and trust bundle, replaced when either changes, dropped
 * when the identity goes. One context serves both directions.
 */

import type { SecureContext } from 'node:tls';

import { MeshError } from '../base/errors.ts';
import type { SpiffeId } from '../core/identity.ts';
import { createMeshSecureContext } from './tls.ts';
import type { TrustBundle } from './trust-bundle.ts';
import type { WorkloadCertificate } from './workload-certificate.ts';

/** More identities than any node has pods. */
export const SECURE_CONTEXTS_MAX = 4096;

interface Entry {
  readonly serial: string;
  readonly generation: number;
  readonly context: SecureContext;
}

export class SecureContextCache {
  readonly #entries = new Map<SpiffeId, Entry>();

  get size(): number {
    return this.#entries.size;
  }

  /**
   * The context for this certificate under this bundle. Throws `MESH_LIMIT_EXCEEDED` for one identity too many
   * and what OpenSSL throws for a certificate it does not take.
   */
  contextFor(certificate: WorkloadCertificate, bundle: TrustBundle): SecureContext {
    const { identity, serial } = certificate;
    const known = this.#entries.get(identity);
    if (known?.serial === serial && known.generation === bundle.generation) return known.context;
    if (known === undefined && this.#entries.size >= SECURE_CONTEXTS_MAX) {
      const message = `Cannot keep more than ${SECURE_CONTEXTS_MAX} TLS contexts`;
      throw new MeshError('MESH_LIMIT_EXCEEDED', message);
    }
    const context = createMeshSecureContext(certificate, bundle);
    this.#entries.set(identity, { serial, generation: bundle.generation, context });
    return context;
  }

  /** Forgets the identity's key. Connections that use the context keep it until they end. */
  forget(identity: SpiffeId): void {
    this.#entries.delete(identity);
  }
}
