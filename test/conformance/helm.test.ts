/**
 * The Helm charts and `meshctl install` are two ways to say the same: with real helm, object by object, for the
 * defaults and for values that reach every branch of the templates.
 */

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

import t from 'tap';
import { parse, parseAllDocuments, stringify } from 'yaml';

import type { KubeObject } from '../../src/cli/install/kube-object.ts';
import { baseObjects, meshObjects } from '../../src/cli/install/objects.ts';
import { DEFAULT_VALUES, readValues } from '../../src/cli/install/values.ts';
import { findGoTool } from './go-tool.ts';

const run = promisify(execFile);
const CHARTS = resolve(import.meta.dirname, '../../daemonset');
const { version } = JSON.parse(readFileSync(resolve(CHARTS, '../package.json'), 'utf8')) as {
  version: string;
};

const tool = await findGoTool('helm.sh/helm/v4/cmd/helm', 'v4.3.1');
const skip = 'reason' in tool ? tool.reason : false;
const folder = mkdtempSync(join(tmpdir(), 'nodemesh-helm-'));
t.teardown(() => rmSync(folder, { recursive: true }));

/** Runs helm with folders of its own: nothing of the user's is read or left. */
async function helm(...args: string[]): Promise<string> {
  const binary = 'binary' in tool ? tool.binary : '';
  const env = { PATH: process.env['PATH'], HOME: folder, HELM_CACHE_HOME: folder };
  const { stdout } = await run(binary, args, { env, maxBuffer: 16_777_216 });
  return stdout;
}

async function template(chart: string, values: unknown = {}): Promise<Map<string, KubeObject>> {
  const file = join(folder, 'values.yaml');
  writeFileSync(file, stringify(values));
  const namespace = ['--namespace', 'nodemesh-system'];
  const text = await helm('template', 'nodemesh', join(CHARTS, chart), ...namespace, '-f', file);
  return byName(parseAllDocuments(text).map((document) => document.toJS() as KubeObject | null));
}

function byName(objects: readonly (KubeObject | null)[]): Map<string, KubeObject> {
  const found = new Map<string, KubeObject>();
  for (const object of objects) {
    if (object === null) continue;
    const { kind, metadata } = object;
    found.set(`${kind} ${metadata.namespace ?? ''}/${metadata.name}`, object);
  }
  return new Map([...found].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

/** As the API server would read it. */
function plain(objects: Map<string, KubeObject>): unknown {
  return JSON.parse(JSON.stringify(Object.fromEntries(objects)));
}

t.test('the chart of the CRDs renders what meshctl install --crds prints', { skip }, async (t) => {
  t.strictSame(plain(await template('crds')), plain(byName(baseObjects(version))));
});

const cases: Readonly<Record<string, unknown>> = {
  defaults: {},
  'every value': {
    image: {
      repository: 'registry.test/mesh',
      digest: `sha256:${'a'.repeat(64)}`,
      pullPolicy: 'Always',
    },
    imagePullSecrets: [{ name: 'pull' }],
    trustDomain: 'example.org',
    istioLabels: true,
    logLevel: 'debug',
    controller: {
      replicas: 3,
      clusterIP: 'fd96::50',
      resources: { requests: { cpu: '1', memory: null }, limits: null },
      nodeSelector: { 'kubernetes.io/os': null, pool: 'mesh' },
      tolerations: [{ key: 'a', operator: 'Exists' }],
      affinity: { nodeAffinity: {} },
      podLabels: { team: 'mesh' },
      podAnnotations: { note: 'x: y' },
      priorityClassName: 'high',
      extraEnv: [{ name: 'NODEMESH_PORT', value: '15012' }],
    },
    node: {
      workers: 4,
      drainSeconds: 60,
      cniConfDir: '/etc/other/net.d',
      cniBinDir: '/usr/libexec/cni',
      tolerations: [],
      podLabels: { app: 'ztunnel' },
      podAnnotations: { note: 'z' },
      extraEnv: [{ name: 'A', value: 'b' }],
    },
    networkPolicies: { enabled: false },
  },
  'a tag and an address': {
    image: { tag: 'dev' },
    controller: { clusterIP: '10.96.0.50' },
    node: { affinity: { nodeAffinity: {} } },
  },
};

for (const [name, values] of Object.entries(cases)) {
  t.test(`the chart renders what meshctl install prints: ${name}`, { skip }, async (t) => {
    const expected = byName(meshObjects(readValues(values), version));
    t.strictSame(plain(await template('mesh', values)), plain(expected));
  });
}

t.test('values.yaml has the defaults of meshctl install', async (t) => {
  t.strictSame(parse(readFileSync(join(CHARTS, 'mesh/values.yaml'), 'utf8')), DEFAULT_VALUES);
});

t.test('charts carry the version of the package', async (t) => {
  for (const chart of ['crds', 'mesh']) {
    const meta = parse(readFileSync(join(CHARTS, chart, 'Chart.yaml'), 'utf8')) as object;
    t.match(meta, { version, appVersion: version });
  }
});

t.test('values.schema.json refuses what meshctl install refuses', { skip }, async (t) => {
  const wrong: unknown[] = [
    { controller: { replica: 2 } },
    { controller: { replicas: 'two' } },
    { node: { workers: 65 } },
    { logLevel: 'loud' },
    { image: { digest: 'sha256:zz' } },
  ];
  for (const values of wrong) {
    await t.rejects(
      template('mesh', values),
      /values don't meet the specifications/,
      JSON.stringify(values),
    );
  }
});

t.test('helm lint finds nothing', { skip }, async (t) => {
  for (const chart of ['crds', 'mesh']) {
    t.match(await helm('lint', '--strict', join(CHARTS, chart)), /0 chart\(s\) failed/);
  }
});
