/** `meshctl install`: what it prints, what its objects may never have, and what it says to mistakes. */

import t from 'tap';
import { parseAllDocuments } from 'yaml';

import type { KubeObject } from '../../src/cli/install/kube-object.ts';
import { runProgram } from '../../src/cli/program.ts';
import { createRecordingIo, type RecordingIo } from './recording-io.ts';

interface Run {
  readonly code: number;
  readonly io: RecordingIo;
}

async function meshctl(
  args: readonly string[],
  files: Readonly<Record<string, string>> = {},
): Promise<Run> {
  const io = createRecordingIo({ files });
  return { code: await runProgram(args, { io, version: '1.2.3' }), io };
}

async function objects(...args: string[]): Promise<Map<string, KubeObject>> {
  const { code, io } = await meshctl(['install', ...args]);
  t.equal(code, 0, io.stderr());
  const all = parseAllDocuments(io.stdout()).map((document) => document.toJS() as KubeObject);
  return new Map(all.map((object) => [`${object.kind}/${object.metadata.name}`, object]));
}

/** Every value under `value`, with its path. */
function* walk(value: unknown, path = ''): Generator<[path: string, value: unknown]> {
  yield [path, value];
  if (typeof value !== 'object' || value === null) return;
  for (const [key, inner] of Object.entries(value)) yield* walk(inner, `${path}.${key}`);
}

function at(object: KubeObject | undefined, path: string): unknown {
  return [...walk(object)].find(([found]) => found === path)?.[1];
}

t.test('install prints every part, each object once and labelled as ours', async (t) => {
  const { io } = await meshctl(['install']);
  const all = parseAllDocuments(io.stdout()).map((document) => document.toJS() as KubeObject);
  const names = all.map(
    ({ kind, metadata }) => `${kind}/${metadata.namespace ?? ''}/${metadata.name}`,
  );
  t.equal(new Set(names).size, names.length);
  t.equal(names[0], 'Namespace//nodemesh-system', 'what others live in comes first');
  for (const wanted of [
    'Deployment',
    'DaemonSet',
    'Service',
    'PodDisruptionBudget',
    'NetworkPolicy',
  ]) {
    t.ok(
      all.some(({ kind }) => kind === wanted),
      wanted,
    );
  }
  t.notOk(
    all.some(({ kind }) => /Webhook/.test(kind)),
    'no webhooks',
  );
  for (const { kind, metadata } of all) {
    t.equal(metadata.labels?.['app.kubernetes.io/part-of'], 'nodemesh', `${kind}/${metadata.name}`);
  }
});

t.test('no role has a wildcard, and the node proxy has no role at all (T08)', async (t) => {
  const all = await objects();
  const roles = [...all.values()].filter(({ kind }) => kind.endsWith('Role'));
  t.ok(roles.length >= 4);
  for (const role of roles) {
    t.notOk(
      [...walk(role['rules'])].some(([, value]) => value === '*'),
      role.metadata.name,
    );
  }
  const bindings = [...all.values()].filter(({ kind }) => kind.endsWith('RoleBinding'));
  t.ok(bindings.length >= 2);
  for (const [path, value] of walk(bindings)) t.not(value, 'nodemesh-node', path);
  t.equal(at(all.get('ServiceAccount/nodemesh-node'), '.automountServiceAccountToken'), false);
  const daemonSet = all.get('DaemonSet/nodemesh-node');
  t.equal(at(daemonSet, '.spec.template.spec.automountServiceAccountToken'), false);
  const audiences = [...walk(daemonSet)].filter(([path]) => path.endsWith('.audience'));
  t.strictSame(
    audiences.map(([, value]) => value),
    ['nodemesh'],
  );
});

t.test('the CA Secret is readable by the controller alone, and by name (T126)', async (t) => {
  const all = await objects();
  for (const role of [...all.values()].filter(({ kind }) => kind.endsWith('Role'))) {
    for (const rule of (role['rules'] ?? []) as Record<string, readonly string[]>[]) {
      if (!(rule['resources'] ?? []).includes('secrets')) continue;
      t.equal(role.metadata.namespace, 'nodemesh-system');
      t.equal(role.metadata.name, 'nodemesh-controller');
      const unnamed = rule['resourceNames'] === undefined;
      t.ok(!unnamed || rule['verbs']?.join() === 'create', 'without a name only create');
    }
  }
});

t.test('pods have what their tasks need and nothing more', async (t) => {
  const all = await objects();
  const node = all.get('DaemonSet/nodemesh-node');
  const inNode = '.spec.template.spec.containers.0.securityContext';
  t.strictSame(at(node, `${inNode}.capabilities`), {
    drop: ['ALL'],
    add: ['NET_ADMIN', 'NET_RAW', 'SYS_ADMIN', 'SYS_PTRACE'],
  });
  t.equal(at(node, `${inNode}.privileged`), false);
  t.equal(at(node, `${inNode}.readOnlyRootFilesystem`), true);
  t.equal(at(node, '.spec.template.spec.hostPID'), true);
  t.equal(at(node, '.spec.template.spec.hostNetwork'), undefined);
  const volumes = at(node, '.spec.template.spec.volumes') as { name: string; emptyDir?: object }[];
  const keys = volumes.find(({ name }) => name === 'keys');
  t.match(keys?.emptyDir, { medium: 'Memory' }, 'keys never touch a disk');
  const controller = all.get('Deployment/nodemesh-controller');
  const inController = '.spec.template.spec.containers.0.securityContext';
  t.strictSame(at(controller, `${inController}.capabilities`), { drop: ['ALL'] });
  t.equal(at(controller, `${inController}.readOnlyRootFilesystem`), true);
  t.equal(at(controller, '.spec.template.spec.securityContext.runAsNonRoot'), true);
});

t.test('a roll-out starts the successor before it stops the predecessor', async (t) => {
  const node = (await objects('--set', 'node.drainSeconds=60')).get('DaemonSet/nodemesh-node');
  t.strictSame(at(node, '.spec.updateStrategy.rollingUpdate'), { maxSurge: 1, maxUnavailable: 0 });
  t.equal(at(node, '.spec.template.spec.terminationGracePeriodSeconds'), 90, 'after the drain');
});

t.test('values come from files and settings, later ones win', async (t) => {
  const files = {
    'a.yaml': 'controller: { replicas: 3 }\nimage: { tag: a }',
    'b.yaml': 'image: { tag: b }',
  };
  const args = [
    'install',
    '--ha',
    '-f',
    'a.yaml',
    '-f',
    'b.yaml',
    '--set',
    'image.repository=r/n',
    '-o',
    'json',
  ];
  const { code, io } = await meshctl(args, files);
  t.equal(code, 0, io.stderr());
  const { items } = JSON.parse(io.stdout()) as { items: KubeObject[] };
  const controller = items.find(({ kind }) => kind === 'Deployment');
  t.equal(at(controller, '.spec.replicas'), 3);
  t.equal(at(controller, '.spec.template.spec.containers.0.image'), 'r/n:b');
  const ha = await objects('--ha');
  t.equal(at(ha.get('Deployment/nodemesh-controller'), '.spec.replicas'), 2);
  const fixed = await objects('--set', 'controller.clusterIP=10.96.0.50');
  const env = at(fixed.get('DaemonSet/nodemesh-node'), '.spec.template.spec.containers.0.env');
  t.match(env, [{}, { name: 'NODEMESH_CONTROLLER', value: '10.96.0.50:15012' }]);
});

t.test('CRDs alone, or all but them', async (t) => {
  const base = [...(await objects('--crds')).values()].map(({ kind }) => kind);
  t.strictSame([...new Set(base)], ['Namespace', 'CustomResourceDefinition']);
  const rest = [...(await objects('--skip-crds')).values()].map(({ kind }) => kind);
  t.notOk(rest.includes('Namespace') || rest.includes('CustomResourceDefinition'));
});

t.test('mistakes end with 64 and say what is wrong (MESH_USAGE)', async (t) => {
  const cases: [args: string[], text: RegExp][] = [
    [
      ['install', '--set', 'controller.replica=2'],
      /"controller\.replica": there is none of this name; known are replicas/,
    ],
    [
      ['install', '--set', 'controller.replicas=two'],
      /"controller\.replicas": it must be a number, not a string/,
    ],
    [['install', '--set', 'controller.replicas=0'], /a whole number from 1/],
    [['install', '--set', 'node.workers=65'], /a whole number from 1 to 64/],
    [['install', '--set', 'node.drainSeconds=-1'], /a whole number of seconds/],
    [['install', '--set', 'logLevel=loud'], /debug, info, warn or error/],
    [['install', '--set', 'image'], /write --set NAME=VALUE/],
    [['install', '-f', 'missing.yaml'], /Cannot read values from "missing\.yaml"/],
    [['install', '-f', 'list.yaml'], /values must be an object, not a list/],
    [['install', '-f', 'broken.yaml'], /Cannot read values from "broken\.yaml"/],
    [['install', '--nonsense'], /unknown option '--nonsense'/],
    [['install', '--crds', '--skip-crds'], /cannot be used with/],
    [['nonsense'], /unknown command 'nonsense'/],
    [['--as-group', 'ops', 'status'], /--as-group needs --as/],
    [['workload', 'list', '-o', 'short'], /Allowed choices are table, wide, json, yaml, name/],
  ];
  for (const [args, text] of cases) {
    const { code, io } = await meshctl(args, { 'list.yaml': '[]', 'broken.yaml': 'a: [' });
    t.equal(code, 64, args.join(' '));
    t.match(io.stderr(), text);
    t.equal(io.stdout(), '', 'nothing that could be piped into kubectl');
  }
});

t.test('help is data and good', async (t) => {
  const { code, io } = await meshctl(['install', '--help']);
  t.equal(code, 0);
  t.match(io.stdout(), /meshctl install \| kubectl apply -f -/);
});
