/** Commands that change a cluster: in which order, what they refuse, and what they say when it does not come true. */

import t from 'tap';

import { MeshError } from '../../src/base/errors.ts';
import type { Cluster } from '../../src/cli/cluster.ts';
import { runProgram } from '../../src/cli/program.ts';
import { createFakeCluster } from './fake-cluster.ts';
import { createMesh, NOW } from './mesh-fixture.ts';
import { createRecordingIo } from './recording-io.ts';

interface Run {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function meshctl(cluster: Cluster, ...args: string[]): Promise<Run> {
  const io = createRecordingIo({ now: NOW });
  const code = await runProgram(args, { io, version: '1.2.3', connect: async () => cluster });
  return { code, out: io.stdout(), err: io.stderr() };
}

const SYSTEM = 'nodemesh-system';
const CLEANER = `/apis/apps/v1/namespaces/${SYSTEM}/daemonsets/nodemesh-clean`;
const DAEMON_SET = `/apis/apps/v1/namespaces/${SYSTEM}/daemonsets/nodemesh-node`;

t.test('namespace add labels and waits until every pod is in', async (t) => {
  const mesh = createMesh();
  const { code, out, err } = await meshctl(mesh, 'namespace', 'add', 'shop');
  t.equal(code, 0);
  t.strictSame(mesh.changes, ['merge /api/v1/namespaces/shop']);
  t.match(out, /namespace shop is enrolled/);
  t.match(err, /in the mesh: shop 2\/2/);
});

t.test('namespace add says so when a pod does not get in', async (t) => {
  const mesh = createMesh({ failure: 'no nft' });
  const { code, err } = await meshctl(mesh, 'ns', 'add', 'shop', '--timeout', '0s');
  t.equal(code, 1);
  t.match(err, /not every pod is in the mesh yet; try: meshctl workload list/);
});

t.test('namespace add and remove refuse what cannot be, before anything is changed', async (t) => {
  const mesh = createMesh();
  for (const verb of ['add', 'remove']) {
    const own = await meshctl(mesh, 'namespace', verb, 'shop', SYSTEM);
    t.equal(own.code, 64);
    t.match(own.err, /"nodemesh-system": the mesh needs it in order to run/);
    const none = await meshctl(mesh, 'namespace', verb, 'nowhere');
    t.equal(none.code, 64);
    t.match(none.err, /there is none of this name in context test/);
  }
  t.strictSame(mesh.changes, []);
  const dry = await meshctl(mesh, 'namespace', 'add', 'default', '--dry-run');
  t.match(dry.out, /default would be labelled nodemesh\.dev\/mesh=enabled/);
  t.strictSame(mesh.changes, []);
});

t.test('namespace remove takes the label away', async (t) => {
  const mesh = createMesh();
  const { code } = await meshctl(mesh, 'namespace', 'remove', 'shop', '--no-wait');
  t.equal(code, 0);
  t.strictSame(mesh.objects.get('/api/v1/namespaces/shop'), {
    metadata: { name: 'shop', labels: { 'nodemesh.dev/waypoint': 'wp' } },
  });
});

t.test('install --apply applies everything, the namespace first, and waits', async (t) => {
  const cluster = createFakeCluster();
  cluster.onChange = (change) => {
    if (!change.endsWith('/nodemesh-node')) return;
    Object.assign(cluster.objects.get(DAEMON_SET) ?? {}, {
      status: { desiredNumberScheduled: 2, numberReady: 2, updatedNumberScheduled: 2 },
    });
    const controller = `/apis/apps/v1/namespaces/${SYSTEM}/deployments/nodemesh-controller`;
    Object.assign(cluster.objects.get(controller) ?? {}, {
      status: { readyReplicas: 1, updatedReplicas: 1 },
    });
  };
  const { code, out, err } = await meshctl(cluster, 'install', '--apply', '--wait');
  t.equal(code, 0, err);
  t.equal(cluster.changes[0], `apply /api/v1/namespaces/${SYSTEM}`);
  t.ok(
    cluster.changes.includes(
      'apply /apis/policy/v1/namespaces/nodemesh-system/poddisruptionbudgets/nodemesh-controller',
    ),
  );
  t.match(out, /DaemonSet nodemesh-node is applied/);
  t.match(err, /controller ready 1\/1, node proxies ready 2\/2/);
});

t.test('install --apply --wait says so when it does not come up', async (t) => {
  const { code, err } = await meshctl(
    createFakeCluster(),
    'install',
    '--apply',
    '--wait',
    '--timeout',
    '0s',
  );
  t.equal(code, 1);
  t.match(err, /not everything is ready in time\ntry: +meshctl check/);
});

t.test(
  'install --apply names the object that was refused and ends with 2 (MESH_API_REFUSED)',
  async (t) => {
    const refused = new MeshError('MESH_API_REFUSED', 'Cannot PATCH: 403 forbidden');
    const cluster: Cluster = { ...createFakeCluster(), apply: async () => Promise.reject(refused) };
    const { code, err } = await meshctl(cluster, 'install', '--apply');
    t.equal(code, 2);
    t.match(
      err,
      /Cannot apply Namespace "nodemesh-system": .*403 forbidden.*\ntry: +kubectl auth can-i --list/,
    );
  },
);

t.test('uninstall refuses while namespaces are enrolled, and changes nothing', async (t) => {
  const mesh = createMesh();
  const { code, err } = await meshctl(mesh, 'uninstall');
  t.equal(code, 1);
  t.match(err, /the mesh is in use: shop\n/);
  t.match(err, /try: +meshctl namespace remove shop/);
  t.strictSame(mesh.changes, []);
  const dry = await meshctl(mesh, 'uninstall', '--force', '--dry-run');
  t.equal(dry.code, 0);
  t.match(dry.out, /^shop would lose the labels of ours\nevery node would be cleaned/);
  t.strictSame(mesh.changes, []);
});

/** A mesh whose Kubernetes does what it is told: pods end with their DaemonSet, the cleaner becomes ready. */
function obedientMesh(): ReturnType<typeof createMesh> {
  const mesh = createMesh({ controllerSilent: true });
  mesh.onChange = (change) => {
    if (change === `remove ${DAEMON_SET}`) {
      for (const path of mesh.objects.keys())
        if (path.includes('/pods/nodemesh-node')) mesh.objects.delete(path);
    }
    if (change === `apply ${CLEANER}`) {
      const status = { observedGeneration: 1, desiredNumberScheduled: 2, numberReady: 2 };
      Object.assign(mesh.objects.get(CLEANER) ?? {}, { status });
    }
  };
  return mesh;
}

t.test(
  'uninstall --force: out of the mesh, proxies away, nodes cleaned, then the rest',
  async (t) => {
    const mesh = obedientMesh();
    let cleaner: unknown;
    const act = mesh.onChange;
    mesh.onChange = (change) => {
      if (change === `apply ${CLEANER}`) cleaner = structuredClone(mesh.objects.get(CLEANER));
      act(change);
    };
    const { code, err } = await meshctl(mesh, 'uninstall', '--force');
    t.equal(code, 0, err);
    const order = [
      'merge /api/v1/namespaces/shop',
      `remove ${DAEMON_SET}`,
      `apply ${CLEANER}`,
      `remove ${CLEANER}`,
      `remove /api/v1/namespaces/${SYSTEM}`,
    ];
    t.strictSame(
      mesh.changes.filter((change) => order.includes(change)),
      order,
    );
    t.equal(
      mesh.changes.at(-1),
      `remove /api/v1/namespaces/${SYSTEM}`,
      'the namespace is the last',
    );
    t.match(cleaner, {
      spec: {
        template: {
          spec: {
            hostPID: true,
            containers: [
              {
                name: 'clean',
                args: ['clean'],
                image: 'nodemesh:1.2.3',
                volumeMounts: [{ name: 'run' }],
              },
            ],
            volumes: [{ name: 'run' }],
          },
        },
      },
    });
    t.match(err, /the CRDs and what users wrote of their kinds stay/);
  },
);

t.test(
  'uninstall counts waypoints as use, and takes them and every label of ours away',
  async (t) => {
    const mesh = obedientMesh();
    const gateway = (name: string, gatewayClassName: string): void => {
      const path = `/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/${name}`;
      mesh.objects.set(path, { metadata: { namespace: 'shop', name }, spec: { gatewayClassName } });
    };
    gateway('wp', 'nodemesh-waypoint');
    gateway('edge', 'somebody-else');
    const service = '/api/v1/namespaces/shop/services/cart';
    mesh.objects.set(service, {
      metadata: {
        namespace: 'shop',
        name: 'cart',
        labels: { 'nodemesh.dev/waypoint': 'wp', app: 'cart' },
      },
    });
    const optedOut = '/api/v1/namespaces/quiet';
    mesh.objects.set(optedOut, {
      metadata: { name: 'quiet', labels: { 'nodemesh.dev/mesh': 'disabled' } },
    });
    t.match((await meshctl(mesh, 'uninstall')).err, /in use: shop, waypoint shop\/wp\n/);
    const { code, out } = await meshctl(mesh, 'uninstall', '--force');
    t.equal(code, 0);
    t.match(out, /waypoint shop\/wp is deleted/);
    const names = [...mesh.objects.keys()].filter((path) => path.includes('/gateways/'));
    t.strictSame(names, ['/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/edge']);
    t.match(mesh.objects.get(service), { metadata: { labels: { app: 'cart' } } });
    for (const path of [service, optedOut, '/api/v1/namespaces/shop']) {
      t.notMatch(JSON.stringify(mesh.objects.get(path)), 'nodemesh.dev');
    }
  },
);

t.test('uninstall --purge-crds removes the CRDs, too', async (t) => {
  const mesh = obedientMesh();
  const crd = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/meshconfigs.nodemesh.dev';
  mesh.objects.set(crd, { metadata: { name: 'meshconfigs.nodemesh.dev' } });
  await meshctl(mesh, 'uninstall', '--force');
  t.ok(mesh.objects.has(crd));
  await meshctl(mesh, 'uninstall', '--force', '--purge-crds');
  t.notOk(mesh.objects.has(crd));
});

t.test(
  'uninstall stops where it is when a node cannot be cleaned, and goes on from there',
  async (t) => {
    const mesh = obedientMesh();
    const act = mesh.onChange;
    mesh.onChange = (change) => {
      if (change !== `apply ${CLEANER}`) act(change);
    };
    const { code, err } = await meshctl(mesh, 'uninstall', '--force', '--timeout', '0s');
    t.equal(code, 1);
    t.match(err, /not every node could be cleaned in time/);
    t.ok(mesh.objects.has(`/api/v1/namespaces/${SYSTEM}`), 'nothing else is touched');
    mesh.onChange = act;
    t.equal((await meshctl(mesh, 'uninstall', '--timeout', '0s')).code, 0);
  },
);
