/** Reads the filters of routes and backends. One that nobody knows is kept as such: its rule answers 500. */

import type { Cors, HeaderChange, PathChange, Redirect } from '../../core/route.ts';
import { normalGroup, type RouteFilter } from '../gateway-objects.ts';
import type { ObjectMeta } from '../objects.ts';
import type { Fields } from './fields.ts';

const FILTERS_MAX = 64;
const LIST_MAX = 256;
const CORS_MAX_AGE_DEFAULT_S = 5;
const HEADER_NAME = /^[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}$/;
/** No control characters: RFC 9110 section 5.5. */
const HEADER_VALUE = /^[\t\x20-\x7e\x80-\u{10ffff}]*$/u;
const REDIRECT_STATUSES = [301, 302, 303, 307, 308] as const;

export function readFilters(fields: Fields, meta: ObjectMeta): RouteFilter[] {
  return fields.objects('filters', FILTERS_MAX).map((filter) => readFilter(filter, meta));
}

function readFilter(filter: Fields, meta: ObjectMeta): RouteFilter {
  const type = filter.string('type');
  const part = (key: string): Fields | undefined => {
    const found = filter.object(key);
    if (found === undefined) filter.problem(key, `is needed with type ${type}`);
    return found;
  };
  switch (type) {
    case 'RequestHeaderModifier':
      return { kind: 'request-headers', change: readHeaders(part('requestHeaderModifier')) };
    case 'ResponseHeaderModifier':
      return { kind: 'response-headers', change: readHeaders(part('responseHeaderModifier')) };
    case 'RequestRedirect':
      return { kind: 'redirect', redirect: readRedirect(part('requestRedirect')) };
    case 'URLRewrite': {
      const rewrite = part('urlRewrite');
      const hostname = optional(rewrite, 'hostname');
      return { kind: 'rewrite', rewrite: { hostname, path: readPathChange(rewrite) } };
    }
    case 'RequestMirror':
      return readMirror(part('requestMirror'), meta);
    case 'CORS':
      return { kind: 'cors', cors: readCors(part('cors')) };
    default:
      return { kind: 'unknown', type: type.slice(0, 64) };
  }
}

function optional(fields: Fields | undefined, key: string): string | undefined {
  const text = fields?.string(key) ?? '';
  return text === '' ? undefined : text;
}

/** Of entries with the same name the first counts; names are compared without case. */
function readHeaders(fields: Fields | undefined): HeaderChange {
  const pairs = (key: string): [string, string][] => {
    const found = new Map<string, string>();
    for (const entry of fields?.objects(key, LIST_MAX) ?? []) {
      const name = entry.string('name');
      const value = entry.string('value');
      if (!HEADER_NAME.test(name)) entry.problem('name', 'is not a header name');
      if (!HEADER_VALUE.test(value)) entry.problem('value', 'holds a control character');
      if (!found.has(name.toLowerCase())) found.set(name.toLowerCase(), value);
    }
    return [...found];
  };
  const remove = (fields?.strings('remove', LIST_MAX) ?? []).map((name) => name.toLowerCase());
  return { set: pairs('set'), add: pairs('add'), remove };
}

function readPathChange(fields: Fields | undefined): PathChange | undefined {
  const path = fields?.object('path');
  if (path === undefined) return undefined;
  const type = path.oneOf('type', ['ReplaceFullPath', 'ReplacePrefixMatch'] as const);
  if (type === undefined) path.problem('type', 'is missing or unknown');
  return type === 'ReplaceFullPath'
    ? { kind: 'full', value: path.string('replaceFullPath') }
    : { kind: 'prefix', value: path.string('replacePrefixMatch') };
}

function readRedirect(fields: Fields | undefined): Redirect {
  const code = fields?.integer('statusCode', 300, 399) ?? 302;
  const status = REDIRECT_STATUSES.find((known) => known === code);
  if (status === undefined) fields?.problem('statusCode', 'must be 301, 302, 303, 307 or 308');
  return {
    scheme: fields?.oneOf('scheme', ['http', 'https'] as const),
    hostname: optional(fields, 'hostname'),
    port: fields?.integer('port', 1, 65_535),
    path: readPathChange(fields),
    status: status ?? 302,
  };
}

function readMirror(fields: Fields | undefined, meta: ObjectMeta): RouteFilter {
  const ref = fields?.object('backendRef');
  if (ref === undefined) fields?.problem('backendRef', 'is missing');
  const fraction = fields?.object('fraction');
  const denominator = fraction?.integer('denominator', 1, 2_147_483_647) ?? 100;
  const percent = fields?.integer('percent', 0, 100) ?? 100;
  const numerator = fraction?.integer('numerator', 0, denominator) ?? (fraction ? 0 : percent);
  return {
    kind: 'mirror',
    backendRef: {
      group: normalGroup(ref?.string('group') ?? ''),
      kind: ref?.string('kind', 'Service') ?? 'Service',
      namespace: ref?.string('namespace', meta.namespace) ?? meta.namespace,
      name: ref?.string('name') ?? '',
      port: ref?.integer('port', 1, 65_535),
    },
    numerator,
    denominator,
  };
}

function readCors(fields: Fields | undefined): Cors {
  const texts = (key: string): string[] => fields?.strings(key, LIST_MAX) ?? [];
  return {
    allowOrigins: texts('allowOrigins'),
    allowCredentials: fields?.boolean('allowCredentials') ?? false,
    allowMethods: texts('allowMethods'),
    allowHeaders: texts('allowHeaders'),
    exposeHeaders: texts('exposeHeaders'),
    maxAgeS: fields?.integer('maxAge', 0, 2_147_483_647) ?? CORS_MAX_AGE_DEFAULT_S,
  };
}
