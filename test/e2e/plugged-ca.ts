/** A CA whose key the test holds, plugged into the controller from files: so that it can issue what no CA should. */

import { X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import { buildRoot } from '../../src/identity/certificate.ts';
import { createKeyPair, privateKeyPem } from '../../src/identity/keys.ts';
import { formatPem } from '../../src/identity/pem.ts';
import { DAY_MS } from '../identity/fixtures.ts';
import { buildCertificate, type CertificateShape } from '../identity/shapes.ts';
import type { ForeignCertificate } from './foreign-mesh.ts';

export interface PluggedCa {
  /** For `controllerSettings`. */
  readonly settings: Readonly<Record<string, string>>;
  readonly rootPem: string;
  /** A leaf of any shape under the mesh's own root; of `web` unless the shape says otherwise. */
  issue(shape?: CertificateShape): ForeignCertificate;
  /** The same under a root nobody knows, or signed by itself. */
  issueForeign(shape?: CertificateShape): ForeignCertificate;
}

export function createPluggedCaFolder(t: Test): PluggedCa {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-ca-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const nowMs = createSystemClock().wallMs();
  const keys = createKeyPair();
  const validity = { notBeforeMs: nowMs - DAY_MS, notAfterMs: nowMs + 30 * DAY_MS };
  const certificate = buildRoot(keys, 'cluster.local', 'e2e', validity, createSystemRandom());
  const rootPem = formatPem('CERTIFICATE', certificate);
  for (const name of ['ca-cert.pem', 'cert-chain.pem', 'root-cert.pem']) {
    writeFileSync(join(dir, name), rootPem, { mode: 0o600 });
  }
  writeFileSync(join(dir, 'ca-key.pem'), privateKeyPem(keys.privateKey), { mode: 0o600 });
  const make = (shape: CertificateShape): ForeignCertificate => {
    const leaf = createKeyPair();
    const built = buildCertificate(leaf.publicKey, shape);
    const cert = new X509Certificate(built.leaf).toString();
    return { key: privateKeyPem(leaf.privateKey), cert, ca: [rootPem] };
  };
  return {
    settings: { NODEMESH_CA_DIR: dir },
    rootPem,
    issue: (shape = {}) => make({ ...shape, issuer: { keys, certificate } }),
    issueForeign: (shape = {}) => make(shape),
  };
}
