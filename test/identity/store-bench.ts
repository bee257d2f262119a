/** A certificate store on a fake clock over a real CA, with everything that it asks, says, logs and counts kept. */

import { createFakeClock, type FakeClock } from '../../src/base/clock.ts';
import { createNullLogger, type LogFields, type Logger } from '../../src/base/logger.ts';
import type { Registry } from '../../src/base/metrics.ts';
import { createSeededRandom } from '../../src/base/random.ts';
import { unwrap } from '../../src/base/result.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { CertificateAuthority } from '../../src/identity/ca.ts';
import {
  type CertificateSigner,
  type SignedChain,
} from '../../src/identity/certificate-request.ts';
import { type CertificateChange, CertificateStore } from '../../src/identity/certificate-store.ts';
import { parseCsr } from '../../src/identity/csr.ts';
import { createTestCa, DAY_MS } from './fixtures.ts';

export interface Bench {
  readonly clock: FakeClock;
  readonly store: CertificateStore;
  readonly ca: CertificateAuthority;
  /** Identities in the order in which they were asked for. */
  readonly asked: SpiffeId[];
  readonly changes: CertificateChange[];
  readonly logged: { level: string; message: string; fields: LogFields | undefined }[];
  readonly counted: Map<string, number>;
  readonly gauges: Map<string, () => number>;
  /** Replaces the way requests are answered. */
  answer: (csr: string, identity: SpiffeId, signal: AbortSignal) => Promise<SignedChain>;
  /** The answer of a CA in order, with certificates of this life. */
  sign: (csr: string, identity: SpiffeId) => Promise<SignedChain>;
  ttlMs: number;
}

/** A store over a real CA; the clock stands until it is advanced. */
export async function createBench(
  wrap: (clock: FakeClock) => FakeClock = (same) => same,
): Promise<Bench> {
  const clock = wrap(createFakeClock());
  const ca = await createTestCa({ clock });
  const logged: Bench['logged'] = [];
  const counted: Bench['counted'] = new Map();
  const gauges: Bench['gauges'] = new Map();
  const log =
    (level: string) =>
    (message: string, fields?: LogFields): void =>
      void logged.push({ level, message, fields });
  const logger: Logger = { ...createNullLogger(), warn: log('warn'), error: log('error') };
  const registry: Registry = {
    counter: () => ({
      add: (value, labels) => {
        const key = labels?.join() ?? '';
        counted.set(key, (counted.get(key) ?? 0) + value);
      },
    }),
    gauge: () => ({ set: () => {} }),
    observedGauge: (options, read) => void gauges.set(options.name, read),
  };
  const signer: CertificateSigner = {
    sign: (csr, identity, signal) => {
      bench.asked.push(identity);
      return bench.answer(csr, identity, signal);
    },
  };
  const random = createSeededRandom(7);
  const bench: Bench = {
    clock,
    ca,
    store: new CertificateStore({ clock, random, logger, registry, signer }),
    asked: [],
    changes: [],
    logged,
    counted,
    gauges,
    ttlMs: DAY_MS,
    sign: (csr, identity) => {
      const issued = unwrap(ca.issue(unwrap(parseCsr(csr)), identity, bench.ttlMs));
      const roots = ca.bundle.domains.get('cluster.local') ?? [];
      return Promise.resolve({
        chainPem: issued.chainPem,
        rootsPem: roots.map(({ pem }) => pem),
      });
    },
    answer: (csr, identity) => bench.sign(csr, identity),
  };
  bench.store.onChange((change) => bench.changes.push(change));
  return bench;
}
