/**
 * `Result`: control-plane data as a value. Parsing and applying never throw for bad input; they return
 * `{ ok: false, error }`, so that one bad object marks only itself.
 */

import type { MeshError } from './errors.ts';

export type Result<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: MeshError };

export function ok<T>(value: T): Result<T> {
  return { ok: true, value };
}

export function fail<T = never>(error: MeshError): Result<T> {
  return { ok: false, error };
}

/** The value, or throws the error: for composition roots and tests, where bad input ends the act anyway. */
export function unwrap<T>(result: Result<T>): T {
  if (!result.ok) throw result.error;
  return result.value;
}
