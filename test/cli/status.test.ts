/** `status`, `check` and the lists: what they show, what they find, and what they end with. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import t, { type Test } from 'tap';
import { parse } from 'yaml';

import { runProgram } from '../../src/cli/program.ts';
import type { Cluster } from '../../src/cli/cluster.ts';
import { createFakeCluster, unreachable } from './fake-cluster.ts';
import { createMesh, NOW } from './mesh-fixture.ts';
import { createRecordingIo } from './recording-io.ts';

/** Kept as files, so that a change of the contract is seen as one. GOLDEN=write writes them anew. */
function golden(t: Pick<Test, 'equal'>, name: string, text: string): void {
  const file = join(import.meta.dirname, 'golden', `${name}.json`);
  if (process.env['GOLDEN'] === 'write') writeFileSync(file, text);
  t.equal(text, readFileSync(file, 'utf8'), name);
}

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

t.test('status shows a healthy mesh on one screen', async (t) => {
  const { code, out, err } = await meshctl(createMesh(), 'status');
  t.equal(err, '');
  t.strictSame(out.split('\n'), [
    'nodemesh in nodemesh-system, context test',
    '',
    '√   controller     ready 2/2   leader nodemesh-controller-0   1.2.3',
    '√   node proxies   ready 2/2   configuration synced on 2/2    1.2.3',
    '‼   enrolment      2/2 pods    in shop',
    '√   certificates   2 held      first expires in 20h',
    '',
    'NODE     READY   VERSION   CONFIG   PODS   CONNS   CPU    MEM      LAG     RESTARTS   AGE',
    'node-a   yes     1.2.3     synced   1      7       0.25   130 MB   12 ms   0          5m',
    'node-b   yes     1.2.3     synced   1      7       0.25   130 MB   12 ms   0          5m',
    '',
    'last warnings',
    '  3m   DaemonSet nodemesh-node   FailedCreate   exceeded quota: critical-pods',
    '',
    '‼ 1 pod uses the network of its node and cannot be in the mesh  [MC032]',
    '    cause: shop/agent-1',
    '',
  ]);
  t.equal(code, 0, 'a warning is no failure');
});

t.test('a terminal that is too narrow cuts warnings, a pipe never does', async (t) => {
  const run = async (columns?: number): Promise<string> => {
    const io = createRecordingIo({ now: NOW, ...(columns !== undefined && { columns }) });
    await runProgram(['status'], { io, version: '1.2.3', connect: async () => createMesh() });
    return io.stdout();
  };
  t.match(await run(40), '  3m   DaemonSet nodemesh-node   FailedCr…\n'.slice(0, 38));
  t.notMatch(await run(40), 'critical-pods');
  t.match(await run(), 'critical-pods');
});

t.test('status as JSON is a contract', async (t) => {
  const { code, out } = await meshctl(createMesh(), 'status', '-o', 'json');
  t.equal(code, 0);
  golden(t, 'status', out);
});

t.test('the lists as JSON are contracts', async (t) => {
  for (const args of [
    ['proxy', 'list'],
    ['workload', 'list'],
    ['namespace', 'list'],
    ['version'],
  ]) {
    const { code, out } = await meshctl(createMesh(), ...args, '-o', 'json');
    t.equal(code, 0, args.join(' '));
    golden(t, args.join('-'), out);
  }
  golden(t, 'check', (await meshctl(createMesh(), 'check', '-o', 'json')).out);
});

t.test('the lists as kubectl would give them: yaml, name, wide, by label', async (t) => {
  const mesh = createMesh({ failure: 'Cannot set rules: nft: not found' });
  for (const name of ['proxy', 'workload', 'namespace', 'waypoint']) {
    const { out } = await meshctl(mesh, name, 'list', '-o', 'json');
    const yaml = await meshctl(mesh, name, 'list', '-o', 'yaml');
    t.strictSame(parse(yaml.out), JSON.parse(out), `${name}: the same contract`);
  }
  const { out: status } = await meshctl(mesh, 'status', '-o', 'yaml');
  t.match(parse(status), { apiVersion: 'meshctl/v1', kind: 'Status' });
  const names = async (...args: string[]): Promise<string> =>
    (await meshctl(mesh, ...args, '-o', 'name')).out;
  t.equal(await names('namespace', 'list'), 'namespace/shop\n');
  t.equal(await names('workload', 'list'), 'pod/agent-1\npod/cart-1\npod/web-1\n');
  t.equal(await names('proxy', 'list'), 'pod/nodemesh-node-a\npod/nodemesh-node-b\n');
  const [head, , cart] = (await meshctl(mesh, 'workload', 'list', '-o', 'wide')).out.split('\n');
  t.match(head, /CERT-EXPIRY +REASON$/);
  t.match(cart, /Cannot set rules: nft: not found$/);
  t.match((await meshctl(mesh, 'proxy', 'list', '-o', 'wide')).out, /POD +CERTS +WAITS FOR$/m);

  mesh.objects.set('/api/v1/nodes/node-b', { metadata: { name: 'node-b', labels: { zone: 'b' } } });
  t.equal(await names('proxy', 'list', '-l', 'zone=b'), 'pod/nodemesh-node-b\n');
  const cartPod = mesh.objects.get('/api/v1/namespaces/shop/pods/cart-1') as { metadata: object };
  Object.assign(cartPod.metadata, { labels: { app: 'cart' } });
  t.equal(await names('workload', 'list', '-l', 'app=cart'), 'pod/cart-1\n');
  t.equal(await names('namespace', 'list', '--selector', 'team=x'), '');
  const none = await meshctl(mesh, 'workload', 'list', '-l', 'app=x');
  t.match([none.code, none.out, none.err], [0, '', /Nothing here has labels "app=x"/]);
  t.equal((await meshctl(mesh, 'status', '-o', 'wide')).code, 64);
});

t.test('workload list tells who is in, who cannot be, and whose capture failed', async (t) => {
  const mesh = createMesh({ failure: 'Cannot set rules: nft: not found' });
  const { code, out, err } = await meshctl(mesh, 'workload', 'list');
  t.equal(code, 1);
  const rows = out.trimEnd().split('\n');
  t.match(rows[0], /^NAMESPACE +NAME +POD-IP +NODE +MESH +WAYPOINT +IDENTITY +CERT-EXPIRY$/);
  t.match(rows[1], /^shop +agent-1 .* host network /);
  t.match(rows[2], /^shop +cart-1 .* FAILED /);
  t.match(
    rows[3],
    /^shop +web-1 +10\.244\.1\.7 +node-a +yes +wp +spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web +20h$/,
  );
  t.match(err, /shop\/cart-1: Cannot set rules: nft: not found/);
  t.match((await meshctl(mesh, 'workload', 'list', '-n', 'other')).err, /Nothing in other/);
  t.notMatch((await meshctl(mesh, 'workload', 'list', '--no-headers')).out, /NAMESPACE/);
});

t.test('check finds each problem, says why and what to do, and ends with 1', async (t) => {
  const cases: [facts: Parameters<typeof createMesh>[0], text: RegExp][] = [
    [
      { controllersReady: 0 },
      /× controller ready 0\/2 +\[MC011\]\n +cause: running workloads go on/,
    ],
    [{ configAgeS: 94 }, /× node-b: has not heard from a controller for 94s +\[MC023\]/],
    [{ expiryMs: 60_000 }, /× node-a: the certificate of spiffe:\S+web expires in 60s +\[MC041\]/],
    [{ expiryMs: -60_000 }, /has expired/],
    [
      { failure: 'no nft' },
      /× shop\/cart-1 is not in the mesh.* +\[MC031\]\n +cause: no nft\n +try: +meshctl workload list/,
    ],
  ];
  for (const [facts, text] of cases) {
    const { code, out } = await meshctl(createMesh(facts), 'check');
    t.match(out, text);
    t.equal(code, 1, JSON.stringify(facts));
  }
});

t.test('check warns without failing', async (t) => {
  const text = 'path conditions need a waypoint';
  const { code, out } = await meshctl(createMesh({ configProblem: text }), 'check', '-o', 'short');
  t.equal(code, 0);
  t.match(out, /‼ AuthorizationPolicy\/shop\/only-web: path conditions need a waypoint +\[MC051\]/);
  t.notMatch(out, '√', 'short shows only what is not good');
  t.match(
    (await meshctl(createMesh({ controllersReady: 1 }), 'check')).out,
    /‼ controller ready 1\/2/,
  );
});

t.test('what cannot be found out is said and ends with 2, never counted as zero', async (t) => {
  const { code, out } = await meshctl(createMesh({ silentNodes: ['node-b'] }), 'status');
  t.equal(code, 2);
  t.match(out, /node-b +yes +1\.2\.3 +- +- +-/);
  t.match(
    out,
    /\? could not find out: what the proxy of node-b says +\[MC091\]\n +cause: .*no route/,
  );
  const list = await meshctl(createMesh({ silentNodes: ['node-b'] }), 'workload', 'list');
  t.equal(list.code, 2);
  t.match(list.err, /could not find out: what the proxy of node-b says/);
});

t.test('without a controller the nodes still say who is in the mesh', async (t) => {
  const { out } = await meshctl(createMesh({ controllerSilent: true }), 'workload', 'list');
  t.match(out, /shop +web-1 .* yes /);
});

t.test('an empty cluster: everything is missing, and the way to install is shown', async (t) => {
  const { code, out } = await meshctl(createFakeCluster(), 'status');
  t.equal(code, 1);
  t.match(out, /× +controller +not installed/);
  t.match(out, /× the namespace nodemesh-system, the controller, the node proxies are not there/);
  t.match(out, /try: +meshctl install \| kubectl apply -f -/);
});

t.test(
  'an API server that does not answer ends with 2 and says what to look at (MESH_API_UNREACHABLE)',
  async (t) => {
    const cluster: Cluster = {
      ...createFakeCluster(),
      get: async () => Promise.reject(unreachable()),
    };
    for (const args of [
      ['status'],
      ['check'],
      ['proxy', 'list'],
      ['namespace', 'list'],
      ['version'],
    ]) {
      const { code, err } = await meshctl(cluster, ...args);
      t.equal(code, 2, args.join(' '));
      t.match(err, /^error: .*ECONNREFUSED\ntry: +kubectl cluster-info/);
    }
    t.equal(
      (await meshctl(cluster, 'version', '--client')).out,
      '1.2.3\n',
      'which needs no cluster',
    );
  },
);

t.test('check --pre tells a cluster that will do from one that will not', async (t) => {
  const node = (
    kernelVersion: string,
    architecture = 'amd64',
    operatingSystem = 'linux',
  ): Record<string, unknown> => ({
    metadata: { name: `n-${kernelVersion}-${architecture}` },
    status: { nodeInfo: { kernelVersion, architecture, operatingSystem } },
  });
  const good = createFakeCluster({
    objects: { '/version': { gitVersion: 'v1.34.1' }, '/api/v1/nodes/a': node('6.1.0') },
  });
  const fine = await meshctl(good, 'check', '--pre');
  t.equal(fine.code, 0, fine.out);
  t.match(fine.out, /no problems in \d+ checks/);
  const bad = createFakeCluster({
    objects: {
      '/version': { gitVersion: 'v1.28.0' },
      '/api/v1/nodes/a': node('5.10.0'),
      '/api/v1/nodes/b': node('6.1.0', 'riscv64'),
      '/api/v1/nodes/c': node('10.0', 'amd64', 'windows'),
      '/apis/apps/v1/namespaces/istio-system/daemonsets/ztunnel': { metadata: { name: 'ztunnel' } },
    },
  });
  const refusing: Cluster = { ...bad, create: async () => ({ status: { allowed: false } }) };
  const { code, out } = await meshctl(refusing, 'check', '--pre');
  t.equal(code, 1);
  t.match(out, /× Kubernetes is v1\.28\.0/);
  t.match(out, /× you may not create namespaces, customresourcedefinitions/);
  t.match(out, /× n-5\.10\.0-amd64: its proxy will not start/);
  t.match(out, /there is no image for riscv64/);
  t.match(out, /‼ n-10\.0-amd64: will have no proxy/);
  t.match(out, /‼ another mesh is here/);
});
