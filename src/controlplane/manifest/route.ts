/**
 * Reads HTTPRoute, GRPCRoute, TLSRoute and TCPRoute, the experimental fields `retry` and `sessionPersistence`
 * included. What the API server's schema refuses is refused here too, since a folder of manifests has no
 * schema; what it lets pass (a filter of a kind nobody knows) is kept, so that its rule can answer 500.
 */

import {
  ANY_SERVICE,
  type HttpMatch,
  type NamedMatch,
  type PathMatch,
  type RouteRetry,
  type SessionPersistence,
} from '../../core/route.ts';
import { parseDuration } from '../../core/duration.ts';
import {
  normalGroup,
  type BackendRef,
  type ParentRef,
  type RouteFilter,
  type RouteObject,
  type RouteObjectRule,
  type WeightedRef,
} from '../gateway-objects.ts';
import type { ObjectMeta } from '../objects.ts';
import type { Fields } from './fields.ts';
import { readGeneration } from './metadata.ts';
import { isStated } from './gateway.ts';
import { readFilters } from './route-filters.ts';

/** Gateway API allows 16 rules and 64 matches each; files may be more generous. */
const RULES_MAX = 1_024;
const MATCHES_MAX = 256;
const CONDITIONS_MAX = 64;
const REFS_MAX = 256;
const HOSTNAMES_MAX = 256;
const WEIGHT_MAX = 1_000_000;
const HOSTNAME = /^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;
const METHODS = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'DELETE',
  'CONNECT',
  'OPTIONS',
  'TRACE',
  'PATCH',
] as const;
const EVERY_PATH: PathMatch = { kind: 'prefix', value: '/' };
const NO_TIMES = { requestTimeoutMs: undefined, backendRequestTimeoutMs: undefined };

export function readHttpRoute(root: Fields, meta: ObjectMeta): RouteObject {
  return readRoute(root, meta, 'HTTPRoute', (rule) => readHttpRule(rule, meta));
}

export function readGrpcRoute(root: Fields, meta: ObjectMeta): RouteObject {
  return readRoute(root, meta, 'GRPCRoute', (rule) => readGrpcRule(rule, meta));
}

export function readTlsRoute(root: Fields, meta: ObjectMeta): RouteObject {
  return readRoute(root, meta, 'TLSRoute', (rule) => readConnectionRule(rule, meta));
}

export function readTcpRoute(root: Fields, meta: ObjectMeta): RouteObject {
  return readRoute(root, meta, 'TCPRoute', (rule) => readConnectionRule(rule, meta));
}

function readRoute(
  root: Fields,
  meta: ObjectMeta,
  kind: RouteObject['kind'],
  readRule: (rule: Fields) => RouteObjectRule,
): RouteObject {
  const spec = root.object('spec');
  const hostnames = kind === 'TCPRoute' ? [] : (spec?.strings('hostnames', HOSTNAMES_MAX) ?? []);
  for (const hostname of hostnames) {
    if (hostname.length > 253 || !HOSTNAME.test(hostname)) {
      spec?.problem('hostnames', `${JSON.stringify(hostname.slice(0, 64))} is not a host name`);
    }
  }
  const rules = (spec?.objects('rules', RULES_MAX) ?? []).map(readRule);
  // Without any rule there is one that takes everything to nowhere, as the schema's default says.
  if (rules.length === 0 && kind === 'HTTPRoute') rules.push(emptyRule());
  return {
    kind,
    meta,
    generation: readGeneration(root),
    parents: (spec?.objects('parentRefs', REFS_MAX) ?? []).map((ref) => readParent(ref, meta)),
    hostnames,
    rules,
    stated: isStated(root, 'parents'),
  };
}

/** Milliseconds; undefined when absent, or malformed, which is a problem. */
function readDuration(fields: Fields, key: string): number | undefined {
  const text = fields.string(key);
  const parsed = text === '' ? undefined : parseDuration(text);
  if (parsed?.ok === false) fields.problem(key, parsed.error.message);
  return parsed?.ok === true ? parsed.value : undefined;
}

function emptyRule(): RouteObjectRule {
  return {
    name: '',
    matches: [{ path: EVERY_PATH, method: '', headers: [], queryParams: [] }],
    filters: [],
    backends: [],
    ...NO_TIMES,
    retry: undefined,
    sessionPersistence: undefined,
  };
}

function readParent(ref: Fields, meta: ObjectMeta): ParentRef {
  return {
    // A parent without a kind is a Gateway, which belongs to others.
    group: normalGroup(ref.string('group', 'gateway.networking.k8s.io')),
    kind: ref.string('kind', 'Gateway'),
    namespace: ref.string('namespace', meta.namespace),
    name: ref.string('name'),
    sectionName: ref.string('sectionName'),
    port: ref.integer('port', 1, 65_535),
  };
}

function readBackendRef(ref: Fields, meta: ObjectMeta): BackendRef {
  return {
    group: normalGroup(ref.string('group')),
    kind: ref.string('kind', 'Service'),
    namespace: ref.string('namespace', meta.namespace),
    name: ref.string('name'),
    port: ref.integer('port', 1, 65_535),
  };
}

function readBackends(
  rule: Fields,
  meta: ObjectMeta,
  filters: (ref: Fields) => RouteFilter[],
): WeightedRef[] {
  return rule.objects('backendRefs', REFS_MAX).map((ref) => ({
    ref: readBackendRef(ref, meta),
    weight: ref.integer('weight', 0, WEIGHT_MAX) ?? 1,
    filters: filters(ref),
  }));
}

function readHttpRule(rule: Fields, meta: ObjectMeta): RouteObjectRule {
  const matches = rule.objects('matches', MATCHES_MAX).map(readHttpMatch);
  const timeouts = rule.object('timeouts');
  const requestTimeoutMs = timeouts && readDuration(timeouts, 'request');
  const backendRequestTimeoutMs = timeouts && readDuration(timeouts, 'backendRequest');
  if (
    requestTimeoutMs !== undefined &&
    backendRequestTimeoutMs !== undefined &&
    requestTimeoutMs > 0 &&
    backendRequestTimeoutMs > requestTimeoutMs
  ) {
    timeouts?.problem('backendRequest', 'must not be longer than request');
  }
  return {
    name: rule.string('name'),
    matches: matches.length > 0 ? matches : emptyRule().matches,
    filters: readFilters(rule, meta),
    backends: readBackends(rule, meta, (ref) => readFilters(ref, meta)),
    requestTimeoutMs,
    backendRequestTimeoutMs,
    retry: readRetry(rule.object('retry')),
    sessionPersistence: readPersistence(rule.object('sessionPersistence')),
  };
}

function readHttpMatch(match: Fields): HttpMatch {
  return {
    path: readPath(match.object('path')),
    method: match.oneOf('method', METHODS) ?? '',
    headers: readNamed(match, 'headers', true),
    queryParams: readNamed(match, 'queryParams', false),
  };
}

function readPath(path: Fields | undefined): PathMatch {
  if (path === undefined) return EVERY_PATH;
  const type = path.oneOf('type', ['Exact', 'PathPrefix', 'RegularExpression'] as const);
  const value = path.string('value', '/');
  if (type === 'RegularExpression') return { kind: 'regex', value };
  if (!value.startsWith('/')) path.problem('value', 'must begin with "/"');
  if (type === 'Exact') return { kind: 'exact', value };
  // "/abc/" and "/abc" are the same prefix.
  return { kind: 'prefix', value: value.length > 1 ? value.replace(/\/$/, '') : value };
}

/** Of entries with the same name the first counts, as the API says. */
function readNamed(match: Fields, key: string, lowerCase: boolean): NamedMatch[] {
  const found = new Map<string, NamedMatch>();
  for (const entry of match.objects(key, CONDITIONS_MAX)) {
    const written = entry.string('name');
    if (written === '') entry.problem('name', 'is missing');
    const name = lowerCase ? written.toLowerCase() : written;
    const type = entry.oneOf('type', ['Exact', 'RegularExpression'] as const) ?? 'Exact';
    const kind = type === 'Exact' ? 'exact' : 'regex';
    if (!found.has(name)) found.set(name, { name, match: { kind, value: entry.string('value') } });
  }
  return [...found.values()];
}

function readRetry(retry: Fields | undefined): RouteRetry | undefined {
  if (retry === undefined) return undefined;
  const codes: number[] = [];
  for (const code of retry.list('codes', CONDITIONS_MAX)) {
    if (typeof code === 'number' && Number.isInteger(code) && code >= 400 && code <= 599) {
      codes.push(code);
    } else {
      retry.problem('codes', 'must hold status codes from 400 to 599');
    }
  }
  const attempts = retry.integer('attempts', 0, 1_000) ?? 1;
  return { attempts, codes, backoffMs: readDuration(retry, 'backoff') };
}

function readPersistence(session: Fields | undefined): SessionPersistence | undefined {
  if (session === undefined) return undefined;
  const type = session.oneOf('type', ['Cookie', 'Header'] as const) ?? 'Cookie';
  const permanent = session.object('cookieConfig')?.string('lifetimeType') === 'Permanent';
  const absoluteTimeoutMs = readDuration(session, 'absoluteTimeout');
  if (permanent && absoluteTimeoutMs === undefined) {
    session.problem('absoluteTimeout', 'is needed with a permanent cookie');
  }
  return {
    kind: type === 'Cookie' ? 'cookie' : 'header',
    name: session.string('sessionName'),
    absoluteTimeoutMs,
    idleTimeoutMs: readDuration(session, 'idleTimeout'),
  };
}

function readGrpcRule(rule: Fields, meta: ObjectMeta): RouteObjectRule {
  const matches = rule.objects('matches', MATCHES_MAX).map((match) => ({
    path: readGrpcMethod(match.object('method')),
    method: '',
    headers: readNamed(match, 'headers', true),
    queryParams: [],
  }));
  return {
    name: rule.string('name'),
    matches: matches.length > 0 ? matches : emptyRule().matches,
    filters: readFilters(rule, meta),
    backends: readBackends(rule, meta, (ref) => readFilters(ref, meta)),
    ...NO_TIMES,
    retry: undefined,
    sessionPersistence: readPersistence(rule.object('sessionPersistence')),
  };
}

/** A call of gRPC is a POST to `/SERVICE/METHOD`. */
function readGrpcMethod(method: Fields | undefined): PathMatch {
  if (method === undefined) return EVERY_PATH;
  const type = method.oneOf('type', ['Exact', 'RegularExpression'] as const) ?? 'Exact';
  const service = method.string('service');
  const name = method.string('method');
  if (service === '' && name === '') method.problem('service', 'or method is needed');
  if (type === 'RegularExpression') {
    const part = (text: string): string => (text === '' ? '[^/]+' : `(?:${text})`);
    const start = service === '' ? ANY_SERVICE : `/${part(service)}/`;
    return { kind: 'regex', value: `${start}${part(name)}` };
  }
  if (!/^[A-Za-z0-9_.]*$/.test(service)) method.problem('service', 'is not a gRPC service name');
  if (!/^[A-Za-z0-9_]*$/.test(name)) method.problem('method', 'is not a gRPC method name');
  if (service === '') return { kind: 'regex', value: `${ANY_SERVICE}${name}` };
  if (name === '') return { kind: 'prefix', value: `/${service}` };
  return { kind: 'exact', value: `/${service}/${name}` };
}

function readConnectionRule(rule: Fields, meta: ObjectMeta): RouteObjectRule {
  return {
    name: rule.string('name'),
    matches: [],
    filters: [],
    backends: readBackends(rule, meta, () => []),
    ...NO_TIMES,
    retry: undefined,
    sessionPersistence: undefined,
  };
}
