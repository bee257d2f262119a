/**
 * The waypoint's data path as a plain HTTP proxy, for the bench: connections come in without a tunnel, everything after
 * that is the product's own code with routes, policies, metrics and access log on. Settings come in the environment:
 * `BENCH_PORT`, `BENCH_UPSTREAM_PORT`, `BENCH_ROUTES`, `BENCH_PROTOCOL` (`HTTP11` or `HTTP2`).
 */

import { createServer } from 'node:net';

import { tuneEngine } from '../../src/app/engine-flags.ts';
import { createProcessTelemetry } from '../../src/app/process-telemetry.ts';
import { createReadBuffers } from '../../src/base/buffer-pool.ts';
import { createSystemClock } from '../../src/base/clock.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import type { HttpRule } from '../../src/core/route.ts';
import { socketByteStream } from '../../src/http/socket-stream.ts';
import { createH2Session, createNestedH2Session } from '../../src/http/h2/session.ts';
import { createWindowBudget } from '../../src/http/h2/window-budget.ts';
import { createHttpPolicyBook } from '../../src/policy/http-policy-book.ts';
import { createNodeState } from '../../src/state/node-state.ts';
import { createRequestLog } from '../../src/telemetry/request-log.ts';
import { createRequestMetrics } from '../../src/telemetry/request-metrics.ts';
import { createRequestReporter } from '../../src/telemetry/request-reporter.ts';
import { createJwksStore } from '../../src/waypoint/jwks.ts';
import { createRequestAuthenticator } from '../../src/waypoint/request-authenticator.ts';
import { createResilienceMetrics } from '../../src/waypoint/resilience-metrics.ts';
import { createServicePlans } from '../../src/waypoint/service-plan.ts';
import { Traffic } from '../../src/waypoint/traffic.ts';
import { CLIENT_SESSION_LIMITS, createWaypoint } from '../../src/waypoint/waypoint.ts';
import { exact, policy, rule } from '../policy/build.ts';
import { ip, key, NETWORK, service, workload } from '../state/build.ts';

tuneEngine();
const setting = (name: string): number => Number(process.env[name]);
const protocol = process.env['BENCH_PROTOCOL'] === 'HTTP2' ? 'HTTP2' : 'HTTP11';
const clock = createSystemClock();
const random = createSystemRandom();
const telemetry = createProcessTelemetry(clock, 'bench', 'info', {});
const { logger, registry } = telemetry;
const parts = { clock, readBuffers: createReadBuffers(), windowBudget: createWindowBudget() };
const state = createNodeState({ clock, random });
const plans = createServicePlans(state, { namespace: 'shop', name: 'waypoint' });
const client: SpiffeId = 'spiffe://cluster.local/ns/shop/sa/web' as SpiffeId;

/** The last of many rules serves; before it are ones for other paths. */
function rules(count: number): HttpRule[] {
  return Array.from({ length: count }, (_, index) => ({
    route: {
      kind: 'HTTPRoute',
      namespace: 'shop',
      name: `route-${Math.floor(index / 16)}`,
      createdMs: 0,
    },
    index: index % 16,
    name: '',
    hostnames: [],
    matches: [
      {
        path: { kind: 'prefix', value: index === 0 ? '/' : `/service-${index}/v1` },
        method: '',
        headers: [],
        queryParams: [],
      },
    ],
    filters: [],
    backends: [{ backend: { service: key('app'), port: 80, invalid: '' }, weight: 1, filters: [] }],
    requestTimeoutMs: undefined,
    backendRequestTimeoutMs: undefined,
    retry: undefined,
    sessionPersistence: undefined,
    invalid: '',
  }));
}

state.applyAddresses({
  services: [
    service('app', {
      vips: ['10.96.0.1'],
      ports: [
        { servicePort: 80, targetPort: setting('BENCH_UPSTREAM_PORT'), appProtocol: protocol },
      ],
    }),
  ],
  workloads: [
    workload('app-0', { addresses: ['127.0.0.1'], tunnelProtocol: 'none', services: ['app'] }),
  ],
});
state.applyPolicies({
  policies: [
    policy('shop/only-web', {
      rules: [rule({ principals: [exact('cluster.local/ns/shop/sa/web')] })],
    }),
  ],
});
state.markPoliciesSynced();
state.markAddressesSynced();
plans.apply(
  [
    {
      key: key('app'),
      ports: [
        {
          port: 80,
          appProtocol: protocol,
          producer: { http: rules(setting('BENCH_ROUTES')), tls: [], tcp: [] },
          consumers: new Map(),
        },
      ],
    },
  ],
  [],
);
const place = {
  uid: '',
  namespace: 'shop',
  network: NETWORK,
  clusterId: 'cluster1',
  node: 'node1',
  locality: { region: '', zone: '', subzone: '' },
};
const resilience = createResilienceMetrics(registry);
const guard = {
  authenticator: createRequestAuthenticator(
    clock,
    createJwksStore({
      clock,
      random,
      logger,
      fetch: () => Promise.reject(new Error('no keys are fetched here')),
    }),
  ),
  policies: createHttpPolicyBook(),
};
guard.authenticator.apply([], [], true);
guard.policies.apply([], [], true);
const waypoint = createWaypoint({
  clock,
  random,
  logger,
  buffers: parts.readBuffers,
  sessions: {
    overSocket: (socket, role, onStream) =>
      createH2Session(socket, { role, ...parts, ...(onStream === undefined ? {} : { onStream }) }),
    overStream: (stream, role, onStream) =>
      createNestedH2Session(stream, {
        role,
        ...parts,
        ...(role === 'server' ? { limits: CLIENT_SESSION_LIMITS } : {}),
        ...(onStream === undefined ? {} : { onStream }),
      }),
  },
  state,
  plans,
  traffic: new Traffic({
    clock,
    random,
    source: state.services,
    client: () => place,
    metrics: resilience,
    rateStore: undefined,
  }),
  resilience,
  guard,
  reporter: createRequestReporter({
    metrics: createRequestMetrics(telemetry.store, telemetry.histograms),
    log: createRequestLog(logger),
  }),
  registry,
  credentials: () => undefined,
  client: () => place,
});
const addressed = { service: state.services.get(key('app')), workload: undefined, port: 80 };
const metadata = {
  cluster: '',
  namespace: 'shop',
  workloadType: 'pod',
  workloadName: 'web',
  canonicalName: 'web',
  canonicalRevision: 'v1',
  region: '',
  zone: '',
} as const;
createServer((socket) => {
  waypoint.serve(socketByteStream(socket, parts.readBuffers), {
    peer: client,
    source: { ip: ip('127.0.0.1'), port: socket.remotePort ?? 0 },
    metadata,
    addressed,
  });
}).listen(setting('BENCH_PORT'), '127.0.0.1');
process.on('SIGINT', () => process.exit(0));
