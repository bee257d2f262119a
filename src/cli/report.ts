/**
 * JSON as a contract: `{"apiVersion":"meshctl/v1","kind":…}`, to which fields are only ever added. Golden tests hold each
 * kind; YAML is the same in another notation.
 */

import { stringify } from 'yaml';

import type { CommandIo } from './io.ts';

export function writeStructured(
  io: CommandIo,
  format: 'json' | 'yaml',
  kind: string,
  fields: Readonly<Record<string, unknown>>,
): void {
  const value = { apiVersion: 'meshctl/v1', kind, ...fields };
  if (format === 'json') io.out(`${JSON.stringify(value, null, 2)}\n`);
  // Through JSON, so that what that leaves out is left out here, too.
  else io.out(stringify(JSON.parse(JSON.stringify(value)), { lineWidth: 0 }));
}
