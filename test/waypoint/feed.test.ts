/** What a controller tells a waypoint, end to end: manifests in, a real stream, the waypoint's own view out. */

import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { ok, unwrap } from '../../src/base/result.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import { createNullCaptureStore } from '../../src/controlplane/capture-store.ts';
import { unauthenticated } from '../../src/controlplane/caller.ts';
import type { MeshObject } from '../../src/controlplane/objects.ts';
import { createControlPlane, type MeshClient } from '../../src/controlplane/service.ts';
import { findCaller, parseTokens } from '../../src/controlplane/tokens.ts';
import { createDiscoveryServer, type DiscoveryServer } from '../../src/discovery/server.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { DISCOVERY_PATH } from '../../src/discovery/wire-messages.ts';
import { createHttpPolicyBook } from '../../src/policy/http-policy-book.ts';
import { createNodeState } from '../../src/state/node-state.ts';
import { waypointSubscriptions } from '../../src/waypoint/feed.ts';
import { createResilienceMetrics } from '../../src/waypoint/resilience-metrics.ts';
import { createJwksStore } from '../../src/waypoint/jwks.ts';
import { createRequestAuthenticator } from '../../src/waypoint/request-authenticator.ts';
import { createServicePlans } from '../../src/waypoint/service-plan.ts';
import { Traffic } from '../../src/waypoint/traffic.ts';
import { gatewayApi, namespace, own, service } from '../controlplane/build.ts';
import { runClient, serveLoopback, until } from '../discovery/loopback.ts';
import { createTestCa } from '../identity/fixtures.ts';
import { key, workload } from '../state/build.ts';

const TOKEN = 'wwwwwwwwwwwwwwwwwwww';

t.test('a waypoint is synced without any policy, and follows those that come and go', async (t) => {
  const clock = createSystemClock();
  const random = createSystemRandom();
  const common = { clock, logger: createNullLogger(), registry: createNullRegistry() };
  const table = unwrap(parseTokens(`shop/way ${TOKEN}\n`));
  const plane = await createControlPlane({
    ...common,
    ca: await createTestCa(),
    authenticator: {
      authenticate(token) {
        const caller = findCaller(table, token);
        return Promise.resolve(caller === undefined ? unauthenticated('unknown') : ok(caller));
      },
    },
    captureStore: createNullCaptureStore(),
    behind: (published) => server.behind(published),
    tuning: { gatherMs: 2, acknowledgeMarginMs: 5, rotationMarginMs: 20 },
  });
  const server: DiscoveryServer<MeshClient, string> = createDiscoveryServer<MeshClient, string>({
    ...common,
    ...plane.hooks,
    pushIntervalMs: 0,
  });
  const loopback = await serveLoopback(new Map([[DISCOVERY_PATH, server.method]]));
  const put = (...objects: readonly MeshObject[]): void =>
    plane.apply(objects.map((object) => ({ type: 'put' as const, object })));
  put(
    namespace('shop', { 'nodemesh.dev/waypoint': 'way' }),
    gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }),
    service('shop/cart', { clusterIP: '10.96.0.1', ports: [{ port: 80 }] }),
  );
  await plane.sourceSynced();

  const state = createNodeState({ clock, random });
  const plans = createServicePlans(state, { namespace: 'shop', name: 'way' });
  const traffic = new Traffic({
    clock,
    random,
    source: state.services,
    client: () => workload('way'),
    metrics: createResilienceMetrics(createNullRegistry()),
    rateStore: undefined,
  });
  const jwks = createJwksStore({
    clock,
    random,
    logger: common.logger,
    fetch: () => Promise.reject(new Error('no keys are fetched here')),
  });
  const guard = {
    authenticator: createRequestAuthenticator(clock, jwks),
    policies: createHttpPolicyBook(),
  };
  const subscriptions = waypointSubscriptions({
    clock,
    state,
    plans,
    traffic,
    guard,
    setRoots: () => {},
  });
  const { client, stop } = runClient(
    loopback.port,
    [],
    { subscriptions, token: () => Promise.resolve(TOKEN) },
    'way-1',
  );
  t.teardown(async () => {
    await stop();
    traffic[Symbol.dispose]();
    await loopback.close();
    await plane[Symbol.asyncDispose]();
  });
  const deadline = AbortSignal.timeout(5_000);
  await client.whenSynced([TYPE_URL.waypointService, TYPE_URL.trafficPolicy], deadline);
  await until(() => plans.size === 1, 'its service');

  const requestMs = (): number | undefined =>
    traffic.plan(key('cart'), 80, undefined).times.requestMs;
  t.equal(requestMs(), undefined);
  const policy = (request: string): MeshObject =>
    own('TrafficPolicy', 'shop/cart', {
      targetRefs: [{ kind: 'Service', name: 'cart' }],
      timeouts: { request },
    });
  put(policy('3s'));
  await until(() => requestMs() === 3_000, 'the policy');
  put(policy('5s'));
  await until(() => requestMs() === 5_000, 'its change');
  plane.apply([{ type: 'delete', kind: 'TrafficPolicy', namespace: 'shop', name: 'cart' }]);
  await until(() => requestMs() === undefined, 'its end');
});
