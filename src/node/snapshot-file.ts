/**
 * The last good configuration on disk, without keys (design, section 3.9): the caches of an agent as the discovery
 * responses that would bring them, one per type, each behind its length. A file that cannot be read is as no
 * file: the controller is asked, as on a first start.
 */

import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';

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

export async function saveSnapshot(path: string, caches: Iterable<ResourceCache>): Promise<void> {
  const parts: Buffer[] = [MAGIC];
  for (const cache of caches) {
    const resources = [...cache.names()].flatMap((name) => cache.get(name) ?? []);
    const head = encodeResponseHead(
      { typeUrl: cache.typeUrl, systemVersion: '', nonce: '', reportSequence: 0, partial: false },
      [],
    );
    const body = encodeResources(cache.typeUrl, resources, true);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(head.length + body.length);
    parts.push(length, head, body);
  }
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.new`;
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writev(parts);
    await file.datasync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

/** The resources by type URL; undefined when there is no file that can be read. */
export async function loadSnapshot(
  path: string,
  clock: Clock,
): Promise<ReadonlyMap<string, readonly WireResource[]> | undefined> {
  const bytes = await readFile(path).catch(() => undefined);
  if (bytes === undefined || bytes.length > FILE_MAX_BYTES) return undefined;
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const types = new Map<string, readonly WireResource[]>();
  const slice = createTimeSlice(clock);
  try {
    for (let at = MAGIC.length; at < bytes.length;) {
      const end = at + 4 + bytes.readUInt32BE(at);
      if (end > bytes.length || types.size >= TYPES_MAX) return undefined;
      const response = await decodeDeltaResponse(bytes.subarray(at + 4, end), slice);
      types.set(response.typeUrl, response.resources);
      at = end;
    }
    return types;
  } catch {
    return undefined;
  }
}
