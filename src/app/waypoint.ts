/** Composition root of `nodemesh waypoint`: one process, one identity, its own token. */

import { mkdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';

import { createReadinessServer } from '../admin/readiness-server.ts';
import { createReadBuffers } from '../base/buffer-pool.ts';
import { createSystemClock, type Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Random } from '../base/random.ts';
import { unwrap } from '../base/result.ts';
import { createSystemRandom } from '../base/system-random.ts';
import { formatIdentity, type SpiffeId } from '../core/identity.ts';
import { PORTS } from '../core/pod.ts';
import type { Workload } from '../core/workload.ts';
import { createCaClient } from '../discovery/ca-client.ts';
import { createDiscoveryClient } from '../discovery/client.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { H2Session } from '../http/h2/contract.ts';
import { createH2Session, createNestedH2Session } from '../http/h2/session.ts';
import { createWindowBudget } from '../http/h2/window-budget.ts';
import { CertificateStore } from '../identity/certificate-store.ts';
import { SecureContextCache } from '../identity/secure-context-cache.ts';
import { bundlePem } from '../identity/trust-bundle.ts';
import type { Client, NodeState } from '../state/contract.ts';
import { createNodeState } from '../state/node-state.ts';
import type { TunnelCredentials } from '../tunnel/handshake.ts';
import { createRequestLog } from '../telemetry/request-log.ts';
import { createRequestMetrics } from '../telemetry/request-metrics.ts';
import { createRequestReporter, type RequestReporterParts } from '../telemetry/request-reporter.ts';
import { waypointSubscriptions } from '../waypoint/feed.ts';
import { createResilienceMetrics } from '../waypoint/resilience-metrics.ts';
import type { RateStore } from '../waypoint/rate-limiter.ts';
import { createServicePlans } from '../waypoint/service-plan.ts';
import { Traffic } from '../waypoint/traffic.ts';
import type { Guard } from '../waypoint/guard.ts';
import { createJwksFetch } from '../waypoint/jwks-fetch.ts';
import { createJwksStore } from '../waypoint/jwks.ts';
import { createRequestAuthenticator } from '../waypoint/request-authenticator.ts';
import { createHttpPolicyBook } from '../policy/http-policy-book.ts';
import { createOtlpPost } from '../telemetry/otlp-post.ts';
import { createSpanExporter } from '../telemetry/span-exporter.ts';
import { createTracing } from '../telemetry/tracing.ts';
import {
  CLIENT_SESSION_LIMITS,
  createWaypoint,
  type SessionFactory,
  type Waypoint,
} from '../waypoint/waypoint.ts';
import { readWaypointConfig, type WaypointConfig } from './config/settings.ts';
import { dialController, sharedSession, type SessionParts } from './dial.ts';
import { tuneEngine } from './engine-flags.ts';
import { createProcessTelemetry, serveProcessAdmin } from './process-telemetry.ts';

const DRAIN_LOOK_MS = 50;

/** Sessions in the process's buffers and windows; a waypoint's peers are proxies, its clients speak inside. */
function sessionFactory(parts: SessionParts): SessionFactory {
  return {
    overSocket: (socket, role, onStream) =>
      createH2Session(socket, { role, ...parts, ...(onStream === undefined ? {} : { onStream }) }),
    overStream: (stream, role, onStream) =>
      createNestedH2Session(stream, {
        role,
        ...parts,
        ...(role === 'server' ? { limits: CLIENT_SESSION_LIMITS } : {}),
        ...(onStream === undefined ? {} : { onStream }),
      }),
  };
}

/** Our own workload once the mesh knows it; until then a client of no particular place. */
function ownPlace(state: NodeState, config: WaypointConfig): () => Client {
  const nowhere: Client = {
    uid: '',
    namespace: config.podNamespace,
    network: '',
    clusterId: '',
    node: '',
    locality: { region: '', zone: '', subzone: '' },
  };
  let seen = -1;
  let own: Workload | undefined;
  return () => {
    if (state.workloads.version !== seen && own !== state.workloads.get(own?.uid ?? ''))
      own = undefined;
    if (own === undefined && state.workloads.version !== seen) {
      for (const workload of state.workloads.all()) {
        if (workload.namespace === config.podNamespace && workload.name === config.podName) {
          own = workload;
        }
      }
    }
    seen = state.workloads.version;
    return own ?? nowhere;
  };
}

/** The waypoint's certificate as TLS needs it; made anew when it or the roots change. */
function ownCredentials(
  store: CertificateStore,
  identity: SpiffeId,
): () => TunnelCredentials | undefined {
  const contexts = new SecureContextCache();
  let made: TunnelCredentials | undefined;
  const forget = (): void => {
    made = undefined;
  };
  store.onChange(forget);
  store.onBundle(forget);
  return () => {
    if (made !== undefined) return made;
    const certificate = store.get(identity);
    const { bundle } = store;
    if (certificate === undefined || bundle.domains.size === 0) return undefined;
    made = {
      identity,
      context: contexts.contextFor(certificate, bundle),
      bundle,
      generation: `${certificate.serial}/${bundle.generation}`,
    };
    return made;
  };
}

/** The shared store of rate limits; its client is loaded only where there is one. */
async function connectRateStore(file: string, logger: Logger): Promise<RateStore | undefined> {
  let url = '';
  try {
    url = (await readFile(file, 'utf8')).trim();
  } catch (error) {
    logger.info('no shared store for rate limits', { file, reason: String(error) });
    return undefined;
  }
  const { createRedisRateStore } = await import('../waypoint/redis-rate-store.ts');
  let was: boolean | undefined;
  const store = createRedisRateStore({
    url,
    clock: createSystemClock(),
    random: createSystemRandom(),
    onState(connected, reason) {
      if (connected === was) return;
      was = connected;
      if (connected) logger.info('the shared store for rate limits answers');
      else logger.warn('the shared store for rate limits does not answer', { reason });
    },
  });
  store.start();
  return store;
}

function leaveOnSignal(
  waypoint: Waypoint,
  config: WaypointConfig,
  logger: Logger,
  stop: () => void,
  telemetryFlush: () => void,
): void {
  const clock = createSystemClock();
  let leaving = false;
  const leave = (signal: string): void => {
    if (leaving) return;
    leaving = true;
    logger.info('waypoint drains', { signal, open: waypoint.openCount });
    stop();
    const startMs = clock.nowMs();
    let draining = false;
    clock.every(DRAIN_LOOK_MS, () => {
      const pastMs = clock.nowMs() - startMs;
      if (!draining && pastMs >= config.graceS * 1000) {
        draining = true;
        waypoint.drain();
      }
      const idle = draining && waypoint.openCount === 0 && waypoint.sessionCount === 0;
      if (!idle && pastMs < (config.graceS + config.drainS) * 1000) return;
      telemetryFlush();
      process.exit(0);
    });
  };
  process.on('SIGTERM', () => leave('SIGTERM'));
  process.on('SIGINT', () => leave('SIGINT'));
}

function createGuard(
  clock: Clock,
  random: Random,
  logger: Logger,
  { jwksPlainHttp }: WaypointConfig,
): Guard {
  const fetch = createJwksFetch(clock, { plainHttp: jwksPlainHttp === 'true', loopback: false });
  const jwks = createJwksStore({ clock, random, logger, fetch });
  return {
    authenticator: createRequestAuthenticator(clock, jwks),
    policies: createHttpPolicyBook(),
  };
}

/** Nothing without a collector: then trace headers pass as they are. */
function createTracingParts(
  clock: Clock,
  random: Random,
  registry: Registry,
  config: WaypointConfig,
): Pick<RequestReporterParts, 'tracing' | 'spans'> {
  if (config.otlpEndpoint === '') return {};
  const url = new URL(config.otlpEndpoint);
  if (url.pathname === '/') url.pathname = '/v1/traces';
  const resource = {
    'service.name': `${config.serviceAccount}.${config.podNamespace}`,
    'k8s.namespace.name': config.podNamespace,
    'k8s.pod.name': config.podName,
  };
  const post = createOtlpPost(clock, url);
  return {
    tracing: createTracing(clock, random, config.traceRatio),
    spans: createSpanExporter({ clock, registry, resource, version: '0.1.0', post }),
  };
}

export async function runWaypoint(): Promise<void> {
  tuneEngine();
  const config = unwrap(readWaypointConfig((name) => process.env[name]));
  const clock = createSystemClock();
  const random = createSystemRandom();
  const { podNamespace: namespace, serviceAccount } = config;
  const telemetry = createProcessTelemetry(clock, 'waypoint', config.logLevel, {
    waypoint: `${namespace}/${serviceAccount}`,
    pod: config.podName,
  });
  const { logger, registry } = telemetry;
  logger.info('waypoint starts', { config });
  mkdirSync(config.runDir, { recursive: true, mode: 0o700 });
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
  const identity = formatIdentity({ trustDomain: config.trustDomain, namespace, serviceAccount });
  certificates.retain(identity);
  const credentials = ownCredentials(certificates, identity);

  const state = createNodeState({ clock, random });
  const plans = createServicePlans(state, { namespace, name: serviceAccount });
  const resilience = createResilienceMetrics(registry);
  const place = ownPlace(state, config);
  const traffic = new Traffic({
    clock,
    random,
    source: state.services,
    client: place,
    metrics: resilience,
    rateStore: await connectRateStore(config.rateStoreFile, logger),
  });
  const guard = createGuard(clock, random, logger, config);
  const client = createDiscoveryClient({
    clock,
    random,
    logger,
    registry,
    connect: dial,
    token,
    node: {
      id: `waypoint~${namespace}/${config.podName}`,
      cluster: '',
      metadata: new Map([
        ['NAMESPACE', namespace],
        ['SERVICE_ACCOUNT', serviceAccount],
      ]),
    },
    authority,
    subscriptions: waypointSubscriptions({
      clock,
      state,
      plans,
      traffic,
      guard,
      setRoots(trustDomain, rootPems) {
        const set = certificates.setRoots(trustDomain, rootPems);
        if (!set.ok) logger.warn('roots refused', { trustDomain, error: set.error.message });
      },
    }),
  });
  const waypoint = createWaypoint({
    clock,
    random,
    logger,
    buffers: parts.readBuffers,
    sessions: sessionFactory(parts),
    state,
    plans,
    traffic,
    resilience,
    guard,
    reporter: createRequestReporter({
      metrics: createRequestMetrics(telemetry.store, telemetry.histograms),
      log: createRequestLog(logger),
      ...createTracingParts(clock, random, registry, config),
    }),
    registry,
    credentials,
    client: place,
    trustedHops: new Set(config.trustedHops.split(',').filter((hop) => hop !== '')),
  });
  const server = createServer((socket) => waypoint.accept(socket));
  server.on('error', (error) => {
    logger.error('cannot accept tunnels', { error: error.message });
    process.exit(1);
  });
  let listening = false;
  let leaving = false;
  server.listen(PORTS.hbone, '::', () => {
    listening = true;
  });
  const readiness = createReadinessServer({
    clock,
    logger,
    port: config.readinessPort,
    status: () => ({
      blockers: [
        ...(leaving ? ['leaving'] : []),
        ...(listening ? [] : ['not listening']),
        ...(credentials() === undefined ? ['no certificate'] : []),
        ...(state.policiesSynced ? [] : ['no policies']),
        ...(state.addressesSynced ? [] : ['no addresses']),
        ...(routesSynced ? [] : ['no routes']),
        ...(guardSynced ? [] : ['no request policies']),
      ],
    }),
  });
  let routesSynced = false;
  let guardSynced = false;
  // It goes on accepting: whoever has not heard yet that it leaves must not meet a closed port.
  const sayNotReady = (): void => {
    leaving = true;
  };
  leaveOnSignal(waypoint, config, logger, sayNotReady, () => telemetry.close());
  telemetry.serveMetrics(config.metricsPort);
  await serveProcessAdmin(join(config.runDir, `waypoint-${process.pid}.sock`), telemetry, [
    ['workloads', () => state.workloads.all()],
    ['services', () => state.services.all()],
    ['policies', () => state.policies.all()],
    ['routes', () => plans.all()],
    ['request-policies', () => guard.policies.policySet(undefined)],
    ['connections', () => ({ open: waypoint.openCount, sessions: waypoint.sessionCount })],
  ]);
  await readiness.listening;
  const abort = new AbortController();
  client.whenSynced([TYPE_URL.authorization], abort.signal).then(
    () => state.markPoliciesSynced(),
    () => {},
  );
  client.whenSynced([TYPE_URL.address], abort.signal).then(
    () => state.markAddressesSynced(),
    () => {},
  );
  client.whenSynced([TYPE_URL.httpPolicy, TYPE_URL.requestAuthentication], abort.signal).then(
    () => {
      guard.policies.apply([], [], true);
      guard.authenticator.apply([], [], true);
      guardSynced = true;
    },
    () => {},
  );
  client.whenSynced([TYPE_URL.waypointService, TYPE_URL.trafficPolicy], abort.signal).then(
    () => {
      routesSynced = true;
    },
    () => {},
  );
  await client.run(abort.signal);
}
