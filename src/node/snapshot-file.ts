/**
 * The last good configuration on disk, without keys (design, section 3.9): the caches of an agent as the discovery
 * responses that would bring them, each behind its length; a type may take several. A file that cannot be read is
 * as no file: the controller is asked, as on a first start.
 *
 * Written in short turns and pieces: at once, 100,000 workloads stopped the loop for half a second and took twice
 * their memory (measured). What changes meanwhile may be in it or not; the next save has it.
 */

import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import { createTimeSlice } from '../base/time-slice.ts';
import type { ResourceCache } from '../discovery/resource-cache.ts';
import {
  decodeDeltaResponse,
  encodeResources,
  encodeResponseHead,
} from '../discovery/wire-messages.ts';
import type { WireResource } from '../discovery/wire-resource.ts';

/** 100,000 endpoints take about 40 MB. */
const FILE_MAX_BYTES = 512 * 1024 * 1024;
const TYPES_MAX = 64;
const MAGIC = Buffer.from('nodemesh snapshot 1\n');

/** Resources in one piece: encoded in about a millisecond. */
const PIECE_RESOURCES = 500;
/** Nobody writes one file for so long: its writer was killed. */
const ABANDONED_MS = 10 * 60 * 1000;

function encodePiece(cache: ResourceCache, names: readonly string[]): Buffer[] {
  const resources = names.flatMap((name) => cache.get(name) ?? []);
  const head = encodeResponseHead(
    { typeUrl: cache.typeUrl, systemVersion: '', nonce: '', reportSequence: 0, partial: false },
    [],
  );
  const body = encodeResources(cache.typeUrl, resources, true);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(head.length + body.length);
  return [length, head, body];
}

export async function saveSnapshot(
  path: string,
  caches: Iterable<ResourceCache>,
  clock: Clock,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await removeAbandoned(path, clock);
  // During an upgrade two agents write it at once.
  const temporary = `${path}.${randomBytes(6).toString('hex')}.new`;
  try {
    await writeSnapshot(temporary, caches, clock);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

async function removeAbandoned(path: string, clock: Clock): Promise<void> {
  const prefix = `${basename(path)}.`;
  for (const name of await readdir(dirname(path))) {
    if (!name.startsWith(prefix) || !name.endsWith('.new')) continue;
    const file = join(dirname(path), name);
    const found = await stat(file).catch(() => undefined);
    if (found !== undefined && clock.wallMs() - found.mtimeMs > ABANDONED_MS) {
      await rm(file, { force: true });
    }
  }
}

async function writeSnapshot(
  path: string,
  caches: Iterable<ResourceCache>,
  clock: Clock,
): Promise<void> {
  const slice = createTimeSlice(clock);
  const file = await open(path, 'wx', 0o600);
  try {
    await file.write(MAGIC);
    for (const cache of caches) {
      const names = [...cache.names()];
      // An empty type has its piece too: that it is empty is known.
      for (let at = 0; at === 0 || at < names.length; at += PIECE_RESOURCES) {
        if (slice.spent) await slice.yield();
        await file.writev(encodePiece(cache, names.slice(at, at + PIECE_RESOURCES)));
      }
    }
    await file.datasync();
  } finally {
    await file.close();
  }
}

/** The resources by type URL; undefined when there is no file that can be read. */
export async function loadSnapshot(
  path: string,
  clock: Clock,
): Promise<ReadonlyMap<string, readonly WireResource[]> | undefined> {
  const bytes = await readFile(path).catch(() => undefined);
  if (bytes === undefined || bytes.length > FILE_MAX_BYTES) return undefined;
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const types = new Map<string, WireResource[]>();
  const slice = createTimeSlice(clock);
  try {
    for (let at = MAGIC.length; at < bytes.length;) {
      const end = at + 4 + bytes.readUInt32BE(at);
      if (end > bytes.length || types.size >= TYPES_MAX) return undefined;
      const { typeUrl, resources } = await decodeDeltaResponse(bytes.subarray(at + 4, end), slice);
      const known = types.get(typeUrl);
      if (known === undefined) types.set(typeUrl, [...resources]);
      else for (const resource of resources) known.push(resource);
      at = end;
    }
    return types;
  } catch {
    return undefined;
  }
}
