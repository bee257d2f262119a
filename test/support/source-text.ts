/**
 * Reads TypeScript just well enough for house rules: what is code, what is comment, what is text in quotes, and
 * which modules a file imports. Not a parser: it knows comments, strings, templates and regular expressions.
 */

export interface Import {
  readonly specifier: string;
  readonly line: number;
}

/** The two readings of a file; both keep every line break, so that offsets give line numbers. */
export interface SourceText {
  /** Comments are blanks, strings are kept. */
  readonly withStrings: string;
  /** Comments and the insides of strings, templates and regular expressions are blanks. */
  readonly code: string;
}

const BEFORE_REGEXP =
  /(?:^|[(,=:[!&|?{};+\-*%<>~^]|\b(?:return|typeof|case|in|of|do|else|yield|await))\s*$/;

const blank = (text: string): string => text.replaceAll(/[^\n]/g, ' ');

export function readSource(text: string): SourceText {
  let withStrings = '';
  let code = '';
  let at = 0;
  /** For each open template, how many braces are open inside its current `${`. */
  const templates: number[] = [];
  const keep = (length: number): void => {
    withStrings += text.slice(at, at + length);
    code += text.slice(at, at + length);
    at += length;
  };
  const quote = (length: number): void => {
    withStrings += text.slice(at, at + length);
    code += blank(text.slice(at, at + length));
    at += length;
  };
  const comment = (length: number): void => {
    withStrings += blank(text.slice(at, at + length));
    code += blank(text.slice(at, at + length));
    at += length;
  };
  /** Reads a template up to its end or its next `${`. */
  const template = (): void => {
    while (at < text.length && text[at] !== '`') {
      if (text.startsWith('${', at)) {
        keep(2);
        templates.push(0);
        return;
      }
      quote(text[at] === '\\' ? 2 : 1);
    }
    keep(1);
  };
  if (text.startsWith('#!')) comment(lengthOf(text, at, /[^\n]*/y));
  while (at < text.length) {
    const char = text[at] ?? '';
    const braces = templates.at(-1);
    if (text.startsWith('//', at)) comment(lengthOf(text, at, /[^\n]*/y));
    else if (text.startsWith('/*', at)) comment(lengthOf(text, at, /\/\*[^]*?(?:\*\/|$)/y));
    else if (char === "'" || char === '"') {
      const length = lengthOf(
        text,
        at,
        char === "'" ? /'(?:[^'\\\n]|\\[^])*'?/y : /"(?:[^"\\\n]|\\[^])*"?/y,
      );
      keep(1);
      quote(length - 2);
      keep(1);
    } else if (char === '`') {
      keep(1);
      template();
    } else if (char === '/' && BEFORE_REGEXP.test(code.slice(-80))) {
      quote(lengthOf(text, at, /\/(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*|\//y));
    } else if (char === '}' && braces === 0) {
      templates.pop();
      keep(1);
      template();
    } else {
      if (braces !== undefined && char === '{') templates[templates.length - 1] = braces + 1;
      if (braces !== undefined && char === '}') templates[templates.length - 1] = braces - 1;
      keep(1);
    }
  }
  return { withStrings, code };
}

function lengthOf(text: string, at: number, pattern: RegExp): number {
  pattern.lastIndex = at;
  return Math.max(1, pattern.exec(text)?.[0].length ?? 1);
}

const IMPORT =
  /\b(?:import|export)\b[^'"`;()]*?\bfrom\s*(['"])([^'"]+)\1|\bimport\s*(['"])([^'"]+)\3|\bimport\s*\(\s*(['"])([^'"]+)\5/g;

/** Every static, dynamic and type import and re-export. */
export function importsOf(source: SourceText): Import[] {
  // What stands inside quotes may look like an import; there `code` is blank.
  const matches = [...source.withStrings.matchAll(IMPORT)].filter(({ index }) =>
    /^(?:import|export)/.test(source.code.slice(index, index + 6)),
  );
  return matches.map((match) => ({
    specifier: match[2] ?? match[4] ?? match[6] ?? '',
    line: lineAt(source.withStrings, match.index),
  }));
}

export function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split('\n').length;
}
