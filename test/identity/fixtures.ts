/** Authorities, certificates and bundles for tests: the real CA over a storage in memory. */

import type { Clock } from '../../src/base/clock.ts';
import { createSystemClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { CertificateAuthority, PluggedCaFiles } from '../../src/identity/ca.ts';
import type { CaStorage } from '../../src/identity/ca-storage.ts';
import { buildIntermediate, buildRoot, keyIdOf } from '../../src/identity/certificate.ts';
import { readCertificate } from '../../src/identity/certificate-reader.ts';
import { readDer } from '../../src/identity/der.ts';
import {
  createKeyPair,
  type KeyPair,
  privateKeyPem,
  publicKeyDer,
} from '../../src/identity/keys.ts';
import { formatPem } from '../../src/identity/pem.ts';
import { openSelfSignedCa, type SelfSignedCa } from '../../src/identity/self-signed-ca.ts';
import {
  createWorkloadCertificate,
  type WorkloadCertificate,
} from '../../src/identity/workload-certificate.ts';

export const HOUR_MS: number = 3600 * 1000;
export const DAY_MS: number = 24 * HOUR_MS;

export function spiffeId(
  serviceAccount: string,
  namespace: string = 'shop',
  trustDomain: string = 'cluster.local',
): SpiffeId {
  return `spiffe://${trustDomain}/ns/${namespace}/sa/${serviceAccount}` as SpiffeId;
}

export interface MemoryCaStorage extends CaStorage {
  files: Map<string, string>;
}

export function createMemoryCaStorage(): MemoryCaStorage {
  const storage: MemoryCaStorage = {
    files: new Map(),
    read: () => Promise.resolve(new Map(storage.files)),
    write: (files) => {
      storage.files = new Map(files);
      return Promise.resolve();
    },
  };
  return storage;
}

export interface TestCaOptions {
  readonly clock?: Clock;
  readonly trustDomain?: string;
  readonly storage?: CaStorage;
  readonly mustExist?: boolean;
}

export function createTestCa(options: TestCaOptions = {}): Promise<SelfSignedCa> {
  return openSelfSignedCa({
    trustDomain: options.trustDomain ?? 'cluster.local',
    storage: options.storage ?? createMemoryCaStorage(),
    mustExist: options.mustExist ?? false,
    clock: options.clock ?? createSystemClock(),
    random: createSystemRandom(),
  });
}

/** A key pair and a certificate for `identity`, as an agent would hold them. */
export function issueTestCertificate(
  ca: CertificateAuthority,
  identity: SpiffeId,
  ttlMs: number = DAY_MS,
): WorkloadCertificate {
  const keys = createKeyPair();
  const issued = unwrap(ca.issue(keys.publicKey, identity, ttlMs));
  return unwrap(
    createWorkloadCertificate(identity, privateKeyPem(keys.privateKey), issued.chainPem),
  );
}

/** The parts of a certificate's body that depend on neither serial number nor validity. */
export function invariantParts(der: Buffer): string[] {
  const { signedDer } = unwrap(readCertificate(der));
  const { children } = unwrap(readDer(signedDer));
  return children
    .filter((_, index) => index !== 1 && index !== 4)
    .map(({ raw }) => raw.toString('hex'));
}

export interface Plugged {
  readonly files: PluggedCaFiles;
  readonly keys: KeyPair;
  readonly rootKeys: KeyPair;
  readonly rootDer: Buffer;
}

/** An operator's authority: a root that issues, or an intermediate below one, of its own or that of `under`. */
export function plug(keys: KeyPair, kind: 'root' | 'intermediate', under?: Plugged): Plugged {
  const random = createSystemRandom();
  const nowMs = Date.UTC(2026, 0, 1);
  const life = { notBeforeMs: nowMs - DAY_MS, notAfterMs: nowMs + 3650 * DAY_MS };
  const rootKeys = under?.rootKeys ?? (kind === 'root' ? keys : createKeyPair());
  const rootDer = under?.rootDer ?? buildRoot(rootKeys, 'corp', 'corp root', life, random);
  const rootPem = formatPem('CERTIFICATE', rootDer);
  const issuer = {
    privateKey: rootKeys.privateKey,
    subjectDer: unwrap(readCertificate(rootDer)).subjectDer,
    keyId: keyIdOf(publicKeyDer(rootKeys.publicKey)),
  };
  const caPem =
    kind === 'root'
      ? rootPem
      : formatPem(
          'CERTIFICATE',
          buildIntermediate(issuer, keys.publicKey, 'corp', 'corp ca', life, random),
        );
  const files: PluggedCaFiles = {
    caCert: caPem,
    caKey: privateKeyPem(keys.privateKey),
    certChain: caPem + rootPem,
    rootCert: rootPem,
  };
  return { files, keys, rootKeys, rootDer };
}
