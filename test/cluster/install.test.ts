/** What is installed, on a real API server: it refuses what the CRDs and admission policies refuse, and nobody has rights to spare. */

import t from 'tap';

import { reasonToSkipCluster, useCluster, type TestCluster } from './harness.ts';
import { appObjects } from './manifests.ts';
import { meshctl, SYSTEM } from './mesh.ts';

const OWN = 'nodemesh.dev/v1alpha1';
const skip = reasonToSkipCluster();

interface Refusal {
  readonly what: string;
  readonly object: Record<string, unknown>;
  readonly says: RegExp;
}

function own(
  kind: string,
  spec: unknown,
  name = 'x',
  namespace = 'default',
): Record<string, unknown> {
  return { apiVersion: OWN, kind, metadata: { name, namespace }, spec };
}

const source = { principals: ['cluster.local/ns/a/sa/b'] };
const REFUSALS: readonly Refusal[] = [
  {
    what: 'a MeshConfig of another name',
    object: own('MeshConfig', {}, 'other', SYSTEM),
    says: /only the MeshConfig named default is read, not other/,
  },
  {
    what: 'ports without a selector',
    object: own('PeerAuthentication', { portLevelMtls: { 80: { mode: 'STRICT' } } }),
    says: /portLevelMtls needs a selector with labels/,
  },
  {
    what: 'a port that is none',
    object: own('PeerAuthentication', {
      selector: { matchLabels: { a: 'b' } },
      portLevelMtls: { http: { mode: 'STRICT' } },
    }),
    says: /portLevelMtls is by port number/,
  },
  {
    what: 'a mode that is none',
    object: own('PeerAuthentication', { mtls: { mode: 'strict' } }),
    says: /Unsupported value: "strict"/,
  },
  {
    what: 'a misspelt field, which would be no condition at all',
    object: own('AuthorizationPolicy', { rules: [{ from: [{ source: { principal: ['x'] } }] }] }),
    says: /unknown field "spec\.rules\[0\]\.from\[0\]\.source\.principal"/,
  },
  {
    what: 'a selector and targets',
    object: own('AuthorizationPolicy', {
      selector: { matchLabels: { a: 'b' } },
      targetRefs: [{ kind: 'Service', name: 'x' }],
    }),
    says: /selector cannot be combined with targetRefs/,
  },
  {
    what: 'an empty list, which may mean any or none',
    object: own('AuthorizationPolicy', { rules: [{ from: [{ source }], to: [] }] }),
    says: /should have at least 1 items/,
  },
  {
    what: 'a source without a field',
    object: own('AuthorizationPolicy', { rules: [{ from: [{ source: {} }] }] }),
    says: /should have at least 1 properties/,
  },
  {
    what: 'a star in the middle',
    object: own('AuthorizationPolicy', {
      rules: [{ from: [{ source: { namespaces: ['a*b'] } }] }],
    }),
    says: /should match/,
  },
];

t.test('the API server refuses wrong objects with words that help', { skip }, async (t) => {
  const cluster = useCluster(t);
  await cluster.mesh();
  for (const { what, object, says } of REFUSALS) {
    const args = ['apply', '--dry-run=server', '-f', '-'];
    const done = await cluster.access.kubectl(args, { input: JSON.stringify(object) });
    t.equal(done.code, 1, what);
    t.match(done.err, says, what);
  }
  const fine = own('AuthorizationPolicy', {
    action: 'DENY',
    rules: [{ from: [{ source }], to: [{ operation: { ports: ['80', 90] } }] }],
  });
  const taken = await cluster.access.kubectl(['apply', '--dry-run=server', '-f', '-'], {
    input: JSON.stringify(fine),
  });
  t.equal(taken.code, 0, taken.err);
});

t.test(
  'what the mesh needs in order to run cannot be enrolled; other values are no wish',
  { skip },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const label = (namespace: string, value: string): Promise<{ code: number; err: string }> =>
      cluster.access.kubectl([
        'label',
        '--dry-run=server',
        '--overwrite',
        'namespace',
        namespace,
        `nodemesh.dev/mesh=${value}`,
      ]);
    for (const namespace of ['kube-system', SYSTEM]) {
      const { code, err } = await label(namespace, 'enabled');
      t.equal(code, 1);
      t.match(err, new RegExp(`namespace ${namespace} cannot be in the mesh`));
      t.equal((await label(namespace, 'disabled')).code, 0);
    }
    const { code, err } = await label('default', 'yes');
    t.equal(code, 1);
    t.match(err, /must be enabled or disabled, not 'yes'/);
    t.equal((await label('default', 'enabled')).code, 0);
    const args = ['run', 'x', '--image=x', '--dry-run=server', '-l', 'nodemesh.dev/mesh=on'];
    t.match((await cluster.access.kubectl(args)).err, /must be enabled or disabled, not 'on'/);
  },
);

t.test(
  'node proxies have no right at the API, the controller no more than its rules (T08)',
  { skip },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const can = async (account: string, ...question: string[]): Promise<boolean> => {
      const as = `--as=system:serviceaccount:${SYSTEM}:${account}`;
      return (
        (await cluster.access.kubectl(['auth', 'can-i', as, ...question])).out.trim() === 'yes'
      );
    };
    for (const question of [
      ['get', 'pods'],
      ['list', 'secrets', '-A'],
      ['create', 'tokenreviews'],
      ['get', 'nodes'],
    ]) {
      t.notOk(await can('nodemesh-node', ...question), question.join(' '));
    }
    t.ok(await can('nodemesh-controller', 'list', 'pods', '-A'));
    t.ok(await can('nodemesh-controller', 'get', 'secrets/nodemesh-ca', '-n', SYSTEM));
    for (const question of [
      ['list', 'secrets', '-A'],
      ['get', 'secrets/other', '-n', SYSTEM],
      ['get', 'secrets', '-n', 'default'],
      ['delete', 'pods', '-A'],
      ['create', 'clusterroles'],
    ]) {
      t.notOk(await can('nodemesh-controller', ...question), question.join(' '));
    }
  },
);

t.test(
  'the controller passes restricted; a node proxy has its four capabilities alone',
  { skip },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    const level = 'pod-security.kubernetes.io/enforce=restricted';
    const label = ['label', '--dry-run=server', '--overwrite', 'namespace', SYSTEM, level];
    const { err } = await cluster.access.kubectl(label);
    t.match(err, /nodemesh-node-/, 'the control: who does not pass is named');
    t.notMatch(err, /nodemesh-controller-/);
    const read = `process.stdout.write(require('fs').readFileSync('/proc/self/status', 'utf8'))`;
    const node = ['/usr/local/bin/node', '-e', read];
    const status = await cluster.kubectl('-n', SYSTEM, 'exec', 'ds/nodemesh-node', '--', ...node);
    // NET_ADMIN 12, NET_RAW 13, SYS_PTRACE 19, SYS_ADMIN 21.
    const four = ((1n << 12n) | (1n << 13n) | (1n << 19n) | (1n << 21n))
      .toString(16)
      .padStart(16, '0');
    for (const set of ['CapEff', 'CapBnd']) t.match(status, `${set}:\t${four}\n`);
    t.match(status, /NoNewPrivs:\t1\n/);
    t.match(status, /Seccomp:\t2\n/, 'filtered');
  },
);

interface Report {
  readonly items?: readonly Record<string, unknown>[];
  readonly controller?: { readonly ready: number };
  readonly nodeProxies?: { readonly ready: number };
  readonly success?: boolean;
}

async function json(cluster: TestCluster, ...args: string[]): Promise<Report> {
  const done = await meshctl(cluster.access, ...args, '-o', 'json');
  return JSON.parse(done.out) as Report;
}

t.test(
  'meshctl puts a namespace in and takes it out, and its lists say so',
  { skip },
  async (t) => {
    const cluster = useCluster(t);
    await cluster.mesh();
    t.equal((await meshctl(cluster.access, 'check', '--pre')).code, 0);
    const namespace = await cluster.namespace('meshctl');
    await cluster.apply(appObjects(namespace, 'web', { replicas: 2 }));
    await cluster.rolledOut(namespace, 'deployment/web');
    const before = await cluster.pods(namespace);
    const added = await meshctl(cluster.access, 'namespace', 'add', namespace, '--timeout', '60s');
    t.equal(added.code, 0, added.err);
    const workloads = (await json(cluster, 'workload', 'list', '-n', namespace)).items ?? [];
    t.equal(workloads.length, 2);
    for (const workload of workloads) {
      const identity = `spiffe://cluster.local/ns/${namespace}/sa/web`;
      t.match(workload, { state: 'in', identity, certificateNotAfter: /^\d{4}-/ });
    }
    t.match(await json(cluster, 'status'), { controller: { ready: 1 }, nodeProxies: { ready: 2 } });
    t.match(await json(cluster, 'proxy', 'list'), {
      items: [{ ready: true, configAgeSeconds: 0 }],
    });
    const checked = await meshctl(cluster.access, 'check');
    t.equal(checked.code, 0, checked.out);
    const removed = await meshctl(
      cluster.access,
      'namespace',
      'remove',
      namespace,
      '--timeout',
      '60s',
    );
    t.equal(removed.code, 0, removed.err);
    t.strictSame((await json(cluster, 'workload', 'list', '-n', namespace)).items, []);
    const uids = (pods: readonly { uid: string }[]): string[] =>
      pods.map(({ uid }) => uid).toSorted();
    t.strictSame(uids(await cluster.pods(namespace)), uids(before), 'no pod was restarted');
  },
);
