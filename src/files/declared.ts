/**
 * What a folder declares, merged from its files and compared with what it declared before.
 *
 * - The first declaration of an object, by file name and place in the file, counts; later ones are errors.
 * - An invalid object keeps its last good version; a policy that never had one fails closed
 *   (`controlplane/manifest/stead.ts`). One that is missing while a file that had it contains something unreadable
 *   keeps its version, too: it may be just that.
 * - Only real changes come out: the same text is the same object.
 */

import { MeshError } from '../base/errors.ts';
import type { TimeSlice } from '../base/time-slice.ts';
import type { MeshObject, ObjectChange, ObjectKey } from '../controlplane/objects.ts';
import type { FileState } from './folder.ts';
import type { ManifestEntry } from './manifest-file.ts';

/** Objects of a whole folder. */
export const OBJECTS_MAX = 500_000;

export interface ManifestStatus {
  readonly file: string;
  readonly line: number;
  /** Empty when nobody can tell which object it was to be. */
  readonly key: ObjectKey | '';
  readonly state: 'ok' | 'warning' | 'error';
  /** Empty for `ok`. */
  readonly message: string;
}

interface Declared {
  readonly object: MeshObject;
  readonly digest: string;
  readonly file: string;
  /** Stands for an object that was never good. */
  readonly isStead: boolean;
}

export class DeclaredObjects {
  #objects = new Map<ObjectKey, Declared>();
  #statuses: ManifestStatus[] = [];

  /** Of the last merge, in the order of files and lines. */
  get statuses(): readonly ManifestStatus[] {
    return this.#statuses;
  }

  get size(): number {
    return this.#objects.size;
  }

  /** Takes what all files say now; returns what changed. */
  async merge(files: ReadonlyMap<string, FileState>, slice: TimeSlice): Promise<ObjectChange[]> {
    const before = this.#objects;
    const after = new Map<ObjectKey, Declared>();
    const changes: ObjectChange[] = [];
    const statuses: ManifestStatus[] = [];
    const firstAt = new Map<ObjectKey, string>();
    for (const [file, { file: content, error }] of files) {
      if (error !== undefined) {
        statuses.push({ file, line: 1, key: '', state: 'error', message: error.message });
      }
      for (const entry of content.entries) {
        const first = entry.key && firstAt.get(entry.key);
        const known = entry.key && before.get(entry.key);
        statuses.push(statusOf(file, entry, first, after.size, known));
        if (slice.spent) await slice.yield();
        if (entry.key === undefined || first !== undefined || after.size >= OBJECTS_MAX) continue;
        firstAt.set(entry.key, `"${file}", line ${entry.line}`);
        const declared = declare(file, entry, known);
        if (declared === undefined) continue;
        after.set(entry.key, declared);
        if (declared !== known) changes.push({ type: 'put', object: declared.object });
      }
    }
    for (const [key, declared] of before) {
      if (after.has(key)) continue;
      const keeper = files.get(declared.file);
      if (keeper !== undefined && (keeper.file.incomplete || keeper.error !== undefined)) {
        after.set(key, declared);
      } else {
        const { kind, meta } = declared.object;
        changes.push({ type: 'delete', kind, namespace: meta.namespace, name: meta.name });
      }
      if (slice.spent) await slice.yield();
    }
    this.#objects = after;
    this.#statuses = statuses;
    return changes;
  }
}

/** The object an entry stands for: itself, what it was (same text), its last good version, or what is in its stead. */
function declare(
  file: string,
  entry: ManifestEntry,
  before: Declared | undefined,
): Declared | undefined {
  const { digest } = entry;
  const kept = keptFor(entry, before);
  if (kept !== undefined) return kept;
  if (before?.digest === digest && before.file === file) return before;
  const object = entry.object ?? entry.stead?.object;
  return object && { object, digest, file, isStead: entry.object === undefined };
}

/** The last good version, which stays as long as the entry cannot be read. */
function keptFor(entry: ManifestEntry, known: Declared | undefined): Declared | undefined {
  if (entry.object !== undefined || entry.stead?.replaces === true) return undefined;
  return known?.isStead === false ? known : undefined;
}

function statusOf(
  file: string,
  entry: ManifestEntry,
  first: string | undefined,
  objectCount: number,
  known: Declared | undefined,
): ManifestStatus {
  const at = { file, line: entry.line, key: entry.key ?? '' } as const;
  if (entry.error !== undefined) {
    const effect = keptFor(entry, known) === undefined ? entry.stead?.effect : undefined;
    const rest = effect === undefined ? '' : `; until it can be read ${effect}`;
    return { ...at, state: 'error', message: entry.error.message + rest };
  }
  if (first !== undefined) {
    const message = duplicateError(file, entry, first).message;
    return { ...at, state: 'error', message };
  }
  if (objectCount >= OBJECTS_MAX) {
    const message = `Cannot read manifest "${file}": the folder has more than ${OBJECTS_MAX} objects`;
    return { ...at, state: 'error', message };
  }
  if (entry.warning !== undefined) return { ...at, state: 'warning', message: entry.warning };
  return { ...at, state: 'ok', message: '' };
}

function duplicateError(file: string, entry: ManifestEntry, first: string): MeshError {
  const message = `Cannot read manifest "${file}", line ${entry.line}: "${entry.key}" is declared already in ${first}`;
  return new MeshError('MESH_MANIFEST_INVALID', message);
}
