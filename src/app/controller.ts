/** Composition root of `nodemesh controller` on a folder of manifests. */

import { mkdirSync } from 'node:fs';
import { readFile, rename, writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';

import { createReadinessServer } from '../admin/readiness-server.ts';
import { createReadBuffers } from '../base/buffer-pool.ts';
import { createSystemClock, type Clock } from '../base/clock.ts';
import { unwrap } from '../base/result.ts';
import type { Random } from '../base/random.ts';
import { createSystemRandom } from '../base/system-random.ts';
import { createFileCaptureStore } from '../controlplane/capture-store.ts';
import { createControlPlane, type NodeClient } from '../controlplane/service.ts';
import { openTokenFile } from '../controlplane/tokens.ts';
import { CA_PATH } from '../discovery/ca-client.ts';
import { createCaMethod } from '../discovery/ca-service.ts';
import { createGrpcServer } from '../discovery/grpc-server.ts';
import { createDiscoveryServer } from '../discovery/server.ts';
import { DISCOVERY_PATH } from '../discovery/wire-messages.ts';
import { createFilesSource } from '../files/source.ts';
import { createWindowBudget } from '../http/h2/window-budget.ts';
import { createPluggedCa, type CertificateAuthority } from '../identity/ca.ts';
import { createFileCaStorage } from '../identity/ca-storage.ts';
import { openSelfSignedCa, type SelfSignedCa } from '../identity/self-signed-ca.ts';
import { bundlePem } from '../identity/trust-bundle.ts';
import { readControllerConfig, type ControllerConfig } from './config/settings.ts';
import { serveController, type ControllerServer } from './controller-server.ts';
import { createProcessTelemetry, serveProcessAdmin } from './process-telemetry.ts';

/** The intermediate is replaced at half of its life; looking hourly is more than enough. */
const MAINTAIN_CA_MS = 3_600_000;

async function openCa(
  config: ControllerConfig,
  clock: Clock,
  random: Random,
): Promise<CertificateAuthority | SelfSignedCa> {
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

/** For those who install node proxies: the roots, replaced in one step. */
async function writeRoots(path: string, ca: CertificateAuthority): Promise<void> {
  if (path === '') return;
  await writeFile(`${path}.new`, bundlePem(ca.bundle).join(''), { mode: 0o644 });
  await rename(`${path}.new`, path);
}

export async function runController(): Promise<void> {
  const config = unwrap(readControllerConfig((name) => process.env[name]));
  const clock = createSystemClock();
  const random = createSystemRandom();
  const telemetry = createProcessTelemetry(clock, 'controller', config.logLevel, {});
  const { logger, registry } = telemetry;
  logger.info('controller starts', { config });
  mkdirSync(config.stateDir, { recursive: true, mode: 0o700 });

  const ca = await openCa(config, clock, random);
  let server: ControllerServer | undefined;
  let synced = false;
  const authenticator = await openTokenFile({
    path: config.tokensFile,
    clock,
    logger,
    ownUid: process.getuid?.() ?? 0,
  });
  const controlPlane = await createControlPlane({
    clock,
    logger,
    registry,
    ca,
    authenticator,
    captureStore: createFileCaptureStore(join(config.stateDir, 'captured')),
    istioLabels: config.istioLabels === 'true',
    behind: (published) => discovery.behind(published),
    onIssuerChanged: () => server?.renewCertificate(),
    onRootsChanged() {
      writeRoots(config.rootOut, ca).catch((error: unknown) => {
        logger.error('cannot write the roots', { path: config.rootOut, error });
      });
    },
  });
  if ('maintain' in ca) {
    clock.every(MAINTAIN_CA_MS, () => {
      ca.maintain().catch((error: unknown) =>
        logger.error('cannot renew the intermediate', { error }),
      );
    });
  }
  const { hooks } = controlPlane;
  const discovery = createDiscoveryServer<NodeClient, Socket>({
    clock,
    logger,
    registry,
    ...hooks,
  });
  const authority = createCaMethod<NodeClient, Socket>({ logger, registry, ...hooks });
  const grpc = createGrpcServer<Socket>({
    clock,
    logger,
    methods: new Map([
      [DISCOVERY_PATH, discovery.method],
      [CA_PATH, authority],
    ]),
  });
  const source = createFilesSource({
    path: config.manifests,
    clock,
    logger,
    registry,
    onChanges: (changes) => controlPlane.apply(changes),
  });
  await source.start();
  await controlPlane.sourceSynced();
  synced = true;
  server = await serveController({
    parts: { clock, readBuffers: createReadBuffers(), windowBudget: createWindowBudget() },
    logger,
    ca,
    names: config.names.split(',').map((name) => name.trim()),
    port: config.port,
    grpc,
  });
  await writeRoots(config.rootOut, ca);
  createReadinessServer({
    clock,
    logger,
    port: config.readinessPort,
    status: () => ({
      blockers: synced ? [] : ['manifests have not been read yet'],
      ...controlPlane.status(),
    }),
  });
  telemetry.serveMetrics(config.metricsPort);
  await serveProcessAdmin(join(config.stateDir, 'admin.sock'), telemetry, [
    ['status', () => controlPlane.status()],
    ['manifests', () => source.report()],
  ]);
  logger.info('controller is ready', { port: config.port });

  const leave = (): void => {
    logger.info('controller ends');
    telemetry.close();
    process.exit(0);
  };
  process.on('SIGTERM', leave);
  process.on('SIGINT', leave);
  // What else runs is bound to sockets and timers that keep no process alive.
  await new Promise<never>(() => {});
}
