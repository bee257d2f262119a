/**
 * HTTP/1.1 message heads as text to HTTP/2's header lists. What is ambiguous is refused (T80, T82, T83, T85, T87,
 * T90): there is one reading of a message or none. Framing and connection fields are taken out here and
 * returned as facts; nobody after this sees them, and nobody can send them on.
 */

import type { HeaderField, HeaderList } from '../h2/contract.ts';
import type { H1Limits } from './limits.ts';

/** `length`: bytes follow; 0 is none. `close`: up to the end of the connection, responses only. */
export type BodyFraming =
  | { readonly kind: 'length'; readonly bytes: number }
  | { readonly kind: 'chunked' }
  | { readonly kind: 'close' };

export interface H1Head {
  readonly headers: HeaderList;
  readonly body: BodyFraming;
  /** The connection may carry another message afterwards. */
  readonly keepAlive: boolean;
  /** 0 for HTTP/1.0. */
  readonly minorVersion: 0 | 1;
  /** The protocol asked for or switched to; lower case, empty without. `upgrade` stays in `headers`. */
  readonly upgrade: string;
  /** Requests: the method. */
  readonly method: string;
  /** Responses. */
  readonly status: number;
}

/** Why a head is refused, and with which status a request is answered. */
export interface H1Refusal {
  readonly status: 400 | 414 | 417 | 431 | 501 | 505;
  readonly reason: string;
}

const REQUEST_LINE = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21\x22\x24-\x7e]+) HTTP\/1\.([01])$/;
const OTHER_VERSION = / HTTP\/\d\.\d$/;
const STATUS_LINE = /^HTTP\/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?$/;
/** A token without `_`: many applications take `x_y` and `x-y` for one name (T90). */
const NAME = /^[!#$%&'*+\-.^`|~0-9A-Za-z]+$/;
/** Responses are not forged by clients, and some carry `_`. */
const RESPONSE_NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const LENGTH = /^(?:0|[1-9][0-9]{0,14})$/;
/** reg-name, IPv4 or bracketed IPv6, and a port. No user info, nothing encoded. */
const AUTHORITY = /^(?:[A-Za-z0-9\-._~]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$/;
const ABSOLUTE = /^(https?):\/\/([^/?]+)(.*)$/i;
const SP = 0x20;
const TAB = 0x09;

export function refusal(status: H1Refusal['status'], reason: string): H1Refusal {
  return { status, reason };
}

export function isRefusal(result: H1Head | HeaderList | H1Refusal): result is H1Refusal {
  return 'reason' in result;
}

interface Fields {
  readonly list: HeaderField[];
  host: string | undefined;
  length: number | undefined;
  chunked: boolean;
  close: boolean;
  keepAlive: boolean;
  upgrade: string;
  upgradeNamed: boolean;
  nominated: string[] | undefined;
  trailersWanted: boolean;
}

/** Optional white space around a value is no part of it (RFC 9112 section 5.1). */
function trimmed(text: string, from: number, to: number): string {
  let start = from;
  let end = to;
  for (let code = text.charCodeAt(start); start < end && (code === SP || code === TAB);) {
    code = text.charCodeAt(++start);
  }
  for (let code = text.charCodeAt(end - 1); end > start && (code === SP || code === TAB);) {
    code = text.charCodeAt(--end - 1);
  }
  return text.slice(start, end);
}

/** Fields from `text[at ..)`, lines ending in CRLF, the last one too. */
function readFields(
  text: string,
  from: number,
  limits: H1Limits,
  isRequest: boolean,
): Fields | H1Refusal {
  const fields: Fields = {
    list: [],
    host: undefined,
    length: undefined,
    chunked: false,
    close: false,
    keepAlive: false,
    upgrade: '',
    upgradeNamed: false,
    nominated: undefined,
    trailersWanted: false,
  };
  const names = isRequest ? NAME : RESPONSE_NAME;
  let count = 0;
  for (let at = from; at < text.length;) {
    const lineEnd = text.indexOf('\r\n', at);
    if (++count > limits.fieldsMax) return refusal(431, 'too many fields');
    const colon = text.indexOf(':', at);
    if (colon < 0 || colon >= lineEnd) return refusal(400, 'a field line has no colon');
    const rawName = text.slice(at, colon);
    if (!names.test(rawName)) return refusal(400, 'a field name has bad characters');
    const value = trimmed(text, colon + 1, lineEnd);
    if (!VALUE.test(value)) return refusal(400, 'a field value has bad characters');
    const wrong = addField(fields, rawName.toLowerCase(), value, isRequest);
    if (wrong !== undefined) return wrong;
    at = lineEnd + 2;
  }
  return fields;
}

function addField(
  fields: Fields,
  name: string,
  value: string,
  isRequest: boolean,
): H1Refusal | undefined {
  switch (name) {
    case 'host':
      if (isRequest) {
        if (fields.host !== undefined) return refusal(400, 'more than one Host');
        fields.host = value;
        return undefined;
      }
      break;
    case 'content-length':
      if (fields.length !== undefined) return refusal(400, 'more than one Content-Length');
      if (!LENGTH.test(value)) return refusal(400, 'Content-Length is not a plain number');
      fields.length = Number(value);
      break;
    case 'transfer-encoding':
      if (fields.chunked) return refusal(400, 'more than one Transfer-Encoding');
      if (value.toLowerCase() !== 'chunked') {
        return refusal(
          /^[a-z-]+(?:\s*,\s*[a-z-]+)*$/i.test(value) ? 501 : 400,
          'Transfer-Encoding other than chunked',
        );
      }
      fields.chunked = true;
      return undefined;
    case 'connection':
      return addConnection(fields, value);
    case 'upgrade':
      fields.upgrade = fields.upgrade === '' ? value.toLowerCase() : 'ambiguous';
      return undefined;
    case 'te':
      if (/(?:^|,)\s*trailers\s*(?:$|,)/i.test(value)) fields.trailersWanted = true;
      return undefined;
    case 'expect':
      if (isRequest && value.toLowerCase() !== '100-continue') {
        return refusal(417, 'Expect other than 100-continue');
      }
      fields.list.push([name, '100-continue']);
      return undefined;
    case 'keep-alive':
    case 'proxy-connection':
    case 'http2-settings':
      return undefined;
    default:
      break;
  }
  fields.list.push([name, value]);
  return undefined;
}

function addConnection(fields: Fields, value: string): H1Refusal | undefined {
  for (const part of value.split(',')) {
    const option = part.trim().toLowerCase();
    if (option === '') continue;
    if (option === 'close') fields.close = true;
    else if (option === 'keep-alive') fields.keepAlive = true;
    else if (option === 'upgrade') fields.upgradeNamed = true;
    else if (!NAME.test(option)) return refusal(400, 'Connection names something malformed');
    else (fields.nominated ??= []).push(option);
  }
  return undefined;
}

/** Takes out what Connection names (T82). What frames or addresses the message cannot be named away. */
function withoutNominated(fields: Fields): HeaderField[] | H1Refusal {
  const { nominated, list } = fields;
  if (nominated === undefined) return list;
  if (nominated.includes('host') || nominated.includes('content-length')) {
    return refusal(400, 'Connection names a field of the message');
  }
  return list.filter(([name]) => !nominated.includes(name));
}

interface Target {
  readonly scheme: string;
  readonly authority: string;
  readonly path: string;
}

/** RFC 9112 section 3.2. */
function readTarget(target: string, method: string, host: string | undefined): Target | H1Refusal {
  if (method === 'CONNECT') return refusal(501, 'CONNECT is not served here');
  if (host === undefined) return refusal(400, 'no Host');
  if (!AUTHORITY.test(host)) return refusal(400, 'Host is malformed');
  if (target.startsWith('/')) return { scheme: 'http', authority: host, path: target };
  if (target === '*' && method === 'OPTIONS') return { scheme: 'http', authority: host, path: '*' };
  const absolute = ABSOLUTE.exec(target);
  if (absolute === null) return refusal(400, 'the target has an unknown form');
  const [, scheme = '', authority = '', rest = ''] = absolute;
  if (!AUTHORITY.test(authority)) return refusal(400, 'the authority of the target is malformed');
  if (authority.toLowerCase() !== host.toLowerCase()) {
    return refusal(400, 'Host differs from the authority of the target');
  }
  const path = rest.startsWith('/') ? rest : `/${rest}`;
  return { scheme: scheme.toLowerCase(), authority: host, path };
}

/** `text`: from the request line up to and including the CRLF of the last field; without the empty line. */
export function readRequestHead(text: string, limits: H1Limits): H1Head | H1Refusal {
  const lineEnd = text.indexOf('\r\n');
  if (lineEnd > limits.startLineMaxBytes) return refusal(414, 'the request line is too long');
  const startLine = text.slice(0, lineEnd);
  const line = REQUEST_LINE.exec(startLine);
  if (line === null) {
    const version = OTHER_VERSION.test(startLine) && !/ HTTP\/1\.[01]$/.test(startLine);
    return refusal(version ? 505 : 400, 'the request line is malformed');
  }
  const [, method = '', rawTarget = '', minor] = line;
  const fields = readFields(text, lineEnd + 2, limits, true);
  if ('reason' in fields) return fields;
  const target = readTarget(rawTarget, method, fields.host);
  if ('reason' in target) return target;
  const regular = withoutNominated(fields);
  if ('reason' in regular) return regular;
  const minorVersion = minor === '1' ? 1 : 0;
  if (fields.chunked && (fields.length !== undefined || minorVersion === 0)) {
    return refusal(400, 'Transfer-Encoding with Content-Length or in HTTP/1.0');
  }
  let upgrade = '';
  if (fields.upgradeNamed && fields.upgrade !== '' && minorVersion === 1) {
    if (fields.chunked || (fields.length ?? 0) > 0) return refusal(400, 'Upgrade with a body');
    // Other protocols than this are no use to anybody here; without the field the request is an ordinary one.
    if (fields.upgrade === 'websocket') upgrade = fields.upgrade;
  }
  const headers: HeaderField[] = [
    [':method', method],
    [':scheme', target.scheme],
    [':authority', target.authority],
    [':path', target.path],
    ...regular,
  ];
  if (upgrade !== '') headers.push(['upgrade', upgrade]);
  if (fields.trailersWanted) headers.push(['te', 'trailers']);
  return {
    headers,
    body: fields.chunked ? { kind: 'chunked' } : { kind: 'length', bytes: fields.length ?? 0 },
    keepAlive: minorVersion === 1 ? !fields.close : fields.keepAlive && !fields.close,
    minorVersion,
    upgrade,
    method,
    status: 0,
  };
}

/** As `readRequestHead`; `method` is the request's (RFC 9112 section 6.3). */
export function readResponseHead(
  text: string,
  method: string,
  limits: H1Limits,
): H1Head | H1Refusal {
  const lineEnd = text.indexOf('\r\n');
  if (lineEnd > limits.startLineMaxBytes) return refusal(400, 'the status line is too long');
  const line = STATUS_LINE.exec(text.slice(0, lineEnd));
  if (line === null) return refusal(400, 'the status line is malformed');
  const status = Number(line[2]);
  const minorVersion = line[1] === '1' ? 1 : 0;
  const fields = readFields(text, lineEnd + 2, limits, false);
  if ('reason' in fields) return fields;
  if (fields.chunked && (fields.length !== undefined || minorVersion === 0)) {
    return refusal(400, 'Transfer-Encoding with Content-Length or in HTTP/1.0');
  }
  const regular = withoutNominated(fields);
  if ('reason' in regular) return regular;
  const bodiless = method === 'HEAD' || status === 304 || status === 204 || status < 200;
  if (fields.chunked && (status === 204 || status < 200)) {
    return refusal(400, 'Transfer-Encoding on a response that has no body');
  }
  const headers: HeaderField[] = [[':status', String(status)], ...regular];
  if (status === 101) headers.push(['upgrade', fields.upgrade]);
  const body: BodyFraming = bodiless
    ? { kind: 'length', bytes: 0 }
    : fields.chunked
      ? { kind: 'chunked' }
      : fields.length === undefined
        ? { kind: 'close' }
        : { kind: 'length', bytes: fields.length };
  const persistent = minorVersion === 1 ? !fields.close : fields.keepAlive && !fields.close;
  return {
    headers,
    body,
    keepAlive: persistent && body.kind !== 'close',
    minorVersion,
    upgrade: status === 101 ? fields.upgrade : '',
    method: '',
    status,
  };
}

const NO_TRAILER: ReadonlySet<string> = new Set([
  'host',
  'content-length',
  'transfer-encoding',
  'connection',
  'upgrade',
  'te',
  'trailer',
  'authorization',
  'content-type',
  'content-encoding',
  'content-range',
  'cookie',
  'set-cookie',
]);

/** A trailer section: lines ending in CRLF, the last one too; may be empty. */
export function readTrailers(
  text: string,
  limits: H1Limits,
  isRequest: boolean,
): HeaderList | H1Refusal {
  const list: HeaderField[] = [];
  const names = isRequest ? NAME : RESPONSE_NAME;
  for (let at = 0; at < text.length;) {
    const lineEnd = text.indexOf('\r\n', at);
    const colon = text.indexOf(':', at);
    if (colon < 0 || colon >= lineEnd) return refusal(400, 'a trailer line has no colon');
    const rawName = text.slice(at, colon);
    const value = trimmed(text, colon + 1, lineEnd);
    const name = rawName.toLowerCase();
    if (!names.test(rawName) || !VALUE.test(value)) return refusal(400, 'a trailer is malformed');
    // RFC 9110 section 6.5.1: what frames, routes or authenticates has no place here.
    if (NO_TRAILER.has(name)) return refusal(400, 'a trailer field belongs into the head');
    if (list.length === limits.fieldsMax) return refusal(431, 'too many trailers');
    list.push([name, value]);
    at = lineEnd + 2;
  }
  return list;
}
