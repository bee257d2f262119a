/** `meshctl waypoint`: in which order a namespace is led through its waypoint, and past it. */

import t from 'tap';

import type { Cluster } from '../../src/cli/cluster.ts';
import { runProgram } from '../../src/cli/program.ts';
import { createFakeCluster, type FakeCluster } from './fake-cluster.ts';
import { createRecordingIo } from './recording-io.ts';

const GROUP = '/apis/gateway.networking.k8s.io/v1';
const CLASS = `${GROUP}/gatewayclasses/nodemesh-waypoint`;
const GATEWAY = `${GROUP}/namespaces/shop/gateways/waypoint`;

async function meshctl(cluster: Cluster, ...args: string[]) {
  const io = createRecordingIo();
  const code = await runProgram(args, { io, version: '1.2.3', connect: async () => cluster });
  return { code, out: io.stdout(), err: io.stderr() };
}

function namespace(name: string, labels: Record<string, string> = {}): Record<string, unknown> {
  return { metadata: { name, labels } };
}

/** The controller's answer to every Gateway that is applied. */
function cluster(status: 'True' | 'False'): FakeCluster {
  const fake = createFakeCluster({
    objects: {
      '/api/v1/namespaces/shop': namespace('shop'),
      '/api/v1/namespaces/other': namespace('other'),
    },
  });
  fake.onChange = (change) => {
    const gateway = fake.objects.get(GATEWAY);
    if (change !== `apply ${GATEWAY}` || gateway === undefined) return;
    const reason = status === 'True' ? 'Programmed' : 'Pending';
    const message = status === 'True' ? 'Serving' : 'No process is ready';
    gateway['status'] = {
      conditions: [{ type: 'Programmed', status, reason, message }],
      addresses: [{ type: 'IPAddress', value: '10.96.0.9' }],
      listeners: [{ name: 'mesh', attachedRoutes: 2 }],
    };
  };
  return fake;
}

t.test('apply leads the namespace through the waypoint once it serves, not before', async (t) => {
  const ready = cluster('True');
  const done = await meshctl(ready, '-n', 'shop', 'waypoint', 'apply');
  t.equal(done.code, 0, done.err);
  t.strictSame(ready.changes, [
    `apply ${CLASS}`,
    `apply ${GATEWAY}`,
    'merge /api/v1/namespaces/shop',
  ]);
  t.match(ready.objects.get('/api/v1/namespaces/shop'), {
    metadata: { labels: { 'nodemesh.dev/waypoint': 'waypoint' } },
  });
  const slow = cluster('False');
  const failed = await meshctl(slow, '-n', 'shop', 'waypoint', 'apply', '--timeout', '0s');
  t.equal(failed.code, 1);
  t.match(failed.err, /No process is ready[^]*meshctl -n shop waypoint status waypoint/);
  t.strictSame(slow.changes, [`apply ${CLASS}`, `apply ${GATEWAY}`]);
  const without = cluster('True');
  await meshctl(without, '-n', 'shop', 'waypoint', 'apply', '--no-enroll');
  t.notOk(without.changes.includes('merge /api/v1/namespaces/shop'));
});

t.test('what cannot be is refused before anything is changed', async (t) => {
  const fake = cluster('True');
  const nowhere = await meshctl(fake, '-n', 'nowhere', 'waypoint', 'apply');
  t.equal(nowhere.code, 64);
  const bare = { ...fake, list: async () => undefined };
  const none = await meshctl(bare, '-n', 'shop', 'waypoint', 'apply');
  t.equal(none.code, 64);
  t.match(none.err, /has no Gateway API/);
  const unknown = await meshctl(fake, '-n', 'shop', 'waypoint', 'delete', 'x');
  t.match(unknown.err, /there is none of this name/);
  t.strictSame(fake.changes, []);
});

t.test('delete leads the namespace past it first, and spares those of others', async (t) => {
  const fake = cluster('True');
  await meshctl(fake, '-n', 'shop', 'waypoint', 'apply', '--all-namespaces-may-use');
  t.match(fake.objects.get(GATEWAY), {
    spec: { listeners: [{ allowedRoutes: { namespaces: { from: 'All' } } }] },
  });
  const use = { 'nodemesh.dev/waypoint': 'waypoint', 'nodemesh.dev/waypoint-namespace': 'shop' };
  fake.objects.set('/api/v1/namespaces/other', namespace('other', use));
  fake.changes.length = 0;
  const refused = await meshctl(fake, '-n', 'shop', 'waypoint', 'delete');
  t.equal(refused.code, 64);
  t.match(refused.err, /namespaces other go through it/);
  t.strictSame(fake.changes, []);
  const forced = await meshctl(fake, '-n', 'shop', 'waypoint', 'delete', '--force');
  t.equal(forced.code, 0, forced.err);
  t.equal(fake.changes.at(-1), `remove ${GATEWAY}`);
  t.match(fake.objects.get('/api/v1/namespaces/shop'), {
    metadata: { labels: { 'nodemesh.dev/waypoint': undefined } },
  });
});

t.test(
  'list and status show who goes through it; generate prints what apply applies',
  async (t) => {
    const fake = cluster('True');
    const empty = await meshctl(fake, '-A', 'waypoint', 'list');
    t.match(empty.err, /meshctl waypoint apply/);
    await meshctl(fake, '-n', 'shop', 'waypoint', 'apply', '--for', 'all');
    const list = await meshctl(fake, '-A', 'waypoint', 'list');
    t.match(list.out, /shop +waypoint +yes +10\.96\.0\.9 +2 +shop/);
    const conditions = [{ type: 'Ready', status: 'True', reason: '', message: '' }];
    const labels = { 'gateway.networking.k8s.io/gateway-name': 'waypoint' };
    fake.objects.set('/api/v1/namespaces/shop/pods/w-1', {
      metadata: { name: 'w-1', labels },
      status: { conditions },
    });
    const status = await meshctl(fake, '-n', 'shop', 'waypoint', 'status');
    t.equal(status.code, 0);
    t.match(status.out, /shop\/waypoint +ready[^]*used by +shop; 2 routes\nprocess +w-1 +ready/);
    const json = await meshctl(fake, '-n', 'shop', 'waypoint', 'status', '-o', 'json');
    t.match(JSON.parse(json.out), { ready: true, processes: [{ name: 'w-1', ready: true }] });
    t.equal((await meshctl(fake, '-n', 'shop', 'waypoint', 'status', 'x')).code, 1);
    const printed = await meshctl(fake, '-n', 'shop', 'waypoint', 'generate', '--for', 'all');
    t.match(printed.out, /kind: Gateway[^]*waypoint-for: all[^]*protocol: HBONE/);
  },
);
