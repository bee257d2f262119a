/**
 * Trace contexts in headers: W3C `traceparent`, and B3 in one field or several. Read strictly; what is malformed is as
 * good as absent, and two of one kind are.
 */

import type { HeaderField, HeaderList } from './h2/contract.ts';

export interface TraceContext {
  /** 32 hex digits, not all zero. */
  readonly traceId: string;
  /** 16 hex digits of the caller's span. */
  readonly parentId: string;
  /** Undefined: the caller leaves it to us (B3 only). */
  readonly sampled: boolean | undefined;
  /** Which forms the caller speaks, so that the next hop hears the same. */
  readonly forms: readonly TraceForm[];
}

export type TraceForm = 'w3c' | 'b3' | 'b3-multi';

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
const B3 = /^([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?$/i;
const NAMES: ReadonlySet<string> = new Set([
  'traceparent',
  'b3',
  'x-b3-traceid',
  'x-b3-spanid',
  'x-b3-sampled',
  'x-b3-flags',
]);

/** W3C first, then B3 in one field, then in several. Undefined: none that is well formed. */
export function readTraceContext(headers: HeaderList): TraceContext | undefined {
  let found: Map<string, string> | undefined;
  for (const [name, value] of headers) {
    if (!NAMES.has(name)) continue;
    found ??= new Map();
    found.set(name, found.has(name) ? '' : value);
  }
  if (found === undefined) return undefined;
  const contexts = [readW3c(found), readB3(found), readB3Multi(found)];
  const [first, ...others] = contexts.filter((context) => context !== undefined);
  if (first === undefined) return undefined;
  return { ...first, forms: [...first.forms, ...others.flatMap(({ forms }) => forms)] };
}

/** The fields that tell the next hop; replace those of the same names. `tracestate` passes as it is. */
export function traceFields(
  traceId: string,
  spanId: string,
  sampled: boolean,
  forms: readonly TraceForm[],
): HeaderField[] {
  const fields: HeaderField[] = [['traceparent', `00-${traceId}-${spanId}-0${sampled ? 1 : 0}`]];
  const flag = sampled ? '1' : '0';
  if (forms.includes('b3')) fields.push(['b3', `${traceId}-${spanId}-${flag}`]);
  if (forms.includes('b3-multi')) {
    fields.push(['x-b3-traceid', traceId], ['x-b3-spanid', spanId], ['x-b3-sampled', flag]);
  }
  return fields;
}

function make(
  traceId: string,
  parentId: string,
  sampled: boolean | undefined,
  form: TraceForm,
): TraceContext | undefined {
  if (/^0+$/.test(traceId) || /^0+$/.test(parentId)) return undefined;
  return { traceId: traceId.padStart(32, '0'), parentId, sampled, forms: [form] };
}

/** W3C Trace Context, section 3.2: later versions may append, version ff is invalid. */
function readW3c(found: ReadonlyMap<string, string>): TraceContext | undefined {
  const match = TRACEPARENT.exec(found.get('traceparent') ?? '');
  if (match === null) return undefined;
  const [, version = '', traceId = '', parentId = '', flags = '', rest] = match;
  if (version === 'ff' || (version === '00' && rest !== undefined)) return undefined;
  return make(traceId, parentId, (Number.parseInt(flags, 16) & 1) === 1, 'w3c');
}

function readB3(found: ReadonlyMap<string, string>): TraceContext | undefined {
  const match = B3.exec(found.get('b3') ?? '');
  if (match === null) return undefined;
  const [, traceId = '', parentId = '', state] = match;
  const sampled = state === undefined ? undefined : state !== '0';
  return make(traceId.toLowerCase(), parentId.toLowerCase(), sampled, 'b3');
}

function readB3Multi(found: ReadonlyMap<string, string>): TraceContext | undefined {
  const ids = `${found.get('x-b3-traceid') ?? ''}-${found.get('x-b3-spanid') ?? ''}`;
  const match = B3.exec(ids);
  if (match === null) return undefined;
  const [, traceId = '', parentId = ''] = match;
  const state = found.get('x-b3-flags') === '1' ? '1' : found.get('x-b3-sampled');
  const known = state === '1' || state === '0' || state === 'true' || state === 'false';
  const sampled = known ? state === '1' || state === 'true' : undefined;
  return make(traceId.toLowerCase(), parentId.toLowerCase(), sampled, 'b3-multi');
}
