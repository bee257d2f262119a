/**
 * Configuration as rows: name, default, unit and meaning of every setting, read from an injected `get` (the
 * environment in production). All errors are reported at once, the result is frozen, and README's table is
 * made from the same rows.
 */

import { MeshError } from '../../base/errors.ts';
import { fail, ok, type Result } from '../../base/result.ts';

/** One setting. Without a default it is required. */
export interface Row<T> {
  readonly env: string;
  readonly default?: string;
  readonly unit?: string;
  readonly doc: string;
  readonly parse: (text: string) => Result<T>;
}

function invalid(reason: string): Result<never> {
  return fail(new MeshError('MESH_CONFIG_INVALID', reason));
}

export function text(given: string): Result<string> {
  return given === '' ? invalid('empty') : ok(given);
}

export function optionalText(given: string): Result<string> {
  return ok(given);
}

/** A path; it must be absolute, so that a service's working directory never matters. */
export function path(given: string): Result<string> {
  return given.startsWith('/') ? ok(given) : invalid('not an absolute path');
}

export function optionalPath(given: string): Result<string> {
  return given === '' ? ok('') : path(given);
}

/** Empty, or an HTTP or HTTPS URL. */
export function optionalHttpUrl(given: string): Result<string> {
  if (given === '' || /^https?:$/.test(URL.parse(given)?.protocol ?? '')) return ok(given);
  return invalid('not an HTTP URL');
}

/** A number from 0 to 1. */
export function ratio(given: string): Result<number> {
  return /^(?:0|1|0?\.[0-9]{1,6}|1\.0{1,6})$/.test(given)
    ? ok(Number(given))
    : invalid('not a number from 0 to 1');
}

export function integer(min: number, max: number): (given: string) => Result<number> {
  return (given) => {
    if (!/^(0|[1-9]\d{0,9})$/.test(given) || Number(given) < min || Number(given) > max) {
      return invalid(`not a whole number from ${min} to ${max}`);
    }
    return ok(Number(given));
  };
}

export function oneOf<const T extends string>(
  ...values: readonly T[]
): (given: string) => Result<T> {
  return (given) => {
    const value = values.find((candidate) => candidate === given);
    return value === undefined ? invalid(`not one of ${values.join(', ')}`) : ok(value);
  };
}

/** `HOST:PORT` where the host may be a name. */
export function hostPort(given: string): Result<{ readonly host: string; readonly port: number }> {
  const colon = given.lastIndexOf(':');
  const port = integer(1, 65_535)(given.slice(colon + 1));
  const host = given.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  if (colon <= 0 || host === '' || !port.ok) return invalid('not of the form HOST:PORT');
  return ok({ host, port: port.value });
}

export type Rows = Readonly<Record<string, Row<unknown>>>;
export type Settings<R extends Rows> = {
  readonly [K in keyof R]: R[K] extends Row<infer T> ? T : never;
};

/** Reads every row; one error names all that is wrong, with variable, value and reason. */
export function readSettings<R extends Rows>(
  rows: R,
  get: (name: string) => string | undefined,
): Result<Settings<R>> {
  const values: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  const problems: string[] = [];
  for (const [name, row] of Object.entries(rows)) {
    const given = get(row.env) ?? row.default;
    if (given === undefined) {
      problems.push(`${row.env} is not set (${row.doc})`);
      continue;
    }
    const parsed = row.parse(given);
    if (parsed.ok) values[name] = parsed.value;
    else problems.push(`${row.env}=${JSON.stringify(given)}: ${parsed.error.message}`);
  }
  if (problems.length > 0) {
    const message = `Cannot start: ${problems.join('; ')}`;
    return fail(new MeshError('MESH_CONFIG_INVALID', message));
  }
  return ok(Object.freeze(values) as Settings<R>);
}
