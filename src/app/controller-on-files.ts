/** A controller on a folder of manifests: tokens and the CA are files too, and there is only one. */

import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { unwrap } from '../base/result.ts';
import { createFileCaptureStore } from '../controlplane/capture-store.ts';
import { openTokenFile } from '../controlplane/tokens.ts';
import { createFilesSource } from '../files/source.ts';
import { createPluggedCa, type CertificateAuthority } from '../identity/ca.ts';
import { createFileCaStorage } from '../identity/ca-storage.ts';
import { openSelfSignedCa, type SelfSignedCa } from '../identity/self-signed-ca.ts';
import { bundlePem } from '../identity/trust-bundle.ts';
import type { ControllerEnvironment, EnvironmentParts } from './controller-environment.ts';

export async function openFilesEnvironment(
  parts: EnvironmentParts,
): Promise<ControllerEnvironment> {
  const { config, clock, logger, registry } = parts;
  const ca = await openCa(parts);
  const authenticator = await openTokenFile({
    path: config.tokensFile,
    clock,
    logger,
    ownUid: process.getuid?.() ?? 0,
  });
  return {
    ca,
    authenticator,
    captureStore: createFileCaptureStore(join(config.stateDir, 'captured')),
    sharing: undefined,
    publishRoots: () => writeRoots(config.rootOut, ca),
    createSource: (onChanges) =>
      createFilesSource({ path: config.manifests, clock, logger, registry, onChanges }),
    leads: () => true,
    run() {},
    published() {},
    leave: () => Promise.resolve(),
  };
}

async function openCa({
  config,
  clock,
  random,
}: EnvironmentParts): Promise<CertificateAuthority | SelfSignedCa> {
  const { trustDomain } = config;
  if (config.caDir === '') {
    const storage = createFileCaStorage(join(config.stateDir, 'ca'));
    return openSelfSignedCa({ clock, random, trustDomain, storage, mustExist: false });
  }
  const read = (name: string): Promise<string> => readFile(join(config.caDir, name), 'utf8');
  const [caCert, caKey, certChain, rootCert] = await Promise.all([
    read('ca-cert.pem'),
    read('ca-key.pem'),
    read('cert-chain.pem'),
    read('root-cert.pem'),
  ]);
  const files = { caCert, caKey, certChain, rootCert };
  return unwrap(createPluggedCa(trustDomain, files, 1, { clock, random }));
}

/** Replaced in one step. */
async function writeRoots(path: string, ca: CertificateAuthority): Promise<void> {
  if (path === '') return;
  await writeFile(`${path}.new`, bundlePem(ca.bundle).join(''), { mode: 0o644 });
  await rename(`${path}.new`, path);
}
