/**
 * The file in which the agent keeps what the CNI said: pod, sandbox, namespace. Replaced as a whole (write, sync,
 * rename), so that a crash leaves the old or the new one (T123). Read as strictly as any outside bytes.
 */

import { randomBytes } from 'node:crypto';
import { open, readFile, rename, rm, stat } from 'node:fs/promises';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { PodUid } from '../core/pod.ts';
import { isNamespacePath, isPodUid } from './cni-request.ts';

export interface RegistryEntry {
  readonly podUid: PodUid;
  readonly containerId: string;
  readonly netnsPath: string;
  readonly netnsInode: number;
}

const VERSION = 1;
export const REGISTRY_MAX_BYTES: number = 4 * 1024 * 1024;

function invalid(reason: string, cause?: unknown): Result<never> {
  const message = `Cannot read the registry of namespaces: ${reason}`;
  return fail(new MeshError('MESH_CONFIG_INVALID', message, { cause }));
}

/** A file that is not there is an empty registry. */
export async function readRegistry(file: string): Promise<Result<readonly RegistryEntry[]>> {
  try {
    const { size } = await stat(file);
    if (size > REGISTRY_MAX_BYTES) return invalid(`${size} bytes, ${REGISTRY_MAX_BYTES} at most`);
    return parseRegistry(await readFile(file, 'utf8'));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return ok([]);
    return invalid(error instanceof Error ? error.message : String(error), error);
  }
}

export function parseRegistry(text: string): Result<readonly RegistryEntry[]> {
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch (error) {
    return invalid('not JSON', error);
  }
  if (!isRecord(data) || data['version'] !== VERSION) return invalid(`not version ${VERSION}`);
  const pods = data['pods'];
  if (!Array.isArray(pods)) return invalid('"pods" is not a list');
  const entries: RegistryEntry[] = [];
  for (const [index, pod] of pods.entries()) {
    const entry = readEntry(pod);
    if (entry === undefined) return invalid(`entry ${index} is malformed`);
    entries.push(entry);
  }
  return ok(entries);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function readEntry(value: unknown): RegistryEntry | undefined {
  if (!isRecord(value)) return undefined;
  const { podUid, containerId, netnsPath, netnsInode } = value;
  if (typeof podUid !== 'string' || !isPodUid(podUid)) return undefined;
  if (typeof containerId !== 'string' || containerId.length > 128) return undefined;
  if (typeof netnsPath !== 'string' || !isNamespacePath(netnsPath)) return undefined;
  if (typeof netnsInode !== 'number' || !Number.isSafeInteger(netnsInode)) return undefined;
  return { podUid, containerId, netnsPath, netnsInode };
}

/** During an upgrade two agents write it at once; each has the same to say. Rejects with the file system's error. */
export async function writeRegistry(
  file: string,
  entries: readonly RegistryEntry[],
): Promise<void> {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.new`;
  try {
    const handle = await open(temporary, 'wx', 0o600);
    try {
      await handle.writeFile(`${JSON.stringify({ version: VERSION, pods: entries })}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
