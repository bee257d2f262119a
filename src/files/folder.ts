/**
 * Reads the manifest files of one folder, each again only when it changed. Nothing here decides what an
 * object's absence means; a file that cannot be read keeps what it said last.
 *
 * A file that is written in place can be met half-written, or empty, which would read as "its objects are gone":
 * policies would vanish. So what was changed in place a moment ago keeps its last state until it has rested. A
 * rename, how editors and GitOps agents write, counts at once.
 */

import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { MeshError } from '../base/errors.ts';
import type { Clock } from '../base/clock.ts';
import type { TimeSlice } from '../base/time-slice.ts';
import { parseManifestFile, type ManifestFile } from './manifest-file.ts';

export const FILE_BYTES_MAX = 4_194_304;
export const FILES_MAX = 10_000;
/** How long a file that was written in place must rest; an empty one is most likely being written. */
export const SETTLE_MS = 250;
const SETTLE_EMPTY_MS = 2000;
const MANIFEST_NAME = /^[^.].*\.(yaml|yml|json)$/;

/** One file's last good content, and why it is not newer. */
export interface FileState {
  readonly file: ManifestFile;
  /** Set when the file could not be read at all; `file` is then what it said before. */
  readonly error: MeshError | undefined;
}

export interface Folder {
  /** Every file by name, sorted; an error when the folder itself cannot be read. */
  read(slice: TimeSlice): Promise<ReadonlyMap<string, FileState>>;
  /** The last reading left out a file that was just being written: read again after `SETTLE_MS`. */
  readonly unsettled: boolean;
}

interface Cached {
  readonly stamp: string;
  readonly inode: string;
  readonly state: FileState;
}

interface Stamp {
  readonly text: string;
  readonly inode: string;
  readonly modifiedMs: number;
  readonly size: number;
}

/** Everything that changes when a file's content does, also when it is replaced by a rename. */
async function stampOf(path: string): Promise<Stamp | undefined> {
  const info = await stat(path, { bigint: true });
  if (!info.isFile()) return undefined;
  const text = [info.dev, info.ino, info.size, info.mtimeNs, info.ctimeNs].join(':');
  return {
    text,
    inode: `${info.dev}:${info.ino}`,
    modifiedMs: Number(info.mtimeNs / 1_000_000n),
    size: Number(info.size),
  };
}

export function createFolder(path: string, clock: Clock): Folder {
  const cache = new Map<string, Cached>();
  let unsettled = false;

  /** Written in place, and only just. A clock that stands before the file's time does not hold it up. */
  const isBeingWritten = (before: Cached, stamp: Stamp): boolean => {
    const ageMs = clock.wallMs() - stamp.modifiedMs;
    const restMs = stamp.size === 0 ? SETTLE_EMPTY_MS : SETTLE_MS;
    return before.inode === stamp.inode && ageMs >= 0 && ageMs < restMs;
  };

  const readOne = async (name: string, slice: TimeSlice): Promise<FileState | undefined> => {
    const before = cache.get(name);
    try {
      const stamp = await stampOf(join(path, name));
      if (stamp === undefined) return undefined;
      if (before?.stamp === stamp.text) return before.state;
      if (before !== undefined && isBeingWritten(before, stamp)) {
        unsettled = true;
        return before.state;
      }
      const text = await readText(join(path, name), stamp.size);
      const again = await stampOf(join(path, name));
      const file = await parseManifestFile(name, text, slice);
      const state = { file, error: undefined };
      // Written to while it was read: what was read counts for now, and the file is read again.
      const settled = again?.text === stamp.text;
      cache.set(name, { stamp: settled ? stamp.text : '', inode: stamp.inode, state });
      return state;
    } catch (error) {
      // Deleted since the folder was listed.
      if (isMissing(error)) return undefined;
      const empty = { name, entries: [], incomplete: true };
      return { file: before?.state.file ?? empty, error: fileError(name, error) };
    }
  };

  return {
    get unsettled() {
      return unsettled;
    },
    async read(slice) {
      unsettled = false;
      const names = await listNames(path);
      const found = new Map<string, FileState>();
      for (const name of names) {
        const state = await readOne(name, slice);
        if (state !== undefined) found.set(name, state);
      }
      for (const name of cache.keys()) if (!found.has(name)) cache.delete(name);
      return found;
    },
  };
}

async function listNames(path: string): Promise<string[]> {
  let names: string[];
  try {
    names = (await readdir(path)).filter((name) => MANIFEST_NAME.test(name));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `Cannot list manifests in "${path}": ${reason}`;
    throw new MeshError('MESH_MANIFEST_INVALID', message, { cause, retryable: true });
  }
  if (names.length > FILES_MAX) {
    const message = `Cannot read manifests in "${path}": over ${FILES_MAX} files`;
    throw new MeshError('MESH_LIMIT_EXCEEDED', message);
  }
  // By code point, so that which of two declarations comes first depends on no locale.
  return names.toSorted((a, b) => (a < b ? -1 : 1));
}

async function readText(path: string, size: number): Promise<string> {
  if (size > FILE_BYTES_MAX) throw tooLarge();
  await using handle = await open(path, 'r');
  const buffer = Buffer.allocUnsafe(size + 1);
  let length = 0;
  while (length < buffer.length) {
    const { bytesRead } = await handle.read(buffer, length, buffer.length - length, length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  // One byte more than announced: it grows while it is read, and will be read again.
  return new TextDecoder('utf-8', { fatal: true }).decode(buffer.subarray(0, length));
}

function tooLarge(): MeshError {
  return new MeshError('MESH_LIMIT_EXCEEDED', `it is larger than ${FILE_BYTES_MAX} bytes`);
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

function fileError(name: string, cause: unknown): MeshError {
  const reason =
    cause instanceof TypeError ? 'it is not UTF-8' : cause instanceof Error ? cause.message : '';
  const message = `Cannot read manifest "${name}": ${reason}; what it said before stays`;
  return new MeshError('MESH_MANIFEST_INVALID', message, { cause, details: { file: name } });
}
