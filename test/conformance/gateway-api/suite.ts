/**
 * The official Gateway API conformance suite on a cluster with the mesh: builds it and our echo program from their
 * Go module, provides the image that the suite's manifests name, the CRDs it was made for and a waypoint for its
 * namespaces, and runs the profiles of meshes. The report is the suite's own.
 */

import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { writeOciArchive } from '../../../daemonset/image/oci-archive.ts';
import { MESH_FEATURES } from '../../../src/controlplane/gateway-status.ts';
import { until } from '../../../src/demo/mesh.ts';
import type { ClusterAccess, Ran } from '../../cluster/cluster-access.ts';
import { GATEWAY_API_VERSION, go, installGatewayApi } from './crds.ts';

const HERE = import.meta.dirname;
const CACHE = resolve(HERE, `../../../.cache/gateway-api-${GATEWAY_API_VERSION}`);
/** What the suite's manifests of this version name. */
const ECHO_IMAGE = 'registry.k8s.io/gateway-api/echo-advanced:v1.5.1';
const WAYPOINT_NAMESPACE = 'nodemesh-conformance';
const GATEWAY_NAMESPACES = ['gateway-conformance-app-backend', 'gateway-conformance-web-backend'];
/** Made by the suite, which takes them away when it is let end. */
const SUITE_NAMESPACES = ['gateway-conformance-mesh', 'gateway-conformance-mesh-consumer'];
const RUN_TIMEOUT_MS = 1_500_000;

export const PROFILES = ['MESH-HTTP', 'MESH-GRPC'] as const;

export interface BuiltSuite {
  readonly program: string;
  readonly echoArchive: string;
}

/** Builds what is not built yet; a minute or two the first time. */
export async function buildSuite(): Promise<BuiltSuite> {
  mkdirSync(CACHE, { recursive: true });
  const program = join(CACHE, 'conformance.test');
  if (!existsSync(program)) await go(['test', '-c', '-o', program, '.']);
  const echoArchive = join(CACHE, 'echo.tar');
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-echo-'));
  try {
    const root = join(folder, 'root');
    for (const path of ['usr/local/bin', 'tmp', 'etc']) {
      mkdirSync(join(root, path), { recursive: true });
    }
    const echo = join(root, 'usr/local/bin/echo');
    await go(['build', '-trimpath', '-ldflags=-s -w', '-o', join(folder, 'echo'), './echo'], {
      CGO_ENABLED: '0',
    });
    copyFileSync(join(folder, 'echo'), echo);
    chmodSync(echo, 0o755);
    symlinkSync('echo', join(root, 'usr/local/bin/client'));
    const config = { Entrypoint: ['/usr/local/bin/echo'], Env: ['PATH=/usr/local/bin'] };
    writeOciArchive({ root, reference: ECHO_IMAGE, config, out: echoArchive });
  } finally {
    rmSync(folder, { recursive: true });
  }
  return { program, echoArchive };
}

async function must(what: string, done: Promise<Ran>): Promise<void> {
  const { code, out, err } = await done;
  if (code !== 0) throw new Error(`${what}: ${out}${err}`);
}

/** One waypoint, which serves every namespace that names it. */
async function applyWaypoint(access: ClusterAccess): Promise<void> {
  const listener = {
    name: 'mesh',
    port: 15_008,
    protocol: 'HBONE',
    allowedRoutes: { namespaces: { from: 'All' } },
  };
  const items = [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: WAYPOINT_NAMESPACE } },
    {
      apiVersion: 'gateway.networking.k8s.io/v1',
      kind: 'Gateway',
      metadata: { name: 'waypoint', namespace: WAYPOINT_NAMESPACE },
      spec: { gatewayClassName: 'nodemesh-waypoint', listeners: [listener] },
    },
  ];
  const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
  await must('the waypoint', access.kubectl(['apply', '-f', '-'], { input }));
  const wait = ['wait', '--for=condition=Programmed', '--timeout=180s', 'gateway/waypoint'];
  await must('the waypoint', access.kubectl(['-n', WAYPOINT_NAMESPACE, ...wait]));
}

/**
 * The suite of this version waits for pods in the namespaces of its gateway tests even when it runs those of meshes
 * alone, which neither make nor use them.
 */
async function fillGatewayNamespaces(access: ClusterAccess): Promise<void> {
  const items = GATEWAY_NAMESPACES.flatMap((namespace) => [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } },
    {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'idle', namespace },
      spec: {
        automountServiceAccountToken: false,
        containers: [{ name: 'echo', image: ECHO_IMAGE, imagePullPolicy: 'IfNotPresent' }],
      },
    },
  ]);
  await until('the namespaces of gateway tests are filled', 30_000, async () => {
    // A new namespace has no service account yet.
    const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
    return (await access.kubectl(['apply', '-f', '-'], { input })).code === 0;
  });
}

/** Takes away every namespace that a run of the suite made, however it ended. Gateway API itself stays. */
export async function removeSuite(access: ClusterAccess): Promise<void> {
  const names = [WAYPOINT_NAMESPACE, ...GATEWAY_NAMESPACES, ...SUITE_NAMESPACES];
  const args = ['delete', 'namespace', '--ignore-not-found', ...names];
  await must('removing what the suite made', access.kubectl(args));
}

export interface SuiteResult {
  readonly passed: boolean;
  /** What the suite printed. */
  readonly output: string;
}

/** Needs the mesh on the cluster. `report`: where the suite writes it. `only`: one test by its short name. */
export async function runSuite(
  access: ClusterAccess,
  built: BuiltSuite,
  report: string,
  only: string = '',
): Promise<SuiteResult> {
  if (access.own !== undefined) await access.own.tool('load', built.echoArchive);
  await installGatewayApi(access);
  await until('the controller knows Gateway API', 60_000, async () => {
    const get = ['get', 'gatewayclasses.gateway.networking.k8s.io'];
    return (await access.kubectl(get)).code === 0;
  });
  await fillGatewayNamespaces(access);
  await applyWaypoint(access);
  const { version } = JSON.parse(readFileSync(resolve(HERE, '../../../package.json'), 'utf8')) as {
    version: string;
  };
  const labels = {
    'nodemesh.dev/mesh': 'enabled',
    'nodemesh.dev/waypoint': 'waypoint',
    'nodemesh.dev/waypoint-namespace': WAYPOINT_NAMESPACE,
  };
  const flags = {
    'conformance-profiles': PROFILES.join(','),
    'supported-features': MESH_FEATURES.join(','),
    'namespace-labels': Object.entries(labels)
      .map(([name, value]) => `${name}=${value}`)
      .join(','),
    organization: 'nodemesh',
    project: 'nodemesh',
    url: 'https://nodemesh.dev',
    version: `v${version}`,
    contact: 'https://nodemesh.dev',
    ...(only === '' ? { 'report-output': report } : { 'run-test': only }),
  };
  const args = ['-test.run', '^TestConformance$', '-test.timeout', '25m', '-test.v'];
  for (const [name, value] of Object.entries(flags)) args.push(`--${name}=${value}`);
  const done = await access.run(built.program, args, { timeoutMs: RUN_TIMEOUT_MS });
  return { passed: done.code === 0, output: done.out + done.err };
}
