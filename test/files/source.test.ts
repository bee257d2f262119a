/** The folder source with real files: what it declares, how it reloads, what a mistake costs. */

import { mkdir, mkdtemp, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import t, { type Test } from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createNullRegistry } from '../../src/base/metrics.ts';
import { formatObjectKey, objectKey, type ObjectChange } from '../../src/controlplane/objects.ts';
import { FILE_BYTES_MAX } from '../../src/files/folder.ts';
import { createFilesSource, type FilesSource } from '../../src/files/source.ts';

function manifest(kind: string, name: string, body = ''): string {
  return `apiVersion: v1\nkind: ${kind}\nmetadata:\n  name: ${name}\n${body}`;
}

function pod(name: string, ip: string): string {
  return manifest('Pod', name, `status:\n  podIP: ${ip}\n`);
}

function policy(name: string, spec: string): string {
  const head = 'apiVersion: nodemesh.dev/v1alpha1\nkind: AuthorizationPolicy\n';
  return `${head}metadata:\n  name: ${name}\nspec: ${spec}\n`;
}

interface Folder {
  readonly path: string;
  readonly source: FilesSource;
  /** What changed since the last look, sorted. */
  readonly changes: () => string[];
  readonly write: (name: string, text: string) => Promise<void>;
  readonly errors: () => string[];
}

async function openFolder(
  t: Test,
  files: Readonly<Record<string, string>> = {},
  options: { start?: boolean; rescanPeriodMs?: number } = {},
): Promise<Folder> {
  const path = await mkdtemp(join(tmpdir(), 'nodemesh-files-'));
  for (const [name, text] of Object.entries(files)) await writeFile(join(path, name), text);
  let seen: string[] = [];
  const note = (change: ObjectChange): string =>
    change.type === 'put'
      ? `+${objectKey(change.object)}`
      : `-${formatObjectKey(change.kind, change.namespace, change.name)}`;
  const source = createFilesSource({
    path,
    clock: createSystemClock(),
    logger: createNullLogger(),
    registry: createNullRegistry(),
    onChanges: (changes) => seen.push(...changes.map(note)),
    quietMs: 10,
    // Tests that look for a change by themselves must not be helped.
    rescanPeriodMs: options.rescanPeriodMs ?? 3_600_000,
  });
  t.teardown(async () => {
    await source[Symbol.asyncDispose]();
    await rm(path, { recursive: true, force: true });
  });
  if (options.start !== false) await source.start();
  return {
    path,
    source,
    changes() {
      const now = seen.toSorted();
      seen = [];
      return now;
    },
    async write(name, text) {
      await writeFile(join(path, `.${name}.new`), text);
      await rename(join(path, `.${name}.new`), join(path, name));
    },
    errors: () =>
      source
        .report()
        .manifests.filter(({ state }) => state === 'error')
        .map(({ file, line, key, message }) => `${file}:${line} ${key} ${message}`),
  };
}

async function until(condition: () => boolean): Promise<void> {
  const endMs = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error('never happened');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

t.test('reads every manifest file, several documents each, lists and JSON', async (t) => {
  const list = {
    apiVersion: 'v1',
    kind: 'List',
    items: [{ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'l' } }],
  };
  const { changes, source } = await openFolder(t, {
    'a.yaml': `${manifest('Namespace', 'shop')}---\n${pod('a', '10.0.0.1')}`,
    'b.yml': `apiVersion: v1\nkind: List\nitems:\n  - { apiVersion: v1, kind: Pod, metadata: { name: y } }\n`,
    'c.json': JSON.stringify(list),
    'notes.txt': 'kind: Pod',
    '.hidden.yaml': pod('hidden', '10.0.0.9'),
    'd.yaml': '# nothing\n',
  });
  t.same(changes(), ['+Namespace//shop', '+Pod/default/a', '+Pod/default/l', '+Pod/default/y']);
  t.equal(source.report().objectCount, 4);
  t.same(
    source.report().manifests.map(({ state }) => state),
    ['ok', 'ok', 'ok', 'ok'],
  );
});

t.test('unknown kinds are warnings, mistakes are errors with file, line and field', async (t) => {
  const { source, changes } = await openFolder(t, {
    'a.yaml': [
      'apiVersion: apps/v1',
      'kind: Deployment',
      '---',
      'apiVersion: nodemesh.dev/v1alpha1',
      'kind: AuthorizationPolicy',
      'metadata:',
      '  name: p',
      'spec:',
      '  rules:',
      '    - from:',
      '        - source:',
      '            principals: ["a*b"]',
      '      form: []',
    ].join('\n'),
    'b.json': '{ "apiVersion": "v1",\n "kind": "Pod",\n "metadata": { "name": "A" } }',
  });
  t.same(changes(), ['+AuthorizationPolicy/default/p'], 'what stands for the mistake');
  t.match(source.report().manifests, [
    { file: 'a.yaml', line: 1, state: 'warning', message: /"apps\/v1 Deployment" is not read/ },
    {
      file: 'a.yaml',
      line: 4,
      state: 'error',
      key: 'AuthorizationPolicy/default/p',
      message:
        /"a.yaml", line 12: spec.rules\[0\].from\[0\].source.principals\[0\] cannot match "a\*b".*line 13: spec.rules\[0\].form is not a field/,
    },
    { file: 'b.json', line: 1, state: 'error', message: /line 3: metadata.name must be/ },
  ]);
});

t.test('a bad object marks only itself, and its last good version stays', async (t) => {
  const { write, changes, errors, source } = await openFolder(t, {
    'a.yaml': `${policy('p', '{}')}---\n${pod('a', '10.0.0.1')}`,
  });
  changes();
  await write('a.yaml', `${policy('p', '{ acton: DENY }')}---\n${pod('a', '10.0.0.2')}`);
  await source.rescan();
  t.same(changes(), ['+Pod/default/a']);
  t.match(errors(), [/^a.yaml:1 AuthorizationPolicy\/default\/p .*spec.acton is not a field/]);
  t.equal(source.report().objectCount, 2);
  await write('a.yaml', pod('a', '10.0.0.2'));
  await source.rescan();
  t.same(changes(), ['-AuthorizationPolicy/default/p'], 'deleted, now that everything can be read');
  t.same(errors(), []);
});

t.test('a policy that was never good fails closed until it can be read', async (t) => {
  const { write, changes, errors, source } = await openFolder(t, {
    'a.yaml': policy('p', '{ action: DENY, ruls: [], selector: { matchLabels: { a: b } } }'),
  });
  t.same(changes(), ['+AuthorizationPolicy/default/p']);
  t.match(errors(), [/spec.ruls is not a field.*; until it can be read it denies everything/]);
  await write('a.yaml', policy('p', '{ rulez: [], selector: { matchLabels: { a: c } } }'));
  await source.rescan();
  t.same(changes(), ['+AuthorizationPolicy/default/p'], 'by what it says now');
  t.match(errors(), [/until it can be read it allows nothing/]);
  await write('a.yaml', policy('p', '{}'));
  await source.rescan();
  t.same([changes(), errors()], [['+AuthorizationPolicy/default/p'], []]);
  await write('a.yaml', policy('p', '{ rulez: [] }'));
  await source.rescan();
  t.same(changes(), [], 'it was good: its last good version stays');
  t.match(errors(), [/spec.rulez is not a field of this kind; check the spelling$/]);
});

t.test(
  'a policy of Gateway API that became bad counts no longer, and its line is told',
  async (t) => {
    const policyOf = (percent: number): string =>
      [
        'apiVersion: gateway.networking.x-k8s.io/v1alpha1',
        'kind: XBackendTrafficPolicy',
        'metadata: { name: p }',
        'spec:',
        "  targetRefs: [{ group: '', kind: Service, name: cart }]",
        `  retryConstraint: { budget: { percent: ${percent} } }`,
      ].join('\n');
    const { write, changes, errors, source } = await openFolder(t, { 'a.yaml': policyOf(20) });
    const key = '+TrafficPolicy/default/XBackendTrafficPolicy:p';
    t.same(changes(), [key]);
    await write('a.yaml', policyOf(120));
    await source.rescan();
    t.same(changes(), [key], 'told as what sets nothing');
    t.match(errors(), [/line 6: spec.retryConstraint.budget.percent .*nothing of it counts/]);
    await source.rescan();
    t.same(changes(), [], 'once');
    await write('a.yaml', policyOf(30));
    await source.rescan();
    t.same([changes(), errors()], [[key], []]);
  },
);

t.test('while something in a file cannot be read, nothing of it is taken as deleted', async (t) => {
  const { write, changes, errors, source } = await openFolder(t, {
    'a.yaml': `${policy('p', '{}')}---\n${pod('a', '10.0.0.1')}`,
    'b.yaml': pod('b', '10.0.0.3'),
  });
  changes();
  await write('a.yaml', `apiVersion: [\n---\n${pod('a', '10.0.0.1')}`);
  await source.rescan();
  t.same(changes(), []);
  t.equal(errors().length, 1);
  await write('a.yaml', '');
  await source.rescan();
  t.same(changes(), ['-AuthorizationPolicy/default/p', '-Pod/default/a']);
});

t.test('files that are too large or not text keep what they said', async (t) => {
  const { path, changes, errors, source } = await openFolder(t, { 'a.yaml': pod('a', '10.0.0.1') });
  changes();
  await writeFile(join(path, 'a.yaml'), Buffer.from([0x61, 0xff, 0xfe, 0x0a]));
  await until(() => errors().length > 0);
  t.match(errors(), [/not UTF-8/]);
  // Not in place: the watch would find it empty while it is written.
  await writeFile(join(path, '.new'), Buffer.alloc(FILE_BYTES_MAX + 1, 0x20));
  await rename(join(path, '.new'), join(path, 'a.yaml'));
  await source.rescan();
  t.match(errors(), [/larger than 4194304 bytes/]);
  t.same(changes(), []);
  await unlink(join(path, 'a.yaml'));
  await source.rescan();
  t.same(changes(), ['-Pod/default/a']);
});

t.test('a file that is written in place is never taken half-written', async (t) => {
  const { path, changes, source } = await openFolder(t, {
    'a.yaml': `${policy('p', '{}')}---\n${pod('a', '10.0.0.1')}`,
  });
  changes();
  await writeFile(join(path, 'a.yaml'), '');
  await source.rescan();
  t.same(changes(), [], 'truncated: nothing is deleted');
  await writeFile(join(path, 'a.yaml'), `${policy('p', '{}')}---\n`);
  await source.rescan();
  t.same(changes(), [], 'half of it: nothing is deleted');
  await writeFile(join(path, 'a.yaml'), `${policy('p', '{}')}---\n${pod('a', '10.0.0.2')}`);
  let seen: string[] = [];
  await until(() => (seen = [...seen, ...changes()]).length > 0);
  t.same(seen, ['+Pod/default/a'], 'all of it, once it has rested');
});

t.test('an object that two files declare is an error in the second', async (t) => {
  const { write, changes, errors, source, path } = await openFolder(t, {
    'a.yaml': pod('x', '10.0.0.1'),
    'b.yaml': `\n\n${pod('x', '10.0.0.2')}`,
  });
  t.same(changes(), ['+Pod/default/x']);
  t.match(errors(), [/^b.yaml:3 Pod\/default\/x .*is declared already in "a.yaml", line 1/]);
  await unlink(join(path, 'a.yaml'));
  await source.rescan();
  t.same(changes(), ['+Pod/default/x'], 'the other one takes its place');
  t.same(errors(), []);
  await write('c.yaml', `${pod('y', '10.0.0.1')}---\n${pod('y', '10.0.0.1')}`);
  await source.rescan();
  t.match(errors(), [/^c.yaml:8 .*in "c.yaml", line 1/]);
});

t.test('a change is seen without anybody asking; unchanged text changes nothing', async (t) => {
  const folder = await openFolder(t, {
    'a.yaml': `${pod('a', '10.0.0.1')}---\n${pod('b', '10.0.0.2')}`,
  });
  folder.changes();
  await folder.write('a.yaml', `${pod('a', '10.0.0.1')}---\n${pod('b', '10.0.0.3')}`);
  let seen: string[] = [];
  await until(() => (seen = [...seen, ...folder.changes()]).length > 0);
  t.same(seen, ['+Pod/default/b'], 'a rename over the file');
  await writeFile(join(folder.path, 'c.yaml'), pod('c', '10.0.0.4'));
  seen = [];
  await until(() => (seen = [...seen, ...folder.changes()]).length > 0);
  t.same(seen, ['+Pod/default/c'], 'a new file');
  await unlink(join(folder.path, 'c.yaml'));
  seen = [];
  await until(() => (seen = [...seen, ...folder.changes()]).length > 0);
  t.same(seen, ['-Pod/default/c'], 'a deleted file');
});

t.test('a whole folder that is swapped by a symbolic link is seen', async (t) => {
  const folder = await openFolder(t, {}, { rescanPeriodMs: 50 });
  for (const [version, ip] of [
    ['one', '10.0.0.1'],
    ['two', '10.0.0.2'],
  ] as const) {
    await mkdir(join(folder.path, `..${version}`));
    await writeFile(join(folder.path, `..${version}`, 'a.yaml'), pod('a', ip));
  }
  await symlink('..one', join(folder.path, '..data'));
  await symlink('..data/a.yaml', join(folder.path, 'a.yaml'));
  await until(() => folder.changes().length > 0);
  await symlink('..two', join(folder.path, '..data.new'));
  await rename(join(folder.path, '..data.new'), join(folder.path, '..data'));
  await until(() => folder.changes().length > 0);
  t.same(folder.errors(), []);
});

t.test('a folder that is gone changes nothing until it is back', async (t) => {
  const folder = await openFolder(t, { 'a.yaml': pod('a', '10.0.0.1') });
  folder.changes();
  await rename(folder.path, `${folder.path}.away`);
  await folder.source.rescan();
  t.match(folder.source.report().folderError, /Cannot list manifests/);
  t.same(folder.changes(), []);
  await rename(`${folder.path}.away`, folder.path);
  await folder.source.rescan();
  t.equal(folder.source.report().folderError, '');
  t.same(folder.changes(), []);
});

t.test('a folder that cannot be read refuses to start', async (t) => {
  const folder = await openFolder(t, {}, { start: false });
  await rm(folder.path, { recursive: true });
  await t.rejects(folder.source.start(), { code: 'MESH_MANIFEST_INVALID', message: /Cannot list/ });
});
