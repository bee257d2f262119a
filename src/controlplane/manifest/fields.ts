/**
 * Reads untrusted structured data (from YAML, JSON or an API) field by field, with the path of everything it
 * complains about. It never throws and never follows a prototype: only own properties of plain objects
 * count, so a key such as `__proto__` is a field like any other (T100).
 */

import { parseAddress, type IpAddress } from '../../core/address.ts';
import { parseDuration } from '../../core/duration.ts';

export type FieldPath = readonly (string | number)[];

export interface FieldProblem {
  readonly path: FieldPath;
  readonly message: string;
}

export function formatProblems(problems: readonly FieldProblem[]): string {
  return problems.map(({ path, message }) => `${formatFieldPath(path)} ${message}`).join('; ');
}

/** Problems kept of one object; more tell nobody anything new. */
const PROBLEMS_MAX = 16;
export const STRING_MAX = 4096;
export const LIST_MAX = 10_000;

/** `spec.rules[0].from`; keys that are not words are quoted and cut. */
export function formatFieldPath(path: FieldPath): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else if (/^[A-Za-z_][\w-]{0,63}$/.test(part)) text += text === '' ? part : `.${part}`;
    else text += `[${JSON.stringify(part.slice(0, 64))}]`;
  }
  return text === '' ? '(whole object)' : text;
}

/** Most pods have no annotations; a map each would be a tenth of the index. */
const NOTHING: ReadonlyMap<string, string> = new Map();

function describe(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'an object';
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 64));
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  return `a ${typeof value}`;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** One object being read. Every reader of one document shares the same list of problems. */
export class Fields {
  readonly path: FieldPath;
  readonly #record: Readonly<Record<string, unknown>>;
  readonly #problems: FieldProblem[];
  readonly #read = new Set<string>();

  constructor(
    record: Readonly<Record<string, unknown>>,
    path: FieldPath,
    problems: FieldProblem[],
  ) {
    this.#record = record;
    this.path = path;
    this.#problems = problems;
  }

  /** The value's fields, or undefined and a problem when it is not an object. */
  static of(value: unknown, path: FieldPath, problems: FieldProblem[]): Fields | undefined {
    if (isRecord(value)) return new Fields(value, path, problems);
    if (problems.length < PROBLEMS_MAX) {
      problems.push({ path, message: `must be an object, not ${describe(value)}` });
    }
    return undefined;
  }

  problem(key: string | undefined, message: string): void {
    if (this.#problems.length >= PROBLEMS_MAX) return;
    this.#problems.push({ path: key === undefined ? this.path : [...this.path, key], message });
  }

  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }

  /** The own property, marked as read; null (an empty YAML value) counts as absent. */
  raw(key: string): unknown {
    this.#read.add(key);
    return Object.hasOwn(this.#record, key) ? (this.#record[key] ?? undefined) : undefined;
  }

  string(key: string, fallback: string = ''): string {
    const value = this.raw(key);
    if (value === undefined) return fallback;
    if (typeof value !== 'string') {
      this.problem(key, `must be a string, not ${describe(value)}`);
      return fallback;
    }
    if (value.length > STRING_MAX) {
      this.problem(key, `is longer than ${STRING_MAX} characters`);
      return fallback;
    }
    return value;
  }

  boolean(key: string, fallback: boolean = false): boolean {
    const value = this.raw(key);
    if (value === undefined) return fallback;
    if (typeof value === 'boolean') return value;
    this.problem(key, `must be true or false, not ${describe(value)}`);
    return fallback;
  }

  integer(key: string, min: number, max: number): number | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) {
      return value;
    }
    this.problem(key, `must be a whole number from ${min} to ${max}, not ${describe(value)}`);
    return undefined;
  }

  /** A GEP-2257 duration (`1m30s`) in milliseconds. */
  durationMs(key: string, minMs: number, maxMs: number): number | undefined {
    const text = this.string(key);
    if (text === '') return undefined;
    const parsed = parseDuration(text);
    if (!parsed.ok) this.problem(key, parsed.error.message);
    else if (parsed.value >= minMs && parsed.value <= maxMs) return parsed.value;
    else this.problem(key, `must be from ${minMs} ms to ${maxMs} ms, not ${text}`);
    return undefined;
  }

  oneOf<T extends string>(key: string, allowed: readonly T[]): T | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    const found = allowed.find((word) => word === value);
    if (found === undefined) {
      this.problem(key, `must be one of ${allowed.join(', ')}, not ${describe(value)}`);
    }
    return found;
  }

  object(key: string): Fields | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    return Fields.of(value, [...this.path, key], this.#problems);
  }

  list(key: string, max: number = LIST_MAX): readonly unknown[] {
    const value = this.raw(key);
    if (value === undefined) return [];
    if (!Array.isArray(value)) {
      this.problem(key, `must be a list, not ${describe(value)}`);
      return [];
    }
    if (value.length > max) {
      this.problem(key, `has ${value.length} entries, at most ${max} are accepted`);
      return [];
    }
    return value;
  }

  objects(key: string, max: number = LIST_MAX): Fields[] {
    const found: Fields[] = [];
    for (const [index, value] of this.list(key, max).entries()) {
      const fields = Fields.of(value, [...this.path, key, index], this.#problems);
      if (fields !== undefined) found.push(fields);
    }
    return found;
  }

  strings(key: string, max: number = LIST_MAX): string[] {
    return this.parsed(key, max, (text) => ({ ok: true, value: text }));
  }

  /** A list of strings, each read by `parse`. */
  parsed<T>(
    key: string,
    max: number,
    parse: (text: string) => { ok: true; value: T } | { ok: false; error: Error },
  ): T[] {
    const found: T[] = [];
    for (const [index, value] of this.list(key, max).entries()) {
      const path = [...this.path, key, index];
      if (typeof value !== 'string' || value.length > STRING_MAX) {
        const message = `must be a string of at most ${STRING_MAX} characters`;
        if (this.#problems.length < PROBLEMS_MAX) this.#problems.push({ path, message });
        continue;
      }
      const result = parse(value);
      if (result.ok) found.push(result.value);
      else if (this.#problems.length < PROBLEMS_MAX) {
        this.#problems.push({ path, message: result.error.message });
      }
    }
    return found;
  }

  /** String keys and string values, as a Map. */
  stringMap(key: string): ReadonlyMap<string, string> {
    const value = this.raw(key);
    if (value === undefined) return NOTHING;
    const found = new Map<string, string>();
    if (!isRecord(value)) {
      this.problem(key, `must be an object, not ${describe(value)}`);
      return found;
    }
    const entries = Object.entries(value);
    if (entries.length > LIST_MAX) {
      this.problem(key, `has ${entries.length} entries, at most ${LIST_MAX} are accepted`);
      return found;
    }
    for (const [name, text] of entries) {
      if (typeof text === 'string') found.set(name, text);
      else if (this.#problems.length < PROBLEMS_MAX) {
        const message = `must be a string, not ${describe(text)}; quote it`;
        this.#problems.push({ path: [...this.path, key, name], message });
      }
    }
    return found;
  }

  /** The object's own keys and values, all marked as read. */
  entries(): [string, unknown][] {
    for (const key of Object.keys(this.#record)) this.#read.add(key);
    return Object.entries(this.#record);
  }

  address(key: string): IpAddress | undefined {
    const text = this.string(key);
    if (text === '') return undefined;
    const parsed = parseAddress(text);
    if (parsed.ok) return parsed.value;
    this.problem(key, parsed.error.message);
    return undefined;
  }

  /** Every key nobody asked for becomes a problem: a misspelt field must not be silence. */
  refuseUnknown(): void {
    for (const key of Object.keys(this.#record)) {
      if (!this.#read.has(key))
        this.problem(key, 'is not a field of this kind; check the spelling');
    }
  }
}
