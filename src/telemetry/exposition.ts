/**
 * Series as text: Prometheus 0.0.4 and OpenMetrics 1.0, chosen by the scraper's `Accept` header. The text comes in
 * pieces, so that ten thousand series need neither one huge string nor one long turn of the loop.
 */

import { escapeLabelValue } from './series-store.ts';

export type Format = 'prometheus' | 'openmetrics';

export const CONTENT_TYPES: Readonly<Record<Format, string>> = {
  prometheus: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
};

/** One metric with its samples, ready to be written. */
export interface Exposition {
  /** Counters end in `_total`. */
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram' | 'summary';
  readonly samples: Iterable<Sample>;
}

export interface Sample {
  /** As the exposition's name, or with a suffix such as `_bucket`. */
  readonly name: string;
  /** `{…}` with escaped values, or empty. */
  readonly labelText: string;
  readonly value: number;
}

const PIECE_CHARS = 64 * 1024;
const ACCEPT_MAX_CHARS = 1024;

/**
 * OpenMetrics when asked for at least as strongly as plain text; plain text for everybody else. An `Accept` that
 * names neither gets plain text as well: a browser should see something.
 */
export function negotiateFormat(accept: string | undefined): Format {
  let best: Format = 'prometheus';
  let bestQuality = 0;
  for (const part of (accept ?? '').slice(0, ACCEPT_MAX_CHARS).split(',')) {
    const [type = '', ...parameters] = part.split(';').map((item) => item.trim().toLowerCase());
    const given = parameters.find((parameter) => parameter.startsWith('q='))?.slice(2) ?? '1';
    const quality = /^(?:0(?:\.\d{1,3})?|1(?:\.0{1,3})?)$/.test(given) ? Number(given) : 0;
    const version = parameters.find((parameter) => parameter.startsWith('version='))?.slice(8);
    const isOpen = type === 'application/openmetrics-text';
    if (isOpen && version !== undefined && !/^"?(?:0\.0\.1|1\.0\.0)"?$/.test(version)) continue;
    if (!isOpen && type !== 'text/plain') continue;
    if (quality > bestQuality) {
      best = isOpen ? 'openmetrics' : 'prometheus';
      bestQuality = quality;
    } else if (quality === bestQuality && quality > 0 && isOpen) {
      best = 'openmetrics';
    }
  }
  return best;
}

export function formatLabelPairs(
  labels: Readonly<Record<string, string | number | undefined>>,
): string {
  const pairs = Object.entries(labels).map(
    ([name, value]) => `${name}="${escapeLabelValue(String(value ?? ''))}"`,
  );
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function formatValue(value: number): string {
  if (value === Infinity) return '+Inf';
  if (value === -Infinity) return '-Inf';
  return String(value);
}

function formatHelp(help: string, format: Format): string {
  const text = help.replaceAll('\\', String.raw`\\`).replaceAll('\n', String.raw`\n`);
  return format === 'openmetrics' ? text.replaceAll('"', String.raw`\"`) : text;
}

/** Yields pieces of about 64 Ki characters. Metrics without samples are left out. */
export function* renderExpositions(
  expositions: Iterable<Exposition>,
  format: Format,
): Generator<string> {
  let piece = '';
  for (const { name, help, type, samples } of expositions) {
    // OpenMetrics names the family without the suffix that its samples have.
    const family =
      format === 'openmetrics' && type === 'counter' ? name.replace(/_total$/, '') : name;
    let head = `# HELP ${family} ${formatHelp(help, format)}\n# TYPE ${family} ${type}\n`;
    for (const sample of samples) {
      piece += `${head}${sample.name}${sample.labelText} ${formatValue(sample.value)}\n`;
      head = '';
      if (piece.length < PIECE_CHARS) continue;
      yield piece;
      piece = '';
    }
  }
  if (format === 'openmetrics') piece += '# EOF\n';
  if (piece !== '') yield piece;
}
