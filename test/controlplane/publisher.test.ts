/** Batches, acknowledgements and what survives a restart. */

import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t from 'tap';

import { createFakeClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { unwrap } from '../../src/base/result.ts';
import type { PodUid } from '../../src/core/pod.ts';
import {
  createAcknowledgements,
  type PublishedUpTo,
} from '../../src/controlplane/acknowledgements.ts';
import {
  createFileCaptureStore,
  createNullCaptureStore,
  type CaptureStore,
} from '../../src/controlplane/capture-store.ts';
import { createPublisher } from '../../src/controlplane/publisher.ts';
import { ResourceCaches } from '../../src/controlplane/resource-caches.ts';
import { World } from '../../src/controlplane/world.ts';
import { decodeAddress } from '../../src/discovery/codec-workload.ts';
import { decodeAuthorization } from '../../src/discovery/codec-policy.ts';
import { decodeLocalPod, decodeNodeSettings } from '../../src/discovery/codec-local.ts';
import { namespace, node, own, pod, service } from './build.ts';

function setUp(captureStore: CaptureStore = createNullCaptureStore(), restored?: Set<PodUid>) {
  const clock = createFakeClock();
  const logger = createNullLogger();
  const world = new World(restored === undefined ? {} : { restored });
  const caches = new ResourceCaches();
  const behind = new Set<string>();
  const asked: PublishedUpTo[] = [];
  const acknowledgements = createAcknowledgements({
    clock,
    behind: (published) => {
      asked.push(published);
      return behind;
    },
  });
  let published = 0;
  const publisher = createPublisher({
    clock,
    logger,
    world,
    caches,
    acknowledgements,
    captureStore,
    onPublished: () => void published++,
  });
  const put = (...objects: ReturnType<typeof pod>[]): void => {
    for (const object of objects) world.apply({ type: 'put', object });
    publisher.poke();
  };
  const state = (path: string): string => {
    const resource = caches.address.get(`Kubernetes//Pod/${path}`);
    const address = resource && unwrap(decodeAddress(resource.body));
    return address?.kind === 'workload' ? address.workload.tunnelProtocol : 'absent';
  };
  return {
    clock,
    world,
    caches,
    behind,
    asked,
    acknowledgements,
    publisher,
    put,
    state,
    count: () => published,
  };
}

const on = { 'nodemesh.dev/mesh': 'enabled' };
const web = pod('shop/web', { uid: 'u1', ip: '10.0.0.1', phase: 'Running' });

t.test(
  'nothing is published before the start; then changes are gathered into one batch',
  async (t) => {
    const { clock, publisher, put, caches, count } = setUp();
    put(namespace('shop'), web);
    await clock.advance(1_000);
    t.equal(caches.address.size, 0);
    await publisher.start();
    t.equal(caches.address.size, 1);
    t.equal(count(), 1);
    for (let index = 0; index < 20; index++) {
      put(pod(`shop/p${index}`, { ip: `10.0.1.${index}` }));
      await clock.advance(2);
    }
    await clock.advance(100);
    t.equal(count(), 2);
    t.equal(caches.address.size, 21);
    await publisher[Symbol.asyncDispose]();
  },
);

t.test('T107 an object that changes a thousand times a second makes twenty batches', async (t) => {
  const { clock, publisher, caches, count } = setUp();
  publisher.apply([{ type: 'put', object: namespace('shop') }]);
  await publisher.start();
  const before = count();
  for (let index = 0; index < 1_000; index++) {
    const object = pod('shop/web', { uid: 'u1', ip: `10.0.${index >> 8}.${index & 255}` });
    publisher.apply([{ type: 'put', object }]);
    await clock.advance(1);
  }
  await clock.advance(100);
  t.ok(count() - before <= 21, `${count() - before} batches`);
  const last = unwrap(
    decodeAddress(caches.address.get('Kubernetes//Pod/shop/web')?.body ?? Buffer.of()),
  );
  t.match(last, { workload: { addresses: ['10.0.3.231'] } });
  await publisher[Symbol.asyncDispose]();
});

t.test('what is published decodes to what was meant, per mesh and per node (T106)', async (t) => {
  const { publisher, put, caches } = setUp();
  put(
    namespace('shop', on),
    node('node-a', 'eu', 'z'),
    web,
    pod('shop/db', { uid: 'u2', ip: '10.0.0.2', node: 'node-b' }),
    service('shop/web', { clusterIP: '10.96.0.1', ports: [{ port: 80 }] }),
    own('AuthorizationPolicy', 'shop/p', { rules: [{}] }),
    own('AuthorizationPolicy', 'shop/audit', { action: 'AUDIT', rules: [{}] }),
  );
  await publisher.start();
  const keys = [...caches.authorization.names()].toSorted();
  t.same(keys, ['nodemesh-system/istio_converted_static_strict', 'shop/p']);
  t.same([...caches.auditPolicy.names()], ['shop/audit']);
  for (const key of keys) {
    t.equal(
      unwrap(decodeAuthorization(caches.authorization.get(key)?.body ?? Buffer.of())).key,
      key,
    );
  }
  t.same([...caches.address.names()].toSorted(), [
    'Kubernetes//Pod/shop/db',
    'Kubernetes//Pod/shop/web',
    'shop/web.shop.svc.cluster.local',
  ]);
  const view = caches.view('node-a');
  const pods = [...(view.get('type.googleapis.com/nodemesh.v1.LocalPod')?.names() ?? [])];
  t.same(pods, ['u1'], 'only its own');
  const local = view.get('type.googleapis.com/nodemesh.v1.LocalPod')?.get('u1');
  t.match(unwrap(decodeLocalPod(local?.body ?? Buffer.of())), { enrolled: true, name: 'web' });
  const settings = view.get('type.googleapis.com/nodemesh.v1.NodeSettings')?.get('node');
  t.match(unwrap(decodeNodeSettings(settings?.body ?? Buffer.of())), { zone: 'z', region: 'eu' });
  put(own('AuthorizationPolicy', 'shop/p', { action: 'AUDIT', rules: [{}] }));
  await publisher.flush();
  t.same([...caches.authorization.names()], ['nodemesh-system/istio_converted_static_strict']);
  t.same([...caches.auditPolicy.names()].toSorted(), ['shop/audit', 'shop/p']);
  caches.prune(() => false);
  await publisher[Symbol.asyncDispose]();
});

t.test('STRICT and leaving wait for acknowledgements, but not for ever', async (t) => {
  const { clock, world, behind, asked, publisher, put, state, acknowledgements } = setUp();
  const phase = (): string | undefined => [...world.statuses()][0]?.phase;
  put(namespace('shop', on), web);
  await publisher.start();
  behind.add('node-z');
  world.report('node-a', [{ podUid: 'u1' as PodUid, state: 'captured', reason: '' }]);
  publisher.poke();
  await clock.advance(1_000);
  t.equal(state('shop/web'), 'hbone');
  t.equal(phase(), 'announcing', 'somebody has not heard');
  t.match(asked.at(-1), { typeUrl: 'type.googleapis.com/istio.workload.Address', generation: 2 });
  behind.clear();
  await clock.advance(200);
  t.equal(phase(), 'announcing', 'workers get their moment');
  await clock.advance(200);
  t.equal(phase(), 'enrolled');
  t.equal(acknowledgements.waitingCount, 0);

  put(namespace('shop'));
  behind.add('node-z');
  await clock.advance(500);
  t.equal(phase(), 'retracting', 'relaxing waits only for its own node');
  await clock.advance(4_000);
  t.equal(phase(), 'retracting');
  await clock.advance(2_000);
  t.equal(phase(), 'plain', 'a stuck node does not hold it');
  t.equal(clock.pendingCount(), 0, 'no timer is left');
  await publisher[Symbol.asyncDispose]();
});

t.test('nobody to ask: a fixed time', async (t) => {
  const clock = createFakeClock();
  using acknowledgements = createAcknowledgements({ clock, behind: undefined });
  let done = 0;
  const published = { typeUrl: 'x', generation: 1 };
  acknowledgements.wait({ published, node: undefined, limitMs: 5_000, done: () => void done++ });
  await clock.advance(900);
  t.equal(done, 0);
  await clock.advance(200);
  t.equal(done, 1);
});

t.test('who is in the mesh is stored before it is published, and restored', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'nodemesh-captures-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const path = join(folder, 'captured');
  const store = createFileCaptureStore(path);
  t.equal((await store.load()).size, 0);
  const { clock, world, publisher, put } = setUp(store);
  put(namespace('shop', on), web);
  await publisher.start();
  // The list was just written; the next writing waits its turn.
  await clock.advance(2_000);
  world.report('node-a', [{ podUid: 'u1' as PodUid, state: 'captured', reason: '' }]);
  await publisher.flush();
  t.equal(await readFile(path, 'utf8'), 'u1\n');
  t.equal((await stat(path)).mode & 0o777, 0o600);
  await publisher[Symbol.asyncDispose]();

  const restored = new Set(await createFileCaptureStore(path).load());
  const next = setUp(createNullCaptureStore(), restored);
  next.put(web, namespace('shop', on));
  await next.publisher.start();
  t.equal(next.state('shop/web'), 'hbone', 'before its node has reported');
  await next.publisher[Symbol.asyncDispose]();

  await writeFile(path, '../etc\n');
  await t.rejects(createFileCaptureStore(path).load(), { code: 'MESH_CONFIG_INVALID' });
});
