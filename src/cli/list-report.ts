/** A list in every form that a command can give it: a table, a wider one, JSON or YAML as a contract, or names for kubectl. */

import type { CommandIo } from './io.ts';
import type { ListFormat } from './output-format.ts';
import { writeStructured } from './report.ts';
import { formatTable, type Cell } from './table.ts';

/** What every list takes. */
export interface ListArgs {
  readonly output: ListFormat;
  readonly headers: boolean;
  /** Label selector, as kubectl takes it; undefined: all. */
  readonly selector?: string | undefined;
}

export interface Column<T> {
  readonly head: string;
  readonly cell: (item: T) => Cell;
  /** Only with `-o wide`. */
  readonly wide?: boolean;
}

export interface ListReport<T> {
  /** Of the JSON. */
  readonly kind: string;
  readonly items: readonly T[];
  readonly columns: readonly Column<T>[];
  readonly json: (item: T) => object;
  /** `RESOURCE/NAME`, as `kubectl -o name` prints it. */
  readonly name: (item: T) => string;
  /** Said, not printed as data, when there is nothing to show in a table and nothing was left out. */
  readonly empty: string;
}

/** The table alone; empty without rows and heads. */
export function formatList<T>(
  columns: readonly Column<T>[],
  items: readonly T[],
  options: { readonly headers?: boolean; readonly wide?: boolean } = {},
): string {
  const { headers = true, wide = false } = options;
  const shown = columns.filter((column) => column.wide !== true || wide);
  const rows = items.map((item) => shown.map(({ cell }) => cell(item)));
  return formatTable(
    shown.map(({ head }) => head),
    rows,
    { headers },
  );
}

export function writeList<T>(io: CommandIo, args: ListArgs, report: ListReport<T>): void {
  const { items } = report;
  switch (args.output) {
    case 'json':
    case 'yaml':
      return writeStructured(io, args.output, report.kind, { items: items.map(report.json) });
    case 'name':
      return io.out(items.map((item) => `${report.name(item)}\n`).join(''));
    case 'table':
    case 'wide': {
      if (items.length === 0) {
        const { selector } = args;
        const none = `Nothing here has labels "${selector}"; without -l there may be more\n`;
        return io.err(selector === undefined ? report.empty : none);
      }
      const { headers, output } = args;
      return io.out(formatList(report.columns, items, { headers, wide: output === 'wide' }));
    }
  }
}
