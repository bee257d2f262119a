/**
 * Where a self-signed CA keeps its state: a small set of named texts, replaced as a whole. The file form is a
 * directory of mode 0700 with files of mode 0600; a Secret is another. Only controllers have one; a node never.
 */

import { randomBytes } from 'node:crypto';
import { chmod, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { MeshError } from '../base/errors.ts';

export const CA_STATE_FILE = 'ca-state.json';
const FILE_MAX_BYTES = 1024 * 1024;
const FILES_MAX = 64;
const KEY_FILE = /^[a-z]+-[0-9a-f]{16}\.key$/;
/** What a crash in `replaceFile` leaves; it may hold a key. */
const TEMPORARY_FILE = /^\.[a-z0-9.-]+\.[0-9a-f]{12}\.tmp$/;

export interface CaStorage {
  /** Every stored text by name; empty when nothing was ever stored. */
  read(): Promise<ReadonlyMap<string, string>>;
  /** Makes the stored set exactly `files`. After a crash a reader finds the old state or the new one. */
  write(files: ReadonlyMap<string, string>): Promise<void>;
}

/**
 * Files in `directory`, made when missing. Key files are never overwritten, since their names are those of
 * their certificates: they are written first, then the state that names them, then the ones it no longer
 * names are removed. Each is written beside, synced and renamed.
 */
export function createFileCaStorage(directory: string): CaStorage {
  return {
    async read() {
      const files = new Map<string, string>();
      for (const name of await list(directory)) {
        files.set(name, await readBounded(join(directory, name)));
      }
      return files;
    },
    async write(files) {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      await chmod(directory, 0o700);
      const state = files.get(CA_STATE_FILE);
      for (const [name, text] of files) {
        if (name !== CA_STATE_FILE) await replaceFile(directory, name, text);
      }
      if (state !== undefined) await replaceFile(directory, CA_STATE_FILE, state);
      for (const name of await readdir(directory)) {
        const isStale = (isOurs(name) && !files.has(name)) || TEMPORARY_FILE.test(name);
        if (isStale) await rm(join(directory, name), { force: true });
      }
      await syncDirectory(directory);
    },
  };
}

/** Replaces `directory/name` by a file of mode 0600 in one step; the old or the new one is found after a crash. */
export async function replaceFile(directory: string, name: string, text: string): Promise<void> {
  const temporary = join(directory, `.${name}.${randomBytes(6).toString('hex')}.tmp`);
  try {
    const file = await open(temporary, 'wx', 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, join(directory, name));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDirectory(directory);
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function list(directory: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
  const ours = names.filter(isOurs);
  if (ours.length > FILES_MAX) {
    const message = `Cannot read CA state in "${directory}": more than ${FILES_MAX} files`;
    throw new MeshError('MESH_LIMIT_EXCEEDED', message);
  }
  return ours;
}

function isOurs(name: string): boolean {
  return name === CA_STATE_FILE || KEY_FILE.test(name);
}

async function readBounded(path: string): Promise<string> {
  const { size } = await stat(path);
  if (size > FILE_MAX_BYTES) {
    throw new MeshError('MESH_LIMIT_EXCEEDED', `Cannot read "${path}": larger than 1 MiB`);
  }
  return readFile(path, 'utf8');
}
