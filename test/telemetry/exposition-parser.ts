/**
 * A strict reader of the two text formats, for tests: refuses what the specifications do not allow instead of making
 * the best of it.
 */

export interface ParsedSample {
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly value: number;
}

export interface ParsedFamily {
  readonly type: string;
  readonly help: string;
  readonly samples: ParsedSample[];
}

const SUFFIXES: Readonly<Record<string, readonly string[]>> = {
  gauge: [''],
  histogram: ['_bucket', '_sum', '_count'],
  summary: ['', '_sum', '_count'],
};
const VALUE = /^(?:[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN)$/;

function parseLabels(text: string, line: string): Map<string, string> {
  const labels = new Map<string, string>();
  const pair = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)/y;
  while (pair.lastIndex < text.length) {
    const match = pair.exec(text);
    if (match === null) throw new Error(`bad labels: ${line}`);
    const [, name = '', value = '', comma] = match;
    if (labels.has(name)) throw new Error(`label twice: ${line}`);
    labels.set(
      name,
      value.replaceAll(/\\(.)/g, (_, char) => (char === 'n' ? '\n' : String(char))),
    );
    if (comma === ',' && pair.lastIndex === text.length) throw new Error(`open comma: ${line}`);
  }
  return labels;
}

/** Throws at the first line that the format does not allow. */
export function parseExposition(
  text: string,
  format: 'prometheus' | 'openmetrics',
): Map<string, ParsedFamily> {
  const families = new Map<string, ParsedFamily>();
  const seen = new Set<string>();
  let current = '';
  let isEnded = false;
  if (!text.isWellFormed()) throw new Error('not Unicode');
  if (!text.endsWith('\n')) throw new Error('no line break at the end');
  let help: [name: string, text: string] | undefined;
  for (const line of text.slice(0, -1).split('\n')) {
    if (isEnded) throw new Error(`after the end: ${line}`);
    if (line === '# EOF' && format === 'openmetrics') {
      isEnded = true;
      continue;
    }
    const meta = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) ([^\n]*)$/.exec(line);
    if (meta !== null) {
      const [, kind, name = '', rest = ''] = meta;
      if (kind === 'HELP') {
        if (families.has(name)) throw new Error(`family twice: ${line}`);
        help = [name, rest];
      } else {
        if (help?.[0] !== name) throw new Error(`TYPE without HELP: ${line}`);
        if (!/^(?:counter|gauge|histogram|summary)$/.test(rest)) throw new Error(`type: ${line}`);
        families.set(name, { type: rest, help: help[1], samples: [] });
        current = name;
      }
      continue;
    }
    const sample = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^\n]*)\})? (\S+)$/.exec(line);
    if (sample === null) throw new Error(`not a sample: ${line}`);
    const [, name = '', labelText = '', value = ''] = sample;
    const family = families.get(current);
    if (family === undefined) throw new Error(`sample without family: ${line}`);
    const counter = format === 'openmetrics' ? ['_total'] : [''];
    const allowed = family.type === 'counter' ? counter : (SUFFIXES[family.type] ?? []);
    if (!allowed.some((suffix) => name === current + suffix)) throw new Error(`name: ${line}`);
    if (!VALUE.test(value)) throw new Error(`value: ${line}`);
    const labels = parseLabels(labelText, line);
    const key = `${name}|${[...labels].map(String).toSorted().join('|')}`;
    if (seen.has(key)) throw new Error(`series twice: ${line}`);
    seen.add(key);
    const number = Number(value.replace('Inf', 'Infinity'));
    if (family.type === 'counter' && !(number >= 0)) throw new Error(`counter: ${line}`);
    family.samples.push({ name, labels, value: number });
  }
  if (format === 'openmetrics' && !isEnded) throw new Error('no # EOF');
  return families;
}
