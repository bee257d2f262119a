/** Composition root of the agent: started by the supervisor, never by hand. */

import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';

import { createReadBuffers } from '../base/buffer-pool.ts';
import { createSystemClock, type Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import { unwrap } from '../base/result.ts';
import { createSystemRandom } from '../base/system-random.ts';
import type { SpiffeId } from '../core/identity.ts';
import { createCaClient } from '../discovery/ca-client.ts';
import { createDiscoveryClient } from '../discovery/client.ts';
import { createGrpcServer } from '../discovery/grpc-server.ts';
import { DISCOVERY_PATH } from '../discovery/wire-messages.ts';
import type { H2Session } from '../http/h2/contract.ts';
import { createH2Session } from '../http/h2/session.ts';
import { createWindowBudget } from '../http/h2/window-budget.ts';
import { CertificateStore } from '../identity/certificate-store.ts';
import { openKeyStore, type KeyStore } from '../identity/key-store.ts';
import { bundlePem } from '../identity/trust-bundle.ts';
import type { WorkloadCertificate } from '../identity/workload-certificate.ts';
import { openNamespace } from '../linux/namespaces.ts';
import { loadNative } from '../linux/native.ts';
import { checkPlatform } from '../linux/platform.ts';
import { isMemoryBacked, raiseDescriptorLimit } from '../linux/process-limits.ts';
import { createAgent, type Agent } from '../node/agent.ts';
import type { ToChild, ToSupervisor } from '../node/messages.ts';
import { createProbeTargets } from '../node/probe-targets.ts';
import type { RedirectContext } from '../redirect/context.ts';
import { createProbeRules } from '../redirect/probes.ts';
import { openPodNamespaces } from '../redirect/namespaces.ts';
import { createReconciler } from '../redirect/reconcile.ts';
import { openMarkers, serveCni } from './agent-cni.ts';
import { createAgentTelemetry } from './agent-telemetry.ts';
import { readNodeConfig } from './config/settings.ts';
import { serveProcessAdmin } from './process-telemetry.ts';
import { dialController, sharedSession, type SessionParts } from './dial.ts';

const SAVE_KEYS_MS = 1000;

/** Keeps what a restarted agent needs to serve without the controller; on memory only. */
function keepKeys(
  clock: Clock,
  logger: Logger,
  store: KeyStore,
  certificates: CertificateStore,
): void {
  let pending = false;
  const save = (): void => {
    if (pending) return;
    pending = true;
    clock.after(SAVE_KEYS_MS, () => {
      pending = false;
      const rootsPem = new Map(
        [...certificates.bundle.domains].map(([domain, roots]) => [
          domain,
          roots.map(({ pem }) => pem),
        ]),
      );
      store
        .save({ certificates: certificates.certificates(), rootsPem })
        .catch((error: unknown) => logger.warn('cannot keep keys over a restart', { error }));
    });
  };
  certificates.onChange(save);
  certificates.onBundle(save);
}

/** The workers' discovery server, on a socket only root can open. */
function serveWorkers(parts: SessionParts, logger: Logger, agent: Agent, path: string): void {
  const grpc = createGrpcServer<undefined>({
    clock: parts.clock,
    logger,
    methods: new Map([[DISCOVERY_PATH, agent.server.method]]),
  });
  rmSync(path, { force: true });
  const server = createServer((socket) => {
    createH2Session(socket, {
      role: 'server',
      ...parts,
      onStream: (stream, headers, endStream) => grpc.accept(stream, headers, endStream, undefined),
    });
  });
  server.on('error', (error) => {
    logger.error('the workers socket failed', { path, error: error.message });
    process.exit(1);
  });
  server.listen(path, () => chmodSync(path, 0o600));
}

/** Without the key. */
function describeCertificate({ identity, serial, notAfterMs }: WorkloadCertificate): unknown {
  return { identity, serial, notAfter: new Date(notAfterMs).toISOString() };
}

export async function runAgent(): Promise<void> {
  const config = unwrap(readNodeConfig((name) => process.env[name]));
  const socketPath = process.env['NODEMESH_AGENT_SOCKET'];
  if (socketPath === undefined) {
    throw new MeshError('MESH_CONFIG_INVALID', 'Cannot start: NODEMESH_AGENT_SOCKET is not set');
  }
  const clock = createSystemClock();
  const random = createSystemRandom();
  const native = loadNative();
  const telemetry = await createAgentTelemetry(clock, config);
  const { logger, registry } = telemetry;
  raiseDescriptorLimit(native);
  // Beside everything else: it takes as long as two programs take to start.
  checkPlatform(native, clock).catch((error: unknown) => {
    logger.error('cannot run here', { error });
    process.exit(1);
  });
  const tell = (message: ToSupervisor): void => void process.send?.(message);
  const stop = new AbortController();
  process.on('disconnect', () => process.exit(0));
  process.on('SIGINT', () => {});
  // A terminal or a container signals the whole group; the supervisor decides for its children.
  process.on('SIGTERM', () => {});

  mkdirSync(config.stateDir, { recursive: true, mode: 0o700 });
  const parts: SessionParts = {
    clock,
    readBuffers: createReadBuffers(),
    windowBudget: createWindowBudget(),
  };
  const controller = {
    ...config.controller,
    name: config.controllerName,
    rootFile: config.rootFile,
  };
  const dial = (signal: AbortSignal): Promise<H2Session> =>
    dialController(parts, controller, () => bundlePem(certificates.bundle), signal);
  const token = async (): Promise<string> => (await readFile(config.tokenFile, 'utf8')).trim();
  const authority = `${config.controllerName}:${config.controller.port}`;
  const certificates = new CertificateStore({
    clock,
    random,
    logger,
    registry,
    signer: createCaClient({ clock, session: sharedSession(dial), token, authority }),
  });

  const restored = new Map<SpiffeId, WorkloadCertificate>();
  if (config.keyDir !== '') {
    const store = await openKeyStore(config.keyDir, isMemoryBacked);
    const stored = await store.load();
    for (const certificate of stored?.certificates ?? []) {
      restored.set(certificate.identity, certificate);
    }
    for (const [domain, roots] of stored?.rootsPem ?? []) certificates.setRoots(domain, roots);
    keepKeys(clock, logger, store, certificates);
  }

  const redirect: RedirectContext = {
    native,
    clock,
    logger,
    nodeNamespace: openNamespace(native, config.nodeNamespace),
  };
  const markers = openMarkers(config, clock, logger);
  const namespaces = await openPodNamespaces(redirect, {
    stateDir: config.runDir,
    hostRoot: config.hostRoot,
  });
  const reconciler = createReconciler(redirect, ({ pod, found, error }) => {
    logger.error('redirection of a pod was not as it should be', {
      pod: pod.captured.pod.podUid,
      found,
      ...(error === undefined ? { repaired: true } : { error }),
    });
  });
  const agent = createAgent({
    clock,
    random,
    logger,
    registry,
    redirect,
    reconciler,
    probes: createProbeTargets(clock, random, logger, createProbeRules(redirect)),
    certificates,
    namespaces,
    markers,
    restored: (identity) => restored.get(identity),
    snapshotPath: join(config.stateDir, 'config.snapshot'),
    createClient: (subscriptions) =>
      createDiscoveryClient({
        clock,
        random,
        logger,
        registry,
        connect: dial,
        token,
        node: {
          id: `nodemesh~${config.nodeName}`,
          cluster: '',
          metadata: new Map([['NODE_NAME', config.nodeName]]),
        },
        authority,
        subscriptions,
      }),
    tell,
    onTraffic: (worker, delta) => telemetry.onTraffic(worker, delta),
    onWorkerGone: (worker) => telemetry.onWorkerGone(worker),
  });

  serveWorkers(parts, logger, agent, socketPath);
  process.on('message', (message: ToChild) => {
    agent.receive(message);
    if (message.kind !== 'retire') return;
    // The successor answers the CNI and the metrics port from now on.
    retireCni();
    telemetry.close();
  });
  const retireCni = serveCni(config, clock, logger, (request) => agent.handleCni(request));
  telemetry.serveMetrics(config.metricsPort);
  await serveProcessAdmin(join(config.runDir, `agent-admin-${process.pid}.sock`), telemetry, [
    ['captured', () => agent.capture.captured],
    ['reports', () => agent.capture.reports],
    ['certificates', () => certificates.certificates().map(describeCertificate)],
  ]);
  await agent.run(stop.signal);
}
