/** Composition root of a worker: started by the supervisor, never by hand. */

import { dirname, join } from 'node:path';

import { createReadBuffers } from '../base/buffer-pool.ts';
import { createSystemClock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { createNullRegistry } from '../base/metrics.ts';
import { createSystemRandom } from '../base/system-random.ts';
import { createDiscoveryClient } from '../discovery/client.ts';
import { listenerReportResource, trafficDeltaResource } from '../discovery/codec-local.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import { createH2Session } from '../http/h2/session.ts';
import { createWindowBudget } from '../http/h2/window-budget.ts';
import { duplicateFrom } from '../linux/descriptors.ts';
import { loadNative } from '../linux/native.ts';
import { openDescriptorCount, raiseDescriptorLimit } from '../linux/process-limits.ts';
import { WORKER_METADATA } from '../node/agent.ts';
import { createCredentials } from '../node/credentials.ts';
import type { ToChild, ToSupervisor } from '../node/messages.ts';
import { createRelaySweep } from '../node/relay.ts';
import { workerSubscriptions } from '../node/worker-feed.ts';
import { createWorker } from '../node/worker.ts';
import { createNodeState } from '../state/node-state.ts';
import { dialAgent } from './dial.ts';
import { tuneEngine } from './engine-flags.ts';
import { serveProcessAdmin } from './process-telemetry.ts';
import { createWorkerTelemetry } from './worker-telemetry.ts';

const DELTA_MS = 1000;

function environment(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === '') {
    throw new MeshError('MESH_CONFIG_INVALID', `Cannot start: ${name} is not set`);
  }
  return value;
}

export async function runWorker(): Promise<void> {
  tuneEngine();
  const agentSocket = environment('NODEMESH_AGENT_SOCKET');
  const slot = environment('NODEMESH_SLOT');
  const clock = createSystemClock();
  const random = createSystemRandom();
  const native = loadNative();
  const telemetry = createWorkerTelemetry(clock, process.env['NODEMESH_LOG_LEVEL'] ?? 'info', slot);
  const { logger } = telemetry;
  const descriptors = { limit: raiseDescriptorLimit(native), openCount: openDescriptorCount };
  const readBuffers = createReadBuffers();
  const parts = { clock, readBuffers, windowBudget: createWindowBudget() };
  const tell = (message: ToSupervisor): void => {
    if (message.kind === 'drained') {
      // The supervisor kills who has drained: what was counted and logged goes first.
      void deliver().then(() => {
        telemetry.writer.flushSync();
        process.send?.(message);
      });
    } else process.send?.(message);
  };
  const deliver = (): Promise<void> =>
    telemetry.deliver(
      (delta) => client.deliver(TYPE_URL.trafficDelta, [trafficDeltaResource(delta)]),
      client.streamCount,
    );

  const credentials = createCredentials();
  const state = createNodeState({
    clock,
    random,
    demand: {
      subscribe: (names) => void client.subscribe(TYPE_URL.address, names),
      unsubscribe: (names) => client.unsubscribe(TYPE_URL.address, names),
    },
  });
  const client = createDiscoveryClient({
    clock,
    random,
    logger,
    registry: createNullRegistry(),
    connect: (signal) => dialAgent(parts, agentSocket, signal),
    token: () => Promise.resolve(undefined),
    node: { id: `worker-${slot}-${process.pid}`, cluster: '', metadata: new Map() },
    authority: 'agent',
    scheme: 'http',
    metadata: new Map([[WORKER_METADATA, slot]]),
    subscriptions: workerSubscriptions({ clock, state, credentials }),
    reconnectSpreadMs: 20,
  });
  const worker = createWorker({
    clock,
    random,
    logger,
    native,
    state,
    credentials,
    reporter: telemetry.reporter,
    relayOptions: { buffers: readBuffers, sweep: createRelaySweep({ clock }) },
    makeSession: (socket, role, onStream) =>
      createH2Session(socket, { role, ...parts, ...(onStream === undefined ? {} : { onStream }) }),
    tell,
    descriptors,
    duplicateFrom: (pid, fd) => duplicateFrom(native, pid, fd),
    onStatus(statuses) {
      client.report(
        TYPE_URL.listenerReport,
        statuses.map(({ pod, listening, reason }) =>
          listenerReportResource({ podUid: pod, listening, reason }),
        ),
      );
    },
  });

  const abort = new AbortController();
  const leave = (reason: string): void => {
    logger.info('worker ends', { reason });
    abort.abort();
    process.exit(0);
  };
  process.on('disconnect', () => leave('the supervisor is gone'));
  // A terminal sends its signals to the whole group; the supervisor decides for its children.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});

  const started = Promise.withResolvers<void>();
  process.on('message', (message: ToChild) => {
    worker.receive(message);
    if (message.kind === 'start') started.resolve();
  });
  await started.promise;

  clock.every(DELTA_MS, () => void deliver());
  await serveProcessAdmin(join(dirname(agentSocket), `worker-${process.pid}.sock`), telemetry, [
    ['pods', () => [...state.pods.capturedPods()]],
    ['workloads', () => state.workloads.all()],
    ['services', () => state.services.all()],
    ['policies', () => state.policies.all()],
    ['connections', () => ({ open: worker.connectionCount })],
  ]);
  client.whenSynced([TYPE_URL.authorization], abort.signal).then(
    () => state.markPoliciesSynced(),
    () => {},
  );
  client.whenSynced([TYPE_URL.address], abort.signal).then(
    () => state.markAddressesSynced(),
    () => {},
  );
  await client.run(abort.signal);
}
