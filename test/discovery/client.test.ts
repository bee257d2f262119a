import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { MeshError } from '../../src/base/errors.ts';
import {
  CONNECT_TIMEOUT_MS,
  createDiscoveryClient,
  RECONNECT_MAX_MS,
  type DiscoveryClientOptions,
} from '../../src/discovery/client.ts';
import { ResourceCache } from '../../src/discovery/resource-cache.ts';
import { FIRST_REQUEST_TIMEOUT_MS } from '../../src/discovery/server-stream.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import { createTimeSlice } from '../../src/base/time-slice.ts';
import {
  createDeltaRequest,
  DISCOVERY_PATH,
  encodeDeltaRequest,
} from '../../src/discovery/wire-messages.ts';
import { openGrpcCall } from '../../src/discovery/grpc-client.ts';
import {
  clock as realClock,
  createHeld,
  createListLogger,
  createListRegistry,
  dialLoopback,
  runClient,
  serveDiscovery,
  serveLoopback,
  textResource,
  TOKEN,
  until,
} from './loopback.ts';

const refused = (): Promise<never> =>
  Promise.reject(new MeshError('MESH_CONNECT_FAILED', 'Nobody listens', { retryable: true }));

function unreachable(options: Partial<DiscoveryClientOptions>) {
  const clock = createFakeClock();
  const registry = createListRegistry();
  const attempts: number[] = [];
  const client = createDiscoveryClient({
    clock,
    random: { next: () => 0.5, bytes: (count) => Buffer.alloc(count) },
    logger: createListLogger(),
    registry,
    token: async () => TOKEN,
    node: { id: 'n', cluster: '', metadata: new Map() },
    authority: 'controller',
    subscriptions: [createHeld(TYPE_URL.address).subscription],
    ...options,
    connect(signal) {
      attempts.push(clock.nowMs());
      return options.connect?.(signal) ?? refused();
    },
  });
  const abort = new AbortController();
  const running = client.run(abort.signal);
  const stop = async (): Promise<void> => {
    abort.abort();
    await running;
  };
  return { clock, registry, attempts, client, abort, stop };
}

void t.test(
  'discovery client backs off from 10 ms to 15 s, the first attempt spread',
  async (t) => {
    const { clock, registry, attempts, client, stop } = unreachable({ reconnectSpreadMs: 500 });
    await clock.advance(120_000);
    const gaps = attempts.slice(1).map((at, index) => at - (attempts[index] ?? 0));
    t.ok((gaps[0] ?? 0) >= 250, 'spread over 500 ms');
    t.ok((gaps[1] ?? 0) <= 20, 'then from small');
    t.ok(gaps.every((gap) => gap <= RECONNECT_MAX_MS));
    t.equal(Math.max(...gaps.slice(1)), RECONNECT_MAX_MS * 0.75, 'jitter below the cap');
    t.equal(registry.read('nodemesh_config_age_seconds'), 120);
    t.equal(registry.read('nodemesh_config_connects_total', 'failed'), attempts.length);
    t.notOk(client.isSynced(TYPE_URL.address));
    await stop();
    t.equal(clock.pendingCount(), 0, 'no timer is left');
  },
);

void t.test('discovery client gives a silent server up (MESH_CONNECT_TIMEOUT)', async (t) => {
  const reasons: unknown[] = [];
  const { clock, attempts, stop } = unreachable({
    connect: (signal) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => {
          reasons.push(signal.reason);
          reject(signal.reason as Error);
        });
      }),
  });
  await clock.advance(CONNECT_TIMEOUT_MS - 1);
  t.equal(attempts.length, 1);
  await clock.advance(1_000);
  t.match(reasons, [{ code: 'MESH_CONNECT_TIMEOUT' }]);
  t.equal(attempts.length, 2);
  await stop();
});

void t.test('discovery client stops waiting with its signal', async (t) => {
  const { client, stop } = unreachable({});
  const abort = new AbortController();
  const waiting = client.whenSynced([TYPE_URL.address], abort.signal);
  abort.abort(new MeshError('MESH_ABORTED', 'Enough'));
  await t.rejects(waiting, { code: 'MESH_ABORTED' });
  await t.rejects(client.whenSynced([TYPE_URL.address], abort.signal), { code: 'MESH_ABORTED' });
  t.throws(
    () => {
      for (let index = 0; index <= 16; index++) client.report(`type-${index}`, []);
    },
    { code: 'MESH_LIMIT_EXCEEDED' },
  );
  await stop();
});

void t.test('discovery client reads its token anew for each connection', async (t) => {
  const server = await serveDiscovery([new ResourceCache(TYPE_URL.address)]);
  const tokens = ['expired', 'expired', TOKEN];
  const { client, stop } = runClient(server.port, [createHeld(TYPE_URL.address)], {
    token: async () => tokens.shift() ?? TOKEN,
  });
  await client.whenSynced([TYPE_URL.address]);
  t.same(tokens, []);
  await stop();
  await server.close();
});

void t.test(
  'discovery server merges changes that come faster than its interval (T107)',
  async (t) => {
    const clock = createFakeClock();
    const registry = createListRegistry();
    const cache = new ResourceCache(TYPE_URL.address);
    const server = await serveDiscovery([cache], { clock, registry, pushIntervalMs: 20 });
    const held = createHeld(TYPE_URL.address);
    const { client, stop } = runClient(server.port, [held]);
    await client.whenSynced([TYPE_URL.address]);
    await clock.advance(100);
    for (let ms = 0; ms < 100; ms++) {
      cache.update({ set: [textResource('a', `v${ms}`)] });
      await clock.advance(1);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await clock.advance(100);
    await until(() => held.resources.get('a') === 'v99', 'the last');
    const pushes = registry.read('nodemesh_discovery_pushes_total', 'Address');
    t.ok(pushes >= 3 && pushes <= 8, `${pushes} pushes for 100 changes`);
    await stop();
    await server.close();
  },
);

void t.test(
  'discovery client outlives a stream that ends well (MESH_DISCOVERY_STREAM_LOST)',
  async (t) => {
    let calls = 0;
    const handle = async (): Promise<void> => void calls++;
    const server = await serveLoopback(new Map([[DISCOVERY_PATH, { handle }]]));
    const logger = createListLogger();
    const { stop } = runClient(server.port, [createHeld(TYPE_URL.address)], { logger });
    await until(() => calls >= 3, 'three streams');
    t.equal(logger.lines.length, 1, 'an outage is told once, and then now and again');
    t.match(logger.lines[0]?.fields['error'], {
      code: 'MESH_DISCOVERY_STREAM_LOST',
      retryable: true,
    });
    await stop();
    await server.close();
  },
);

void t.test('discovery server ends a stream that asks for nothing', async (t) => {
  const clock = createFakeClock();
  const server = await serveDiscovery([new ResourceCache(TYPE_URL.address)], { clock });
  const session = await dialLoopback(server.port);
  const metadata = new Map([['authorization', `Bearer ${TOKEN}`]]);
  const call = openGrpcCall({
    session,
    path: DISCOVERY_PATH,
    authority: 'x',
    scheme: 'http',
    clock: realClock,
    metadata,
  });
  await until(() => server.discovery.clientCount === 1, 'the stream');
  await clock.advance(FIRST_REQUEST_TIMEOUT_MS);
  await t.rejects(call.read(), { code: 'MESH_GRPC_STATUS', details: { status: 4 } });
  session.destroy();
  await server.close();
});

void t.test('discovery server reads a flood of requests only so fast (T107)', async (t) => {
  const clock = createFakeClock();
  let taken = 0;
  const server = await serveDiscovery([], { clock, onReports: () => void taken++ });
  const session = await dialLoopback(server.port);
  const metadata = new Map([['authorization', `Bearer ${TOKEN}`]]);
  const path = DISCOVERY_PATH;
  const call = openGrpcCall({
    session,
    path,
    authority: 'x',
    scheme: 'http',
    clock: realClock,
    metadata,
  });
  const slice = createTimeSlice(realClock);
  const flood = (async (): Promise<void> => {
    for (let index = 1; index <= 2_000; index++) {
      const request = createDeltaRequest({ typeUrl: 'x', reportSequence: index });
      await call.write(await encodeDeltaRequest(request, slice));
    }
  })();
  await until(() => taken === 1_000, 'the burst');
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.equal(taken, 1_000);
  await clock.advance(200);
  await until(() => taken >= 1_099, 'what 200 ms allow');
  t.ok(taken <= 1_101, `${taken} after 200 ms`);
  call.cancel();
  await flood.catch(() => {});
  session.destroy();
  await server.close();
});

void t.test('discovery server refuses malformed requests and too many types', async (t) => {
  const server = await serveDiscovery([new ResourceCache(TYPE_URL.address)]);
  const session = await dialLoopback(server.port);
  const open = () =>
    openGrpcCall({
      session,
      path: DISCOVERY_PATH,
      authority: 'x',
      scheme: 'http',
      clock: realClock,
      metadata: new Map([['authorization', `Bearer ${TOKEN}`]]),
    });
  const malformed = open();
  await malformed.write(Buffer.from([0xff, 0xff]));
  await t.rejects(malformed.read(), { code: 'MESH_GRPC_STATUS', details: { status: 3 } });
  const greedy = open();
  for (let index = 0; index < 40; index++) {
    const typeUrl = Buffer.from(`type.${index}`);
    await greedy
      .write(Buffer.concat([Buffer.from([0x12, typeUrl.length]), typeUrl]))
      .catch(() => {});
  }
  const readAll = async (): Promise<void> => {
    while ((await greedy.read()) !== undefined);
  };
  await t.rejects(readAll(), { code: 'MESH_GRPC_STATUS', details: { status: 8 } });
  session.destroy();
  await server.close();
});
