/** Composition root of `nodemesh controller`, on a folder of manifests or in a Kubernetes cluster. */

import { mkdirSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';

import { createReadinessServer } from '../admin/readiness-server.ts';
import { createReadBuffers } from '../base/buffer-pool.ts';
import { createSystemClock, type Timer } from '../base/clock.ts';
import { unwrap } from '../base/result.ts';
import { createSystemRandom } from '../base/system-random.ts';
import { createControlPlane, type MeshClient } from '../controlplane/service.ts';
import { CA_PATH } from '../discovery/ca-client.ts';
import { createCaMethod } from '../discovery/ca-service.ts';
import { createGrpcServer } from '../discovery/grpc-server.ts';
import { createDiscoveryServer } from '../discovery/server.ts';
import { DISCOVERY_PATH } from '../discovery/wire-messages.ts';
import { createWindowBudget } from '../http/h2/window-budget.ts';
import { readControllerConfig } from './config/settings.ts';
import type { ControllerEnvironment, EnvironmentParts } from './controller-environment.ts';
import { serveController, type ControllerServer } from './controller-server.ts';
import { createProcessTelemetry, serveProcessAdmin } from './process-telemetry.ts';

/** The intermediate is replaced at half of its life; looking hourly is more than enough. */
const MAINTAIN_CA_MS = 3_600_000;
/** Roots that could not be published are tried again after so long. */
const PUBLISH_RETRY_MS = 5_000;

/** Only what is used is loaded. */
async function openEnvironment(parts: EnvironmentParts): Promise<ControllerEnvironment> {
  if (parts.config.source === 'files') {
    const { openFilesEnvironment } = await import('./controller-on-files.ts');
    return openFilesEnvironment(parts);
  }
  const { openKubernetesEnvironment } = await import('./controller-on-kubernetes.ts');
  return openKubernetesEnvironment(parts);
}

export async function runController(): Promise<void> {
  const config = unwrap(readControllerConfig((name) => process.env[name]));
  const clock = createSystemClock();
  const random = createSystemRandom();
  const telemetry = createProcessTelemetry(clock, 'controller', config.logLevel, {});
  const { logger, registry } = telemetry;
  logger.info('controller starts', { config });
  mkdirSync(config.stateDir, { recursive: true, mode: 0o700 });

  let blockers: readonly string[] = ['the API server or the manifests have not been read yet'];
  let describe = (): object => ({});
  // First of all: a controller that waits for its API server lives, and must not be restarted for it (F04).
  createReadinessServer({
    clock,
    logger,
    port: config.readinessPort,
    status: () => ({ blockers, ...describe() }),
  });
  telemetry.serveMetrics(config.metricsPort);
  const environment = await openEnvironment({ config, clock, random, logger, registry });
  const { ca } = environment;
  let server: ControllerServer | undefined;
  let publishing: Timer | undefined;
  const publishRoots = (): void => {
    publishing?.cancel();
    publishing = undefined;
    environment.publishRoots().catch((error: unknown) => {
      logger.error('Cannot publish the roots; trying again', { error });
      publishing = clock.after(PUBLISH_RETRY_MS, publishRoots);
    });
  };
  const controlPlane = await createControlPlane({
    clock,
    logger,
    registry,
    ca,
    authenticator: environment.authenticator,
    captureStore: environment.captureStore,
    ...(environment.sharing === undefined ? {} : { sharing: environment.sharing }),
    istioLabels: config.istioLabels === 'true',
    behind: (published) => discovery.behind(published),
    leads: () => environment.leads(),
    onIssuerChanged: () => server?.renewCertificate(),
    onRootsChanged: publishRoots,
    onPublished: () => environment.published(controlPlane),
  });
  if ('maintain' in ca) {
    clock.every(MAINTAIN_CA_MS, () => {
      if (!environment.leads()) return;
      ca.maintain().catch((error: unknown) =>
        logger.error('cannot renew the intermediate', { error }),
      );
    });
  }
  const { hooks } = controlPlane;
  const discovery = createDiscoveryServer<MeshClient, Socket>({
    clock,
    logger,
    registry,
    ...hooks,
  });
  const authority = createCaMethod<MeshClient, Socket>({ logger, registry, ...hooks });
  const grpc = createGrpcServer<Socket>({
    clock,
    logger,
    methods: new Map([
      [DISCOVERY_PATH, discovery.method],
      [CA_PATH, authority],
    ]),
  });
  const source = environment.createSource((changes) => controlPlane.apply(changes));
  describe = () => {
    const { nodes, workloads, resources, batches, rootRotation } = controlPlane.status();
    return { leads: environment.leads(), nodes, workloads, resources, batches, rootRotation };
  };
  await serveProcessAdmin(join(config.stateDir, 'admin.sock'), telemetry, [
    ['status', () => controlPlane.status()],
    ['source', () => source.report()],
  ]);
  // Node proxies need the roots to begin with, whatever else is still being read.
  if (config.source === 'kubernetes') publishRoots();
  environment.run(() => controlPlane.authorityChanged());
  await source.start();
  await controlPlane.sourceSynced();
  server = await serveController({
    parts: { clock, readBuffers: createReadBuffers(), windowBudget: createWindowBudget() },
    logger,
    ca,
    names: config.names.split(',').map((name) => name.trim()),
    port: config.port,
    grpc,
  });
  if (config.source === 'files') await environment.publishRoots();
  blockers = [];
  logger.info('controller is ready', { port: config.port });

  const leave = (): void => {
    logger.info('controller ends');
    void environment.leave().finally(() => {
      telemetry.close();
      process.exit(0);
    });
  };
  process.once('SIGTERM', leave);
  process.once('SIGINT', leave);
  // What else runs is bound to sockets and timers that keep no process alive.
  await new Promise<never>(() => {});
}
