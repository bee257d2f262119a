/** Gateway API itself, which a mesh does not bring: the CRDs that a mesh needs, from the project's own Go module. */

import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

import type { ClusterAccess } from '../../cluster/cluster-access.ts';

export const GATEWAY_API_VERSION = 'v1.6.1';
const CHANNEL = 'config/crd/standard';
const CRDS = [
  'gatewayclasses',
  'gateways',
  'httproutes',
  'grpcroutes',
  'tlsroutes',
  'tcproutes',
  'referencegrants',
];
const GO_TIMEOUT_MS = 1_200_000;
const runFile = promisify(execFile);

/** Runs Go in the folder of the suite's module; rejects with what it said. */
export async function go(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<string> {
  const cwd = import.meta.dirname;
  const options = { cwd, env: { ...process.env, ...env }, timeout: GO_TIMEOUT_MS };
  return (await runFile('go', args, options)).stdout;
}

/** Puts the CRDs of the standard channel on the cluster, or leaves them as they are, and waits until they count. */
export async function installGatewayApi(access: ClusterAccess): Promise<void> {
  const module = `sigs.k8s.io/gateway-api@${GATEWAY_API_VERSION}`;
  const { Dir } = JSON.parse(await go(['mod', 'download', '-json', module])) as { Dir: string };
  const input = CRDS.map((name) =>
    readFileSync(join(Dir, CHANNEL, `gateway.networking.k8s.io_${name}.yaml`), 'utf8'),
  ).join('\n---\n');
  const names = CRDS.map((name) => `crd/${name}.gateway.networking.k8s.io`);
  const established = ['wait', '--for=condition=Established', '--timeout=60s', ...names];
  for (const done of [
    await access.kubectl(['apply', '--server-side', '-f', '-'], { input }),
    await access.kubectl(established),
  ]) {
    if (done.code !== 0) throw new Error(`Gateway API: ${done.out}${done.err}`);
  }
}
