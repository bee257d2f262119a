/**
 * nodemesh on a cluster, put there as a user would: the image of `make image`, `meshctl install | kubectl apply -f -`.
 * On a cluster that is not ours the image must be where its nodes can pull it: NODEMESH_TEST_IMAGE names it.
 */

import { resolve } from 'node:path';

import { until } from '../../src/demo/mesh.ts';
import { run, type ClusterAccess } from './cluster-access.ts';

const REPOSITORY = resolve(import.meta.dirname, '../..');
export const MESHCTL: string = resolve(REPOSITORY, 'src/bin/meshctl.ts');
export const SYSTEM = 'nodemesh-system';
const OWN_IMAGE = 'nodemesh.test/nodemesh:dev';
const ARCHIVE = resolve(REPOSITORY, '.cache/image/nodemesh.tar');
const READY_TIMEOUT = '150s';

async function must(
  what: string,
  done: Promise<{ code: number; out: string; err: string }>,
): Promise<string> {
  const { code, out, err } = await done;
  if (code !== 0) throw new Error(`${what}: ${out}${err}`);
  return out;
}

/** Runs meshctl where the API server is reachable. */
export function meshctl(
  access: ClusterAccess,
  ...args: readonly string[]
): Promise<{ code: number; out: string; err: string }> {
  return access.run(process.execPath, [MESHCTL, ...args]);
}

/** What `meshctl install` prints for the tests' image. */
export function installManifests(
  access: ClusterAccess,
  ...args: readonly string[]
): Promise<string> {
  const image = process.env['NODEMESH_TEST_IMAGE'] ?? OWN_IMAGE;
  const at = image.lastIndexOf(':');
  const which = [`image.repository=${image.slice(0, at)}`, `image.tag=${image.slice(at + 1)}`];
  const set = which.flatMap((value) => ['--set', value]);
  return must('meshctl install', meshctl(access, 'install', ...set, ...args));
}

/** Builds the image and puts it on the nodes of the own cluster. Nothing to do for another. */
export async function provideImage(access: ClusterAccess): Promise<void> {
  if (access.own === undefined) return;
  const build = resolve(REPOSITORY, 'daemonset/image/build.ts');
  const args = [build, '--reference', OWN_IMAGE, '--out', ARCHIVE];
  await must('building the image', run(process.execPath, args));
  await access.own.tool('load', ARCHIVE);
}

/** Whether controller and node proxies are there and ready. */
export async function isMeshReady(access: ClusterAccess): Promise<boolean> {
  for (const name of ['deployment/nodemesh-controller', 'daemonset/nodemesh-node']) {
    const status = ['-n', SYSTEM, 'rollout', 'status', name, '--timeout=1s'];
    if ((await access.kubectl(status)).code !== 0) return false;
  }
  return true;
}

/** Installs what the repository holds and waits until it is ready; nothing when a mesh is ready already. */
export async function ensureMesh(access: ClusterAccess): Promise<void> {
  if (await isMeshReady(access)) return;
  await provideImage(access);
  await applyMesh(access);
}

/** `meshctl install | kubectl apply -f -`, until controller and node proxies are ready. */
export async function applyMesh(access: ClusterAccess): Promise<void> {
  const input = await installManifests(access);
  await until('the API server takes every object', 30_000, async () => {
    // A kind is known to the API server a moment after its definition was taken.
    return (await access.kubectl(['apply', '-f', '-'], { input })).code === 0;
  });
  for (const name of ['deployment/nodemesh-controller', 'daemonset/nodemesh-node']) {
    const status = ['-n', SYSTEM, 'rollout', 'status', name, `--timeout=${READY_TIMEOUT}`];
    await must(name, access.kubectl(status));
  }
}
