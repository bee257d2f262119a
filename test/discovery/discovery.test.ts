import t from 'tap';

import { ok } from '../../src/base/result.ts';
import type { ClientInfo } from '../../src/discovery/server.ts';
import { ResourceCache } from '../../src/discovery/resource-cache.ts';
import { TYPE_URL } from '../../src/discovery/type-urls.ts';
import type { Rejection } from '../../src/discovery/wire-messages.ts';
import { createWireResource, type WireResource } from '../../src/discovery/wire-resource.ts';
import {
  createHeld,
  createListLogger,
  createListRegistry,
  runClient,
  serveDiscovery,
  textResource,
  until,
} from './loopback.ts';

const cacheOf = (typeUrl: string, ...names: string[]): ResourceCache => {
  const cache = new ResourceCache(typeUrl);
  cache.update({ set: names.map((name) => textResource(name)) });
  return cache;
};

void t.test('discovery client gets everything, then changes and removals', async (t) => {
  const cache = cacheOf(TYPE_URL.address, 'a', 'b');
  const server = await serveDiscovery([cache]);
  const held = createHeld(TYPE_URL.address);
  const { client, stop } = runClient(server.port, [held]);
  await client.whenSynced([TYPE_URL.address]);
  t.same(
    [...held.resources],
    [
      ['a', 'a'],
      ['b', 'b'],
    ],
  );
  cache.update({ set: [textResource('a', 'new'), textResource('c')], removed: ['b'] });
  await until(() => held.resources.size === 2 && held.resources.has('c'), 'the change');
  t.same(
    [...held.resources],
    [
      ['a', 'new'],
      ['c', 'c'],
    ],
  );
  await stop();
  await until(() => server.discovery.clientCount === 0, 'the client to be gone');
  await server.close();
});

void t.test(
  'discovery client on demand gets what it asks for, and hears what is not',
  async (t) => {
    const cache = new ResourceCache(TYPE_URL.address);
    cache.update({
      set: [
        createWireResource('ns/svc', Buffer.from('svc'), ['net/10.0.0.1']),
        createWireResource('pod', Buffer.from('pod'), ['net/10.1.0.1'], ['ns/svc']),
        createWireResource('other', Buffer.from('other'), ['net/10.1.0.2']),
      ],
    });
    const server = await serveDiscovery([cache]);
    const held = createHeld(TYPE_URL.address, 'on-demand');
    const { client, stop } = runClient(server.port, [held]);
    await client.whenSynced([TYPE_URL.address]);
    t.equal(held.resources.size, 0);
    t.ok(client.subscribe(TYPE_URL.address, ['net/10.0.0.1', 'net/10.9.9.9']));
    await until(() => held.removed.length > 0 && held.resources.size === 2, 'the answers');
    t.same(held.removed, ['net/10.9.9.9']);
    t.same([...held.resources.keys()].toSorted(), ['ns/svc', 'pod']);
    client.unsubscribe(TYPE_URL.address, ['net/10.0.0.1']);
    client.subscribe(TYPE_URL.address, ['other']);
    await until(() => held.resources.has('other'), 'the other');
    cache.update({ set: [createWireResource('pod', Buffer.from('2'), [], ['ns/svc'])] });
    cache.update({ set: [createWireResource('other', Buffer.from('2'))] });
    await until(() => held.resources.get('other') === '2', 'the change');
    t.equal(held.resources.get('pod'), 'pod', 'given up, so not told');
    t.notOk(
      client.subscribe(
        TYPE_URL.address,
        Array.from({ length: 100_001 }, (_, i) => `n${i}`),
      ),
    );
    await stop();
    await server.close();
  },
);

void t.test('discovery client that reconnects gets nothing it has (F07)', async (t) => {
  const [policies, addresses] = [
    cacheOf(TYPE_URL.authorization, 'p'),
    cacheOf(TYPE_URL.address, 'a'),
  ];
  const names = cacheOf('on-demand/nodemesh.v1.X', 'x', 'y', 'z');
  const registry = createListRegistry();
  let server = await serveDiscovery([policies, addresses, names]);
  const [first, second] = [createHeld(TYPE_URL.authorization), createHeld(TYPE_URL.address)];
  const third = createHeld('on-demand/nodemesh.v1.X', 'on-demand');
  const { client, stop } = runClient(() => server.port, [second, first, third], { registry });
  client.subscribe('on-demand/nodemesh.v1.X', ['x', 'y']);
  await client.whenSynced([TYPE_URL.address, TYPE_URL.authorization]);
  await until(() => third.resources.size === 2, 'names');
  t.equal(registry.read('nodemesh_config_age_seconds'), 0);
  t.equal(registry.read('nodemesh_config_version', 'Address'), 1);
  t.equal(client.streamCount, 1);
  await server.close();
  await until(() => !client.connected, 'the loss');
  t.ok(registry.read('nodemesh_config_age_seconds') > 0, 'age grows');
  t.ok(client.isSynced(TYPE_URL.address), 'what is held stays');
  t.equal(second.resources.size, 1);
  for (const held of [first, second, third]) held.received.length = 0;
  addresses.update({ set: [textResource('b')], removed: ['a'] });
  // Given up and wanted again while nobody was there: the client may have dropped it.
  client.unsubscribe('on-demand/nodemesh.v1.X', ['y']);
  client.subscribe('on-demand/nodemesh.v1.X', ['y']);
  server = await serveDiscovery([policies, addresses, names]);
  await until(() => second.resources.has('b') && third.received.includes('y'), 'the changes');
  await until(() => client.connected, 'the new stream');
  t.equal(client.streamCount, 2);
  t.same(first.received, []);
  t.same(second.received, ['b']);
  t.same(second.removed, ['a']);
  t.same(third.received, ['y']);
  await stop();
  await server.close();
});

void t.test('discovery NACK names one resource and leaves the others', async (t) => {
  const cache = cacheOf(TYPE_URL.authorization, 'good', 'bad');
  const rejected: [ClientInfo, string, readonly Rejection[]][] = [];
  const logger = createListLogger();
  const registry = createListRegistry();
  const server = await serveDiscovery([cache], {
    logger,
    registry,
    onRejected: (...args) => rejected.push(args),
  });
  const held = createHeld(TYPE_URL.authorization);
  held.bad.add('bad');
  const { client, stop } = runClient(server.port, [held]);
  await client.whenSynced([TYPE_URL.authorization]);
  await until(() => rejected.length === 1, 'the NACK');
  t.match(rejected, [
    [{ id: 'node-a' }, TYPE_URL.authorization, [{ name: 'bad', reason: '"bad" is bad' }]],
  ]);
  t.equal(registry.read('nodemesh_discovery_nacks_total', 'Authorization'), 1);
  t.match(logger.lines, [{ fields: { rejections: [{ name: 'bad' }] } }]);
  t.same([...held.resources.keys()], ['good']);
  cache.update({ set: [textResource('good', '2')] });
  await until(() => held.resources.get('good') === '2', 'the next change');
  t.same(held.received.filter((name) => name === 'bad').length, 1, 'not sent again by itself');
  held.bad.clear();
  cache.update({ set: [textResource('bad', 'mended')] });
  await until(() => held.resources.get('bad') === 'mended', 'the mended one');
  await stop();
  await server.close();
});

void t.test(
  'discovery sends policies before addresses, in every interleaving (T103)',
  async (t) => {
    const caches = [TYPE_URL.address, TYPE_URL.authorization, TYPE_URL.capturedPod].map(
      (typeUrl) => {
        const names = Array.from({ length: 1_200 }, (_, index) => `n${index}`);
        return cacheOf(typeUrl, ...names);
      },
    );
    const server = await serveDiscovery(caches);
    const order: string[] = [];
    const held = caches.map(({ typeUrl }) => {
      const one = createHeld(typeUrl);
      const apply: typeof one.subscription.apply = (update) => one.subscription.apply(update);
      const subscription = {
        ...one.subscription,
        apply: (update: Parameters<typeof apply>[0]) => {
          order.push(typeUrl);
          return apply(update);
        },
      };
      return { ...one, subscription };
    });
    const { client, stop } = runClient(server.port, held);
    await client.whenSynced(caches.map(({ typeUrl }) => typeUrl));
    const expected = [TYPE_URL.authorization, TYPE_URL.address, TYPE_URL.capturedPod];
    t.same(
      order,
      expected.flatMap((typeUrl) => [typeUrl, typeUrl, typeUrl]),
      'three batches each',
    );
    order.length = 0;
    for (const cache of caches) cache.update({ set: [textResource('n0', 'changed')] });
    await until(() => order.length === 3, 'the changes');
    t.same(order, expected);
    await stop();
    await server.close();
  },
);

void t.test('discovery client that stops reading does not slow the others (C109)', async (t) => {
  const cache = cacheOf(TYPE_URL.address, 'a');
  const server = await serveDiscovery([cache]);
  const slow = createHeld(TYPE_URL.address);
  let release: () => void = () => {};
  const stuck = new Promise<void>((resolve) => (release = resolve));
  const apply: typeof slow.subscription.apply = (update) => slow.subscription.apply(update);
  let blocked = false;
  const subscription = {
    ...slow.subscription,
    apply: async (update: Parameters<typeof apply>[0]) => {
      if (slow.updates > 0) {
        blocked = true;
        await stuck;
      }
      return apply(update);
    },
  };
  const one = runClient(server.port, [{ ...slow, subscription }], {}, 'slow');
  const fast = createHeld(TYPE_URL.address);
  const other = runClient(server.port, [fast], {}, 'fast');
  await Promise.all([one, other].map(({ client }) => client.whenSynced([TYPE_URL.address])));
  const large = 'x'.repeat(100_000);
  for (let round = 1; round <= 100; round++) {
    cache.update({ set: [textResource('a', `${round} ${large}`)] });
    await until(() => fast.resources.get('a')?.startsWith(`${round} `) === true, 'the fast one');
  }
  t.ok(blocked);
  t.equal(slow.updates, 1, 'the slow one is still in its second update');
  release();
  await until(() => slow.resources.get('a')?.startsWith('100 ') === true, 'the slow one');
  t.ok(slow.updates <= 3, `merged into ${slow.updates} updates`);
  await Promise.all([one.stop(), other.stop()]);
  await server.close();
});

void t.test('discovery refuses who has no token, and says nothing (T105)', async (t) => {
  const logger = createListLogger();
  const registry = createListRegistry();
  let views = 0;
  const server = await serveDiscovery([cacheOf(TYPE_URL.address, 'secret')], {
    logger,
    registry,
    viewFor: () => {
      views++;
      return new Map();
    },
  });
  const held = createHeld(TYPE_URL.address);
  const mine = createListLogger();
  const { client, stop } = runClient(server.port, [held], {
    token: async () => 'bad',
    logger: mine,
  });
  await until(() => logger.lines.length > 1, 'refusals');
  t.notOk(client.connected);
  t.equal(views, 0);
  const { error } = (mine.lines[0]?.fields ?? {}) as { error: Error };
  t.match(error, { code: 'MESH_GRPC_STATUS', details: { status: 16 } });
  t.notMatch(error.message, /secret/);
  t.match(logger.lines[0]?.fields['error'], { code: 'MESH_DISCOVERY_UNAUTHENTICATED' });
  t.ok(registry.read('nodemesh_discovery_refused_total', 'unauthenticated') > 0);
  await stop();
  await server.close();
});

void t.test('discovery gives each client its own view (T106)', async (t) => {
  const shared = cacheOf(TYPE_URL.authorization, 'p');
  const own = new Map([
    ['a', cacheOf(TYPE_URL.localPod, 'pod-of-a')],
    ['b', cacheOf(TYPE_URL.localPod, 'pod-of-b')],
  ]);
  const server = await serveDiscovery([], {
    viewFor: async ({ id }) =>
      new Map([shared, own.get(id) ?? cacheOf(TYPE_URL.localPod)].map((c) => [c.typeUrl, c])),
  });
  for (const id of ['a', 'b', 'c']) {
    const [policies, pods] = [createHeld(TYPE_URL.authorization), createHeld(TYPE_URL.localPod)];
    const none = createHeld(TYPE_URL.workloadSecret);
    const { client, stop } = runClient(server.port, [policies, pods, none], {}, id);
    const types = [TYPE_URL.authorization, TYPE_URL.localPod, TYPE_URL.workloadSecret];
    await client.whenSynced(types);
    t.same([...pods.resources.keys()], id === 'c' ? [] : [`pod-of-${id}`]);
    t.equal(policies.resources.size, 1);
    t.equal(none.resources.size, 0, 'a type that is not in the view is empty');
    await stop();
  }
  await server.close();
});

void t.test(
  'discovery reports go up, are repeated after a loss, and deliveries are acknowledged',
  async (t) => {
    const reports: [string, string, string[]][] = [];
    const gone: string[] = [];
    const options = {
      onReports: (
        { id }: ClientInfo,
        typeUrl: string,
        resources: readonly WireResource[],
      ): void => {
        reports.push([id, typeUrl, resources.map(({ name }) => name)]);
      },
      onClientGone: ({ id }: ClientInfo): void => void gone.push(id),
    };
    let server = await serveDiscovery([cacheOf(TYPE_URL.address)], options);
    const { client, stop } = runClient(() => server.port, [createHeld(TYPE_URL.address)]);
    t.equal(await client.deliver(TYPE_URL.trafficDelta, []), false, 'nobody is there yet');
    client.report(TYPE_URL.captureReport, [textResource('pod-1')]);
    await until(() => reports.length === 1, 'the first report');
    client.report(TYPE_URL.captureReport, []);
    await until(() => reports.length === 2, 'the empty report');
    client.report(TYPE_URL.captureReport, [textResource('pod-2')]);
    t.equal(await client.deliver(TYPE_URL.trafficDelta, [textResource('delta')]), true);
    t.same(reports, [
      ['node-a', TYPE_URL.captureReport, ['pod-1']],
      ['node-a', TYPE_URL.captureReport, []],
      ['node-a', TYPE_URL.captureReport, ['pod-2']],
      ['node-a', TYPE_URL.trafficDelta, ['delta']],
    ]);
    reports.length = 0;
    await server.close();
    await until(() => gone.length === 1, 'the end');
    server = await serveDiscovery([cacheOf(TYPE_URL.address)], options);
    await until(() => reports.length === 1, 'the repeated report');
    t.same(reports, [['node-a', TYPE_URL.captureReport, ['pod-2']]], 'deliveries are not repeated');
    await stop();
    await server.close();
  },
);

void t.test('discovery delivery is not lost silently when the server dies', async (t) => {
  const server = await serveDiscovery([cacheOf(TYPE_URL.address)], {
    onReports: () => new Promise(() => {}),
  });
  const { client, stop } = runClient(server.port, [createHeld(TYPE_URL.address)]);
  await client.whenSynced([TYPE_URL.address]);
  const deliveries = Array.from({ length: 65 }, () =>
    client.deliver(TYPE_URL.trafficDelta, [textResource('delta')]),
  );
  t.equal(await deliveries[64], false, 'too many wait');
  for (const socket of server.sockets) socket.destroy();
  t.same(new Set(await Promise.all(deliveries)), new Set([false]));
  await stop();
  await server.close();
});

void t.test('discovery ends the oldest stream of a client with too many', async (t) => {
  const registry = createListRegistry();
  const server = await serveDiscovery([cacheOf(TYPE_URL.address)], { registry });
  const clients = Array.from({ length: 4 }, () =>
    runClient(server.port, [createHeld(TYPE_URL.address)]),
  );
  await Promise.all(clients.map(({ client }) => client.whenSynced([TYPE_URL.address])));
  t.equal(registry.read('nodemesh_discovery_clients'), 4);
  t.equal(server.discovery.clientCount, 1);
  const fifth = runClient(server.port, [createHeld(TYPE_URL.address)]);
  await fifth.client.whenSynced([TYPE_URL.address]);
  t.ok(registry.read('nodemesh_discovery_refused_total', 'superseded') > 0);
  await Promise.all([...clients, fifth].map(({ stop }) => stop()));
  await server.close();
});

void t.test('discovery lets an id that several processes share have more streams', async (t) => {
  const registry = createListRegistry();
  const server = await serveDiscovery([cacheOf(TYPE_URL.address)], {
    registry,
    authenticate: async () => ok({ id: 'shop/way', streamsMax: 6 }),
  });
  const clients = Array.from({ length: 6 }, () =>
    runClient(server.port, [createHeld(TYPE_URL.address)]),
  );
  await Promise.all(clients.map(({ client }) => client.whenSynced([TYPE_URL.address])));
  t.equal(registry.read('nodemesh_discovery_clients'), 6);
  t.equal(registry.read('nodemesh_discovery_refused_total', 'superseded'), 0);
  await Promise.all(clients.map(({ stop }) => stop()));
  await server.close();
});

void t.test('discovery disconnects a client on request, and it comes back', async (t) => {
  const server = await serveDiscovery([cacheOf(TYPE_URL.address, 'a')]);
  const held = createHeld(TYPE_URL.address);
  const logger = createListLogger();
  const { client, stop } = runClient(server.port, [held], { logger });
  await client.whenSynced([TYPE_URL.address]);
  server.discovery.disconnect(({ id }) => id === 'somebody else');
  server.discovery.disconnect(({ id }) => id === 'node-a');
  await until(() => logger.lines.length > 0, 'the loss');
  await until(() => client.connected, 'the return');
  t.same(held.received, ['a'], 'nothing was sent again');
  await stop();
  await server.close();
});

void t.test('discovery survives a server that comes and goes', async (t) => {
  const cache = cacheOf(TYPE_URL.address);
  const held = createHeld(TYPE_URL.address);
  let server = await serveDiscovery([cache]);
  const { client, stop } = runClient(() => server.port, [held]);
  for (let round = 0; round < 10; round++) {
    cache.update({ set: [textResource(`n${round}`)] });
    await until(() => held.resources.has(`n${round}`), `round ${round}`);
    for (const socket of server.sockets) socket.destroy();
    if (round % 3 === 0) {
      await server.close();
      server = await serveDiscovery([cache]);
    }
  }
  t.same(held.received.length, 10);
  t.ok(client.isSynced(TYPE_URL.address));
  await stop();
  await server.close();
});

void t.test('discovery server knows which clients have not acknowledged a change', async (t) => {
  const cache = cacheOf(TYPE_URL.address, 'a');
  const server = await serveDiscovery([cache]);
  let release = Promise.withResolvers<void>();
  release.resolve();
  const held = createHeld(TYPE_URL.address);
  const { subscription } = held;
  const slow = {
    ...held,
    subscription: {
      ...subscription,
      apply: async (update: Parameters<typeof subscription.apply>[0]) => {
        await release.promise;
        return subscription.apply(update);
      },
    },
  };
  const { client, stop } = runClient(server.port, [slow]);
  await client.whenSynced([TYPE_URL.address]);
  const behind = (): string[] => [
    ...server.discovery.behind({ typeUrl: TYPE_URL.address, generation: cache.generation }),
  ];
  await until(() => behind().length === 0, 'the first acknowledgement');
  release = Promise.withResolvers<void>();
  cache.update({ set: [textResource('a', 'new')] });
  t.equal(behind().length, 1, 'at once, before it was even sent');
  await new Promise((resolve) => void setTimeout(resolve, 100));
  t.equal(behind().length, 1, 'sent and not acknowledged');
  t.same([...server.discovery.behind({ typeUrl: TYPE_URL.address, generation: 1 })], []);
  release.resolve();
  await until(() => behind().length === 0, 'the acknowledgement');
  await stop();
  await until(() => server.discovery.clientCount === 0, 'the client to be gone');
  t.same(behind(), [], 'who is gone is not waited for');
  await server.close();
});
