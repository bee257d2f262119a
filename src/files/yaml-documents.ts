/**
 * YAML text of unknown origin → plain values, one per document, each with a way from a field to its line.
 *
 * The `yaml` package does the reading; what it leaves unbounded is bounded here (T100):
 * - nesting is checked while the tokens come, before anything recursive sees them;
 * - repeated keys are looked for with a set: the package compares every key with every other one, which
 *   took eight minutes for 200,000 keys (tried, 2.9);
 * - aliases are resolved here, counted with the size of what they stand for, and never in a circle.
 */

import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, Parser } from 'yaml';
import type { CST, Document, Node, Pair } from 'yaml';

import type { TimeSlice } from '../base/time-slice.ts';

export type FieldPath = readonly (string | number)[];

export interface YamlDocument {
  /** Undefined when `problem` is set. */
  readonly value: unknown;
  readonly problem: YamlProblem | undefined;
  /** First line, counted from 1. */
  readonly line: number;
  /** The document's own text, to tell whether it changed. */
  readonly text: string;
  /** The line of a field, or of the nearest thing around it that exists. */
  readonly lineOf: (path: FieldPath) => number;
}

export interface YamlProblem {
  readonly line: number;
  readonly message: string;
}

export const DOCUMENTS_MAX = 50_000;
export const DEPTH_MAX = 64;
export const ALIASES_MAX = 100;
/** Values in one document, those that aliases repeat counted each time. */
export const VALUES_MAX = 500_000;
/** Each level of nesting takes up to two tokens on the parser's stack, and a document one. */
const STACK_MAX = 2 * DEPTH_MAX + 4;
/** One document is composed in one turn of the loop: up to 0.1 s for so much (tried). JSON files are not held to it. */
export const DOCUMENT_CHARS_MAX = 1_048_576;
/** Lexemes read between two looks at the clock. */
const LEXEMES_PER_LOOK = 256;

/** Thrown and caught in this file only. */
class YamlRefusal extends Error {
  readonly offset: number;

  constructor(offset: number, message: string) {
    super(message);
    this.offset = offset;
  }
}

/** Documents without content (only comments) are left out. Ends after the first document it must refuse. */
export async function* readYamlDocuments(
  text: string,
  slice: TimeSlice,
): AsyncGenerator<YamlDocument> {
  for (const step of readSteps(text)) {
    if (step !== undefined) yield step;
    if (slice.spent) await slice.yield();
  }
}

/** Documents, and undefined wherever the work may pause. */
function* readSteps(text: string): Generator<YamlDocument | undefined> {
  const lines = new LineCounter();
  lines.addNewLine(0);
  const composer = new Composer({
    uniqueKeys: false,
    prettyErrors: false,
    resolveKnownTags: false,
    logLevel: 'silent',
  });
  let count = 0;
  const take = function* (documents: Iterable<Document.Parsed>): Generator<YamlDocument> {
    for (const document of documents) {
      if (++count > DOCUMENTS_MAX) {
        const message = `The file has more than ${DOCUMENTS_MAX} documents`;
        throw new YamlRefusal(document.range[0], message);
      }
      if (hasContent(document)) yield readDocument(document, text, lines);
    }
  };
  try {
    for (const token of readTokens(text, lines)) {
      if (token !== undefined) yield* take(composer.next(token));
      yield undefined;
    }
    yield* take(composer.end());
  } catch (error) {
    // A RangeError is the package's recursion; the bounds above should leave none.
    if (!(error instanceof YamlRefusal) && !(error instanceof RangeError)) throw error;
    const offset = error instanceof YamlRefusal ? error.offset : 0;
    yield refusedDocument(lines.linePos(offset).line, error.message);
  }
}

function* readTokens(text: string, lines: LineCounter): Generator<CST.Token | undefined> {
  const parser = new Parser(lines.addNewLine);
  let count = 0;
  let start = 0;
  for (const lexeme of new Lexer().lex(text)) {
    for (const token of parser.next(lexeme)) {
      yield token;
      start = parser.offset;
    }
    if (parser.offset - start > DOCUMENT_CHARS_MAX) {
      const message = `The document has more than ${DOCUMENT_CHARS_MAX} characters; split it or write JSON`;
      throw new YamlRefusal(start, message);
    }
    if (parser.stack.length > STACK_MAX) {
      throw new YamlRefusal(parser.offset, `The document is nested more than ${DEPTH_MAX} deep`);
    }
    if (++count % LEXEMES_PER_LOOK === 0) yield undefined;
  }
  yield* parser.end();
}

function hasContent(document: Document.Parsed): boolean {
  return document.errors.length > 0 || !(document.contents === null || isEmpty(document.contents));
}

function isEmpty(node: Node): boolean {
  return isScalar(node) && node.value === null && node.source === '';
}

function refusedDocument(line: number, message: string): YamlDocument {
  return { value: undefined, problem: { line, message }, line, text: '', lineOf: () => line };
}

function readDocument(document: Document.Parsed, text: string, lines: LineCounter): YamlDocument {
  const lineAt = (offset: number): number => Math.max(1, lines.linePos(offset).line);
  const start = document.contents?.range[0] ?? document.range[0];
  const own = text.slice(start, document.range[2]);
  const [error] = document.errors;
  if (error !== undefined) {
    const line = lineAt(error.pos[0]);
    return {
      ...refusedDocument(lineAt(start), ''),
      text: own,
      problem: { line, message: error.message },
    };
  }
  const reader = new NodeReader();
  try {
    const value = reader.read(document.contents, 0);
    const lineOf = (path: FieldPath): number => lineAt(reader.offsetOf(document.contents, path));
    return { value, problem: undefined, line: lineAt(start), text: own, lineOf };
  } catch (refusal) {
    if (!(refusal instanceof YamlRefusal)) throw refusal;
    const problem = { line: lineAt(refusal.offset), message: refusal.message };
    return { ...refusedDocument(lineAt(start), ''), text: own, problem };
  }
}

interface Anchored {
  readonly node: Node;
  readonly value: unknown;
  readonly count: number;
}

class NodeReader {
  readonly #anchors = new Map<string, Anchored>();
  #aliasCount = 0;
  #valueCount = 0;

  read(node: unknown, depth: number): unknown {
    const offset = offsetOf(node);
    if (++this.#valueCount > VALUES_MAX) {
      throw new YamlRefusal(offset, `The document has more than ${VALUES_MAX} values`);
    }
    if (depth > DEPTH_MAX)
      throw new YamlRefusal(offset, `The document is nested more than ${DEPTH_MAX} deep`);
    if (isAlias(node)) return this.#readAlias(node.source, offset);
    const before = this.#valueCount;
    const value = this.#readOwn(node, depth, offset);
    const anchor = isScalar(node) || isMap(node) || isSeq(node) ? node.anchor : undefined;
    if (anchor !== undefined) {
      const count = this.#valueCount - before + 1;
      this.#anchors.set(anchor, { node: node as Node, value, count });
    }
    return value;
  }

  /** An anchor is known only after its node was read, so nothing can contain itself. */
  #readAlias(name: string, offset: number): unknown {
    const anchored = this.#anchors.get(name);
    if (anchored === undefined) {
      throw new YamlRefusal(
        offset,
        `Alias ${JSON.stringify(name.slice(0, 64))} has no anchor before it`,
      );
    }
    if (++this.#aliasCount > ALIASES_MAX) {
      throw new YamlRefusal(offset, `The document has more than ${ALIASES_MAX} aliases`);
    }
    this.#valueCount += anchored.count;
    if (this.#valueCount > VALUES_MAX) {
      throw new YamlRefusal(offset, `The document has more than ${VALUES_MAX} values`);
    }
    return anchored.value;
  }

  #readOwn(node: unknown, depth: number, offset: number): unknown {
    if (node === null) return null;
    if (isMap(node)) return this.#readMap(node.items, depth);
    if (isSeq(node)) return node.items.map((item) => this.read(item, depth + 1));
    if (!isScalar(node)) throw new YamlRefusal(offset, 'The node cannot be read');
    const { value } = node;
    if (value === null || ['string', 'number', 'boolean'].includes(typeof value)) return value;
    throw new YamlRefusal(offset, 'A value must be text, a number, true, false or null');
  }

  #readMap(items: readonly Pair[], depth: number): unknown {
    // No prototype: a key such as `__proto__` or `constructor` is a key like any other.
    const found: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
    const keys = new Set<string>();
    for (const { key, value } of items) {
      const name = keyText(key);
      // Quoted, it is a key like any other.
      if (name === '<<' && isScalar(key) && key.type === 'PLAIN')
        throw new YamlRefusal(offsetOf(key), 'Merge keys ("<<") are not supported');
      if (keys.has(name)) {
        throw new YamlRefusal(
          offsetOf(key),
          `Key ${JSON.stringify(name.slice(0, 64))} is repeated`,
        );
      }
      keys.add(name);
      found[name] = this.read(value, depth + 1);
    }
    return found;
  }

  /** Where a field is, or the nearest thing around it. */
  offsetOf(root: unknown, path: FieldPath): number {
    let node: unknown = root;
    let offset = offsetOf(root);
    for (const part of path) {
      if (isAlias(node)) node = this.#anchors.get(node.source)?.node;
      if (isMap(node)) {
        const pair = node.items.find(({ key }) => keyText(key, '') === part);
        if (pair === undefined) return offset;
        offset = offsetOf(pair.key);
        node = pair.value;
      } else if (isSeq(node) && typeof part === 'number') {
        node = node.items[part];
        if (node === undefined) return offset;
        offset = offsetOf(node);
      } else {
        return offset;
      }
    }
    return offset;
  }
}

function offsetOf(node: unknown): number {
  const known = isScalar(node) || isMap(node) || isSeq(node) || isAlias(node);
  return known ? (node.range?.[0] ?? 0) : 0;
}

/** Keys are text; a number or a truth value stands for its own text, as in JSON. */
function keyText(key: unknown, fallback?: string): string {
  if (isScalar(key)) {
    const { value } = key;
    if (typeof value === 'string') return value;
    if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  }
  if (fallback !== undefined) return fallback;
  throw new YamlRefusal(offsetOf(key), 'A key must be text');
}
