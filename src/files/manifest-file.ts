/** One manifest file's text → its objects and what is wrong with them, each with file, line and field. */

import { hash } from 'node:crypto';

import { MeshError } from '../base/errors.ts';
import type { TimeSlice } from '../base/time-slice.ts';
import { formatFieldPath, type FieldPath } from '../controlplane/manifest/fields.ts';
import { parseManifest } from '../controlplane/manifest/manifest.ts';
import type { Stead } from '../controlplane/manifest/stead.ts';
import { objectKey, type MeshObject, type ObjectKey } from '../controlplane/objects.ts';
import { DEPTH_MAX, readYamlDocuments, type YamlDocument } from './yaml-documents.ts';

/** What one document says. */
export interface ManifestEntry {
  readonly line: number;
  /** Undefined when not even kind and name could be read. */
  readonly key: ObjectKey | undefined;
  /** Undefined when it is invalid: the last good version stays. */
  readonly object: MeshObject | undefined;
  /** Of an invalid one: what counts where there was no good version. */
  readonly stead: Stead | undefined;
  readonly error: MeshError | undefined;
  /** Not an error, but its writer should know. */
  readonly warning: string | undefined;
  /** Of its text: the same text is the same object. */
  readonly digest: string;
}

export interface ManifestFile {
  readonly name: string;
  readonly entries: readonly ManifestEntry[];
  /**
   * Something in it could not be attributed to an object, so an object that seems to be missing may be just
   * that: nothing is taken as deleted.
   */
  readonly incomplete: boolean;
}

/** Objects of all `List`s in a file. */
export const OBJECTS_PER_FILE_MAX = 50_000;

interface Source {
  readonly value: unknown;
  readonly line: number;
  readonly digest: string;
  readonly lineOf: (path: FieldPath) => number;
}

/** Never throws for what the text contains. */
export async function parseManifestFile(
  name: string,
  text: string,
  slice: TimeSlice,
): Promise<ManifestFile> {
  if (name.endsWith('.json')) {
    const entries = await parseJson(name, text, slice);
    // With something to complain about, the slow way is worth it: it knows lines.
    if (entries !== undefined) return { name, entries, incomplete: false };
  }
  const entries: ManifestEntry[] = [];
  for await (const document of readYamlDocuments(text, slice)) {
    if (document.problem !== undefined) entries.push(refusedEntry(name, document));
    else await addEntries(name, sourceOf(document), entries, slice);
  }
  const incomplete = entries.some(({ key, error }) => error !== undefined && key === undefined);
  return { name, entries, incomplete };
}

function sourceOf(document: YamlDocument): Source {
  const { value, line, text, lineOf } = document;
  return { value, line, digest: digestOf(text), lineOf };
}

function digestOf(text: string): string {
  return hash('sha256', text, 'base64');
}

/** The whole file as one JSON value; undefined when anything in it deserves a message with a line. */
async function parseJson(
  name: string,
  text: string,
  slice: TimeSlice,
): Promise<ManifestEntry[] | undefined> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (isDeep(value, DEPTH_MAX)) return undefined;
  const entries: ManifestEntry[] = [];
  const source = { value, line: 1, digest: digestOf(text), lineOf: () => 1 };
  await addEntries(name, source, entries, slice);
  const clean = entries.every(({ error, warning }) => (error ?? warning) === undefined);
  return clean ? entries : undefined;
}

function isDeep(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  if (levels < 0) return true;
  return Object.values(value).some((inner) => isDeep(inner, levels - 1));
}

/** One document, or each item of a `List`. */
async function addEntries(
  name: string,
  source: Source,
  entries: ManifestEntry[],
  slice: TimeSlice,
): Promise<void> {
  const items = listItems(source.value);
  if (items === undefined) {
    entries.push(readEntry(name, source));
    return;
  }
  for (const [index, value] of items.entries()) {
    const lineOf = (path: FieldPath): number => source.lineOf(['items', index, ...path]);
    if (index >= OBJECTS_PER_FILE_MAX) {
      const message = `The list has more than ${OBJECTS_PER_FILE_MAX} items`;
      entries.push(invalidEntry(name, lineOf([]), '', [{ line: lineOf([]), message }]));
      return;
    }
    entries.push(
      readEntry(name, { value, line: lineOf([]), digest: digestOf(JSON.stringify(value)), lineOf }),
    );
    if (slice.spent) await slice.yield();
  }
}

function listItems(value: unknown): readonly unknown[] | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  const { kind, items } = value as { kind?: unknown; items?: unknown };
  return kind === 'List' && Array.isArray(items) ? items : undefined;
}

function readEntry(name: string, source: Source): ManifestEntry {
  const result = parseManifest(source.value);
  const { line, digest } = source;
  const clean = {
    line,
    digest,
    key: undefined,
    object: undefined,
    stead: undefined,
    error: undefined,
    warning: undefined,
  };
  switch (result.status) {
    case 'object':
      return { ...clean, key: objectKey(result.object), object: result.object };
    case 'unknown':
      return { ...clean, warning: `Kind ${JSON.stringify(result.what)} is not read` };
    case 'invalid': {
      const problems = result.problems.map(({ path, message }) => ({
        line: source.lineOf(path),
        message: `${formatFieldPath(path)} ${message}`,
      }));
      const entry = invalidEntry(name, line, digest, problems);
      return { ...entry, key: result.key, stead: result.stead };
    }
  }
}

function refusedEntry(name: string, document: YamlDocument): ManifestEntry {
  const problem = document.problem ?? { line: document.line, message: 'It cannot be read' };
  return invalidEntry(name, document.line, digestOf(document.text), [problem]);
}

interface Problem {
  readonly line: number;
  readonly message: string;
}

function invalidEntry(
  name: string,
  line: number,
  digest: string,
  problems: readonly Problem[],
): ManifestEntry {
  const shown = problems.map((problem) => `line ${problem.line}: ${problem.message}`).join('; ');
  const error = new MeshError('MESH_MANIFEST_INVALID', `Cannot read manifest "${name}", ${shown}`, {
    details: { file: name, problems },
  });
  const nothing = { key: undefined, object: undefined, stead: undefined, warning: undefined };
  return { line, digest, error, ...nothing };
}
