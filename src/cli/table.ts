/** Tables as kubectl prints them: upper-case heads, three spaces, no boxes; `-` is no data. */

import { stripVTControlCharacters } from 'node:util';

const GAP = '   ';

/** `undefined` and an empty text become `-`. Numbers stand at the right of their column. */
export type Cell = string | number | undefined;

export interface TableOptions {
  /** Default true. */
  readonly headers?: boolean;
  /** Before every line. Default none. */
  readonly indent?: string;
}

function textOf(cell: Cell): string {
  return cell === undefined || cell === '' ? '-' : String(cell);
}

/** Width on a terminal: colours have none. */
export function visibleWidth(text: string): number {
  return Array.from(stripVTControlCharacters(text)).length;
}

function pad(text: string, width: number, right: boolean): string {
  const fill = ' '.repeat(Math.max(0, width - visibleWidth(text)));
  return right ? fill + text : text + fill;
}

/** Ends with a line feed; empty when there are no rows and no headers. */
export function formatTable(
  columns: readonly string[],
  rows: readonly (readonly Cell[])[],
  options: TableOptions = {},
): string {
  const { headers = true, indent = '' } = options;
  const lines = rows.map((row) => row.map(textOf));
  if (headers) lines.unshift([...columns]);
  const isRight = columns.map(
    (_, index) =>
      rows.some((row) => typeof row[index] === 'number') &&
      rows.every((row) => typeof (row[index] ?? 0) === 'number'),
  );
  const widths = columns.map((_, index) =>
    Math.max(0, ...lines.map((line) => visibleWidth(line[index] ?? ''))),
  );
  const format = (line: readonly string[]): string =>
    line.map((text, index) => pad(text, widths[index] ?? 0, isRight[index] ?? false)).join(GAP);
  return lines.map((line) => `${indent}${format(line).trimEnd()}\n`).join('');
}

/** Lines without colours, cut where the terminal ends. */
export function cutLines(text: string, columns: number | undefined): string {
  if (columns === undefined) return text;
  const cut = (line: string): string =>
    line.length > columns ? `${line.slice(0, columns - 1)}…` : line;
  return text.split('\n').map(cut).join('\n');
}

const SECOND = 1000;
const UNITS: readonly (readonly [unit: string, ms: number])[] = [
  ['d', 86_400 * SECOND],
  ['h', 3600 * SECOND],
  ['m', 60 * SECOND],
  ['s', SECOND],
];

/** `5m`, `26h`, `3d`: one unit, as coarse as still tells two apart. */
export function formatDuration(ms: number): string {
  if (Number.isNaN(ms)) return '-';
  const abs = Math.abs(ms);
  const [unit, size] = UNITS.find(([, length]) => abs >= 2 * length) ?? ['s', SECOND];
  return `${ms < 0 ? '-' : ''}${Math.floor(abs / size)}${unit}`;
}

export function formatBytes(bytes: number): string {
  const mb = bytes / 1_000_000;
  return mb >= 1000 ? `${(mb / 1000).toFixed(1)} GB` : `${Math.round(mb)} MB`;
}
