/**
 * Where a request wants to go, in one form: method, scheme, host and path as policy, routing and the application all
 * see them. Runs once, before anything is decided, and its result is what goes upstream (T50, T86, T87).
 *
 * A request that names two hosts, none, or one that servers read differently (user information, an octal address,
 * bytes that are not ASCII) is refused. Lower case, no trailing dot, no default port.
 */

import { isIPv4 } from 'node:net';

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { normalisePath, STRICT_PATHS, type PathRules, type RequestPath } from './request-path.ts';

/** A request as it came, before anybody has understood it. */
export interface RawTarget {
  readonly method: string;
  readonly scheme: string;
  /** The request target of HTTP/1.1, or `:path`. */
  readonly target: string;
  /** `:authority`; undefined in HTTP/1.1. */
  readonly authority: string | undefined;
  /** Every `Host` field. */
  readonly hosts: readonly string[];
}

export interface TargetRules extends PathRules {
  /** `GET http://host/path` is for forward proxies. Default `refuse`. */
  readonly absoluteForm: 'refuse' | 'accept';
}

export const STRICT_TARGETS: TargetRules = { ...STRICT_PATHS, absoluteForm: 'refuse' };

export interface RequestTarget extends RequestPath {
  readonly scheme: 'http' | 'https';
  /** Host, and port if it is not the scheme's own: goes upstream. */
  readonly authority: string;
  /** Without port; IPv6 in brackets. */
  readonly host: string;
  /** Undefined: the scheme's own. */
  readonly port: number | undefined;
  /** With its question mark; empty without a query. */
  readonly query: string;
}

const TARGET_CHARS_MAX = 16_384;
const HOST_CHARS_MAX = 253;
const PRINTABLE = /^[\x21-\x7e]*$/;
const ABSOLUTE = /^(https?):\/\/([^/?#]*)(.*)$/i;
/** Letters, digits, hyphens, and underscores, which Kubernetes never makes and old names have. */
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/;
const PORT = /^[1-9][0-9]{0,4}$/;
const DEFAULT_PORT: Readonly<Record<'http' | 'https', number>> = { http: 80, https: 443 };

function refuse(reason: string): Result<never> {
  return fail(new MeshError('MESH_HTTP_TARGET_INVALID', `Cannot serve the request: ${reason}`));
}

/** The host that was normalised last: requests of one connection nearly always name the same. */
export interface HostMemory {
  text: string;
  scheme: 'http' | 'https';
  host: Result<NormalHost> | undefined;
}

export function createHostMemory(): HostMemory {
  return { text: '', scheme: 'http', host: undefined };
}

/** `memory`: of the connection; default none. */
export function normaliseTarget(
  raw: RawTarget,
  rules: TargetRules = STRICT_TARGETS,
  memory?: HostMemory,
): Result<RequestTarget> {
  if (raw.method === 'CONNECT') return refuse('CONNECT has no place inside a tunnel');
  if (raw.scheme !== 'http' && raw.scheme !== 'https') return refuse('its scheme is not HTTP');
  if (raw.target.length > TARGET_CHARS_MAX) return refuse('its target is too long');
  let scheme: 'http' | 'https' = raw.scheme;
  let { target } = raw;
  let named = raw.authority;
  const absolute = target.startsWith('/') ? null : ABSOLUTE.exec(target);
  if (absolute !== null) {
    if (rules.absoluteForm === 'refuse') return refuse('its target is a whole URL');
    const [, given = '', host = '', rest = ''] = absolute;
    scheme = given.toLowerCase() === 'https' ? 'https' : 'http';
    target = rest.startsWith('/') ? rest : `/${rest}`;
    named = host;
  }
  const host = agreeOnHost(named, raw.hosts, scheme, memory);
  if (!host.ok) return host;
  if (target === '*') {
    if (raw.method !== 'OPTIONS') return refuse('only OPTIONS may ask about "*"');
    return ok({ ...host.value, scheme, path: '*', compared: '*', plain: '*', query: '' });
  }
  const mark = target.indexOf('?');
  const query = mark < 0 ? '' : target.slice(mark);
  if (!PRINTABLE.test(query)) return refuse('its query is not printable ASCII');
  if (query.includes('#')) return refuse('it holds a fragment');
  const path = normalisePath(mark < 0 ? target : target.slice(0, mark), rules);
  if (!path.ok) return path;
  return ok({
    scheme,
    authority: host.value.authority,
    host: host.value.host,
    port: host.value.port,
    path: path.value.path,
    compared: path.value.compared,
    plain: path.value.plain,
    query: query === '?' ? '' : query,
  });
}

type NormalHost = Pick<RequestTarget, 'authority' | 'host' | 'port'>;

/** All that name a host must name the same. */
function agreeOnHost(
  named: string | undefined,
  hosts: readonly string[],
  scheme: 'http' | 'https',
  memory: HostMemory | undefined,
): Result<NormalHost> {
  if (hosts.length > 1) return refuse('it has more than one Host');
  const [only] = hosts;
  const first = named ?? only;
  const second = named === undefined ? undefined : only;
  if (first === undefined) return refuse('it names no host');
  const host = rememberedHost(first, scheme, memory);
  if (!host.ok || second === undefined || second === first) return host;
  const other = normaliseHost(second, scheme);
  if (!other.ok) return other;
  return other.value.authority === host.value.authority ? host : refuse('it names two hosts');
}

function rememberedHost(
  text: string,
  scheme: 'http' | 'https',
  memory: HostMemory | undefined,
): Result<NormalHost> {
  if (memory === undefined) return normaliseHost(text, scheme);
  if (memory.host !== undefined && memory.text === text && memory.scheme === scheme) {
    return memory.host;
  }
  memory.text = text;
  memory.scheme = scheme;
  return (memory.host = normaliseHost(text, scheme));
}

/** Reads `HOST` or `HOST:PORT`. */
export function normaliseHost(text: string, scheme: 'http' | 'https'): Result<NormalHost> {
  if (!PRINTABLE.test(text)) return refuse('its host is not printable ASCII');
  if (text.includes('@')) return refuse('its host holds user information');
  const bracketed = /^\[([0-9A-Fa-f:.]{2,45})\](?::(.*))?$/.exec(text);
  const colon = text.indexOf(':');
  const named: readonly [string, string | undefined] =
    colon < 0 ? [text, undefined] : [text.slice(0, colon), text.slice(colon + 1)];
  const [name, portText] = bracketed === null ? named : [`[${bracketed[1]}]`, bracketed[2]];
  if (portText !== undefined && (!PORT.test(portText) || Number(portText) > 65_535))
    return refuse('its port is not a number from 1 to 65535');
  const host = bracketed === null ? hostName(name) : ipv6Host(name);
  if (host === undefined) return refuse('its host is malformed');
  const given = portText === undefined ? undefined : Number(portText);
  const port = given === DEFAULT_PORT[scheme] ? undefined : given;
  return ok({ host, port, authority: port === undefined ? host : `${host}:${port}` });
}

function hostName(text: string): string | undefined {
  const lower = text.toLowerCase();
  const name = lower.endsWith('.') ? lower.slice(0, -1) : lower;
  if (name.length > HOST_CHARS_MAX) return undefined;
  const labels = name.split('.');
  if (!labels.every((label) => LABEL.test(label))) return undefined;
  // "0177.1" and "0x7f000001" are addresses to some and names to others.
  const last = labels.at(-1) ?? '';
  const looksNumeric = /^(?:[0-9]+|0x[0-9a-f]*)$/.test(last);
  return looksNumeric && !isIPv4(name) ? undefined : name;
}

/** Canonical, as the URL standard writes it. */
function ipv6Host(text: string): string | undefined {
  return URL.parse(`http://${text}/`)?.hostname;
}
