/**
 * `nodemesh.v1.WaypointService` ↔ `core/route.ts`: what a waypoint routes by, for one service. Strict in both
 * senses: an unknown enum value, filter or match is an error (the waypoint keeps its last good version), since
 * a condition that is dropped would send requests elsewhere.
 */

import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf';

import type { Result } from '../base/result.ts';
import type {
  Backend,
  ConnectionRule,
  Cors,
  HeaderChange,
  HttpFilter,
  HttpMatch,
  HttpRule,
  NamedMatch,
  PathChange,
  PathMatch,
  Redirect,
  RouteRef,
  RouteRetry,
  RouteSet,
  SessionPersistence,
  ValueMatch,
  WaypointPort,
  WaypointService,
  WeightedBackend,
} from '../core/route.ts';
import { APP_PROTOCOLS, serviceKey, type ServiceKey } from '../core/workload.ts';
import {
  decodeBounded,
  invalidField,
  readList,
  readPort,
  readRequired,
  readSafeInteger,
  readText,
} from './codec-fields.ts';
import type { AppProtocol as AppProtocolNumber } from './gen/istio/workload/workload_pb.ts';
import {
  Redirect_Scheme,
  RouteRef_Kind,
  SessionPersistence_Kind,
  WaypointServiceSchema,
  type BackendSchema,
  type ConnectionRuleSchema,
  type HeaderChangeSchema,
  type HttpFilterSchema,
  type HttpMatchSchema,
  type HttpRuleSchema,
  type NamedMatchSchema,
  type PathChangeSchema,
  type RouteRefSchema,
  type RouteSetSchema,
  type WeightedBackendSchema,
  type Backend as BackendMessage,
  type ConnectionRule as ConnectionRuleMessage,
  type Cors as CorsMessage,
  type HeaderChange as HeaderChangeMessage,
  type HttpFilter as HttpFilterMessage,
  type HttpMatch as HttpMatchMessage,
  type HttpRule as HttpRuleMessage,
  type NamedMatch as NamedMatchMessage,
  type PathChange as PathChangeMessage,
  type PathMatch as PathMatchMessage,
  type Redirect as RedirectMessage,
  type RouteRef as RouteRefMessage,
  type RouteRetry as RouteRetryMessage,
  type RouteSet as RouteSetMessage,
  type SessionPersistence as SessionPersistenceMessage,
  type ValueMatch as ValueMatchMessage,
  type WaypointPort as WaypointPortMessage,
  type WeightedBackend as WeightedBackendMessage,
} from './gen/nodemesh/v1/waypoint_pb.ts';
import { createWireResource, type WireResource } from './wire-resource.ts';

/** One service's routes: some 50,000 rules fit. */
export const WAYPOINT_SERVICE_BYTES_MAX = 16_777_216;
const PORTS_MAX = 1_000;
const NAMESPACES_MAX = 10_000;
export const RULES_MAX = 50_000;
const LIST_MAX = 1_024;
const VALUE_CHARS_MAX = 4_096;
const KINDS = ['HTTPRoute', 'GRPCRoute', 'TLSRoute', 'TCPRoute'] as const;
const REDIRECT_STATUSES = [301, 302, 303, 307, 308] as const;
const WEIGHT_MAX = 1_000_000;

/** Named by the service's key. */
export function waypointServiceResource(service: WaypointService): WireResource {
  const [namespace, hostname] = splitKey(service.key);
  const ports = service.ports.map((port) => ({
    port: port.port,
    appProtocol: APP_PROTOCOLS.indexOf(port.appProtocol) as AppProtocolNumber,
    producer: setInit(port.producer),
    consumers: Object.fromEntries([...port.consumers].map(([name, set]) => [name, setInit(set)])),
  }));
  const message = create(WaypointServiceSchema, { namespace, hostname, ports });
  return createWireResource(service.key, toBinary(WaypointServiceSchema, message));
}

/** Reads the `Any` value of a `nodemesh.v1.WaypointService`. */
export function decodeWaypointService(body: Uint8Array): Result<WaypointService> {
  return decodeBounded(
    WaypointServiceSchema,
    body,
    (message): WaypointService => ({
      key: readKey(message.namespace, message.hostname),
      ports: readList('ports', message.ports, PORTS_MAX, readWaypointPort),
    }),
    WAYPOINT_SERVICE_BYTES_MAX,
  );
}

function splitKey(key: ServiceKey): [namespace: string, hostname: string] {
  const slash = key.indexOf('/');
  return [key.slice(0, slash), key.slice(slash + 1)];
}

function readKey(namespace: string, hostname: string): ServiceKey {
  return serviceKey(readRequired('namespace', namespace), readRequired('hostname', hostname));
}

// === encoding ===

function setInit(set: RouteSet): MessageInitShape<typeof RouteSetSchema> {
  return {
    http: set.http.map(ruleInit),
    tls: set.tls.map(connectionInit),
    tcp: set.tcp.map(connectionInit),
  };
}

function refInit(ref: RouteRef): MessageInitShape<typeof RouteRefSchema> {
  const { namespace, name, createdMs } = ref;
  const kind = KINDS.indexOf(ref.kind) as RouteRef_Kind;
  return { kind, namespace, name, createdMs: BigInt(createdMs) };
}

function ruleInit(rule: HttpRule): MessageInitShape<typeof HttpRuleSchema> {
  const { requestTimeoutMs, backendRequestTimeoutMs, retry, sessionPersistence } = rule;
  const { index, name, invalid } = rule;
  return {
    route: refInit(rule.route),
    index,
    name,
    invalid,
    hostnames: [...rule.hostnames],
    matches: rule.matches.map(matchInit),
    filters: rule.filters.map(filterInit),
    backends: rule.backends.map(weightedInit),
    ...(requestTimeoutMs === undefined ? {} : { requestTimeoutMs: BigInt(requestTimeoutMs) }),
    ...(backendRequestTimeoutMs === undefined
      ? {}
      : { backendRequestTimeoutMs: BigInt(backendRequestTimeoutMs) }),
    ...(retry === undefined ? {} : { retry: retryInit(retry) }),
    ...(sessionPersistence === undefined
      ? {}
      : { sessionPersistence: persistenceInit(sessionPersistence) }),
  };
}

function retryInit({ attempts, codes, backoffMs }: RouteRetry): {
  attempts: number;
  codes: number[];
  backoffMs?: bigint;
} {
  const backoff = backoffMs === undefined ? {} : { backoffMs: BigInt(backoffMs) };
  return { attempts, codes: [...codes], ...backoff };
}

function persistenceInit(session: SessionPersistence): {
  kind: SessionPersistence_Kind;
  name: string;
  absoluteTimeoutMs?: bigint;
  idleTimeoutMs?: bigint;
} {
  const { name, absoluteTimeoutMs, idleTimeoutMs } = session;
  const { COOKIE, HEADER } = SessionPersistence_Kind;
  return {
    kind: session.kind === 'cookie' ? COOKIE : HEADER,
    name,
    ...(absoluteTimeoutMs === undefined ? {} : { absoluteTimeoutMs: BigInt(absoluteTimeoutMs) }),
    ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs: BigInt(idleTimeoutMs) }),
  };
}

function connectionInit(rule: ConnectionRule): MessageInitShape<typeof ConnectionRuleSchema> {
  const { index, hostnames } = rule;
  const backends = rule.backends.map(weightedInit);
  return { route: refInit(rule.route), index, hostnames: [...hostnames], backends };
}

function matchInit(match: HttpMatch): MessageInitShape<typeof HttpMatchSchema> {
  return {
    path: { match: { case: match.path.kind, value: match.path.value } },
    method: match.method,
    headers: match.headers.map(namedInit),
    queryParams: match.queryParams.map(namedInit),
  };
}

function namedInit({ name, match }: NamedMatch): MessageInitShape<typeof NamedMatchSchema> {
  return { name, match: { match: { case: match.kind, value: match.value } } };
}

function weightedInit(entry: WeightedBackend): MessageInitShape<typeof WeightedBackendSchema> {
  const { backend, weight } = entry;
  return { backend: backendInit(backend), weight, filters: entry.filters.map(filterInit) };
}

function backendInit(backend: Backend): MessageInitShape<typeof BackendSchema> {
  const [namespace, hostname] = splitKey(backend.service);
  return { namespace, hostname, port: backend.port, invalid: backend.invalid };
}

function headersInit(change: HeaderChange): MessageInitShape<typeof HeaderChangeSchema> {
  const pairs = (list: HeaderChange['set']): { name: string; value: string }[] =>
    list.map(([name, value]) => ({ name, value }));
  return { set: pairs(change.set), add: pairs(change.add), remove: [...change.remove] };
}

function pathInit(
  change: PathChange | undefined,
): { path: MessageInitShape<typeof PathChangeSchema> } | undefined {
  if (change === undefined) return undefined;
  return { path: { change: { case: change.kind, value: change.value } } };
}

function filterInit(filter: HttpFilter): MessageInitShape<typeof HttpFilterSchema> {
  switch (filter.kind) {
    case 'request-headers':
      return { filter: { case: 'requestHeaders', value: headersInit(filter.change) } };
    case 'response-headers':
      return { filter: { case: 'responseHeaders', value: headersInit(filter.change) } };
    case 'redirect': {
      const { scheme, hostname, port, path, status } = filter.redirect;
      const value = {
        scheme: SCHEMES.indexOf(scheme) as Redirect_Scheme,
        ...(hostname === undefined ? {} : { hostname }),
        ...(port === undefined ? {} : { port }),
        ...pathInit(path),
        status,
      };
      return { filter: { case: 'redirect', value } };
    }
    case 'rewrite': {
      const { hostname, path } = filter.rewrite;
      const value = { ...(hostname === undefined ? {} : { hostname }), ...pathInit(path) };
      return { filter: { case: 'rewrite', value } };
    }
    case 'mirror': {
      const { backend, numerator, denominator } = filter.mirror;
      const value = { backend: backendInit(backend), numerator, denominator };
      return { filter: { case: 'mirror', value } };
    }
    case 'cors': {
      const { allowCredentials, maxAgeS, ...lists } = filter.cors;
      const value = {
        allowCredentials,
        maxAgeS,
        allowOrigins: [...lists.allowOrigins],
        allowMethods: [...lists.allowMethods],
        allowHeaders: [...lists.allowHeaders],
        exposeHeaders: [...lists.exposeHeaders],
      };
      return { filter: { case: 'cors', value } };
    }
  }
}

const SCHEMES = [undefined, 'http', 'https'] as const;

// === decoding ===

function readWaypointPort(message: WaypointPortMessage): WaypointPort {
  const appProtocol = APP_PROTOCOLS[message.appProtocol];
  if (appProtocol === undefined) throw invalidField('app_protocol', 'unknown value');
  const consumers = readList(
    'consumers',
    Object.entries(message.consumers),
    NAMESPACES_MAX,
    (entry) => {
      const [namespace, set] = entry;
      return [readRequired('consumers', namespace), readSet(set)] as const;
    },
  );
  return {
    port: readPort('port', message.port),
    appProtocol,
    producer: readSet(message.producer),
    consumers: new Map(consumers),
  };
}

function readSet(message: RouteSetMessage | undefined): RouteSet {
  if (message === undefined) return { http: [], tls: [], tcp: [] };
  return {
    http: readList('http', message.http, RULES_MAX, readRule),
    tls: readList('tls', message.tls, RULES_MAX, readConnection),
    tcp: readList('tcp', message.tcp, RULES_MAX, readConnection),
  };
}

function readRef(message: RouteRefMessage | undefined): RouteRef {
  if (message === undefined) throw invalidField('route', 'missing');
  const kind = KINDS[message.kind];
  if (kind === undefined) throw invalidField('route', 'unknown kind');
  return {
    kind,
    namespace: readRequired('namespace', message.namespace),
    name: readRequired('name', message.name),
    createdMs: readSafeInteger('created_ms', message.createdMs),
  };
}

function optionalMs(field: string, value: bigint | undefined): number | undefined {
  return value === undefined ? undefined : readSafeInteger(field, value);
}

function readRule(message: HttpRuleMessage): HttpRule {
  const texts = (field: string, values: readonly string[]): string[] =>
    readList(field, values, LIST_MAX, (value) => readText(field, value));
  if (message.matches.length === 0) throw invalidField('matches', 'empty');
  return {
    route: readRef(message.route),
    index: message.index,
    name: readText('name', message.name),
    hostnames: texts('hostnames', message.hostnames),
    matches: readList('matches', message.matches, LIST_MAX, readMatch),
    filters: readList('filters', message.filters, LIST_MAX, readFilter),
    backends: readList('backends', message.backends, LIST_MAX, readWeighted),
    requestTimeoutMs: optionalMs('request_timeout_ms', message.requestTimeoutMs),
    backendRequestTimeoutMs: optionalMs(
      'backend_request_timeout_ms',
      message.backendRequestTimeoutMs,
    ),
    retry: message.retry === undefined ? undefined : readRetry(message.retry),
    sessionPersistence:
      message.sessionPersistence === undefined
        ? undefined
        : readPersistence(message.sessionPersistence),
    invalid: readText('invalid', message.invalid),
  };
}

function readRetry(message: RouteRetryMessage): RouteRetry {
  return {
    attempts: message.attempts,
    codes: readList('codes', message.codes, LIST_MAX, (code) => {
      if (code < 100 || code > 599) throw invalidField('codes', `${code} is no status`);
      return code;
    }),
    backoffMs: optionalMs('backoff_ms', message.backoffMs),
  };
}

function readPersistence(message: SessionPersistenceMessage): SessionPersistence {
  const { COOKIE, HEADER } = SessionPersistence_Kind;
  if (message.kind !== COOKIE && message.kind !== HEADER) {
    throw invalidField('session_persistence', 'unknown kind');
  }
  return {
    kind: message.kind === COOKIE ? 'cookie' : 'header',
    name: readText('name', message.name),
    absoluteTimeoutMs: optionalMs('absolute_timeout_ms', message.absoluteTimeoutMs),
    idleTimeoutMs: optionalMs('idle_timeout_ms', message.idleTimeoutMs),
  };
}

function readConnection(message: ConnectionRuleMessage): ConnectionRule {
  return {
    route: readRef(message.route),
    index: message.index,
    hostnames: readList('hostnames', message.hostnames, LIST_MAX, (host) =>
      readRequired('hostnames', host),
    ),
    backends: readList('backends', message.backends, LIST_MAX, readWeighted),
  };
}

function readMatch(message: HttpMatchMessage): HttpMatch {
  return {
    path: readPathMatch(message.path),
    method: readText('method', message.method),
    headers: readList('headers', message.headers, LIST_MAX, readNamed),
    queryParams: readList('query_params', message.queryParams, LIST_MAX, readNamed),
  };
}

function readPathMatch(message: PathMatchMessage | undefined): PathMatch {
  const match = message?.match;
  if (match?.case === undefined) throw invalidField('path', 'unknown kind');
  return { kind: match.case, value: readText('path', match.value, VALUE_CHARS_MAX) };
}

function readNamed(message: NamedMatchMessage): NamedMatch {
  return { name: readRequired('name', message.name), match: readValueMatch(message.match) };
}

function readValueMatch(message: ValueMatchMessage | undefined): ValueMatch {
  const match = message?.match;
  if (match?.case === undefined) throw invalidField('match', 'unknown kind');
  return { kind: match.case, value: readText('match', match.value, VALUE_CHARS_MAX) };
}

function readWeighted(message: WeightedBackendMessage): WeightedBackend {
  if (message.weight > WEIGHT_MAX) throw invalidField('weight', `over ${WEIGHT_MAX}`);
  return {
    backend: readBackend(message.backend),
    weight: message.weight,
    filters: readList('filters', message.filters, LIST_MAX, readFilter),
  };
}

function readBackend(message: BackendMessage | undefined): Backend {
  if (message === undefined) throw invalidField('backend', 'missing');
  const invalid = readText('invalid', message.invalid);
  return {
    service: readKey(message.namespace, message.hostname),
    port: readPort('port', message.port, invalid !== ''),
    invalid,
  };
}

function readHeaders(message: HeaderChangeMessage): HeaderChange {
  const pairs = (field: string, list: HeaderChangeMessage['set']): [string, string][] =>
    readList(field, list, LIST_MAX, ({ name, value }) => [
      readRequired(field, name),
      readText(field, value, VALUE_CHARS_MAX),
    ]);
  return {
    set: pairs('set', message.set),
    add: pairs('add', message.add),
    remove: readList('remove', message.remove, LIST_MAX, (name) => readRequired('remove', name)),
  };
}

function readPath(message: PathChangeMessage | undefined): PathChange | undefined {
  if (message === undefined) return undefined;
  const { change } = message;
  if (change.case === undefined) throw invalidField('path', 'unknown kind');
  return { kind: change.case, value: readText('path', change.value, VALUE_CHARS_MAX) };
}

function readFilter({ filter }: HttpFilterMessage): HttpFilter {
  switch (filter.case) {
    case 'requestHeaders':
      return { kind: 'request-headers', change: readHeaders(filter.value) };
    case 'responseHeaders':
      return { kind: 'response-headers', change: readHeaders(filter.value) };
    case 'redirect':
      return { kind: 'redirect', redirect: readRedirect(filter.value) };
    case 'rewrite': {
      const hostname = optionalText('hostname', filter.value.hostname);
      return { kind: 'rewrite', rewrite: { hostname, path: readPath(filter.value.path) } };
    }
    case 'mirror': {
      const { numerator, denominator } = filter.value;
      if (denominator === 0) throw invalidField('denominator', 'zero');
      const backend = readBackend(filter.value.backend);
      return { kind: 'mirror', mirror: { backend, numerator, denominator } };
    }
    case 'cors':
      return { kind: 'cors', cors: readCors(filter.value) };
    case undefined:
      throw invalidField('filter', 'unknown kind');
  }
}

function optionalText(field: string, value: string | undefined): string | undefined {
  return value === undefined ? undefined : readText(field, value);
}

function readRedirect(message: RedirectMessage): Redirect {
  if (SCHEMES.length <= (message.scheme as number)) throw invalidField('scheme', 'unknown value');
  const status = REDIRECT_STATUSES.find((known) => known === message.status);
  if (status === undefined) throw invalidField('status', `${message.status} is no redirect`);
  return {
    scheme: SCHEMES[message.scheme],
    hostname: optionalText('hostname', message.hostname),
    port: message.port === undefined ? undefined : readPort('port', message.port),
    path: readPath(message.path),
    status,
  };
}

function readCors(message: CorsMessage): Cors {
  const texts = (field: string, values: readonly string[]): string[] =>
    readList(field, values, LIST_MAX, (value) => readText(field, value));
  return {
    allowOrigins: texts('allow_origins', message.allowOrigins),
    allowCredentials: message.allowCredentials,
    allowMethods: texts('allow_methods', message.allowMethods),
    allowHeaders: texts('allow_headers', message.allowHeaders),
    exposeHeaders: texts('expose_headers', message.exposeHeaders),
    maxAgeS: message.maxAgeS,
  };
}
