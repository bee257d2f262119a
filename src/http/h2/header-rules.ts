/**
 * Which header lists are well formed (RFC 9113 section 8). What is not ends its stream before anybody sees it.
 * The functions return a reason, or the facts that framing needs; they change nothing.
 */

import type { HeaderList } from './contract.ts';

const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;
/** Stricter than RFC 9113 section 8.2.1: no control character but tab, as HTTP/1.1 would need (T81). */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const SCHEME = /^[A-Za-z][A-Za-z0-9+\-.]*$/;
const PATH = /^(?:\/[\x21-\x7e\x80-\xff]*|\*)$/;
const AUTHORITY = /^[\x21-\x7e]+$/;
const STATUS = /^[1-5][0-9][0-9]$/;
const LENGTH = /^[0-9]{1,15}$/;
const CONNECTION_NAMES: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'upgrade',
]);

export interface MessageFacts {
  readonly method: string;
  /** 0 for a request. */
  readonly status: number;
  /** Undefined: none, or it says nothing about the bytes that follow. */
  readonly contentLength: number | undefined;
}

/** Regular fields and the pseudo headers among `allowed`, each once and before the regular ones. */
type Kind = 'request' | 'response' | 'trailers';
const PSEUDO: Readonly<Record<Kind, ReadonlyMap<string, PseudoKey>>> = {
  request: new Map([
    [':method', 'method'],
    [':scheme', 'scheme'],
    [':path', 'path'],
    [':authority', 'authority'],
  ]),
  response: new Map([[':status', 'status']]),
  trailers: new Map(),
};
type PseudoKey = 'method' | 'scheme' | 'path' | 'authority' | 'status';

interface Fields {
  method: string | undefined;
  scheme: string | undefined;
  path: string | undefined;
  authority: string | undefined;
  status: string | undefined;
  pseudoCount: number;
  contentLength: number | undefined;
}

const SPACE = 0x20;
const TAB = 0x09;
const COLON = 0x3a;

/** Leading or trailing white space. */
function isPadded(value: string): boolean {
  const first = value.charCodeAt(0);
  const last = value.charCodeAt(value.length - 1);
  return first === SPACE || first === TAB || last === SPACE || last === TAB;
}

/** A reason when it has no place in such a message or comes twice. */
function takePseudo(fields: Fields, kind: Kind, name: string, value: string): string | undefined {
  const key = PSEUDO[kind].get(name);
  if (key === undefined) return 'a pseudo header has no place here';
  if (fields[key] !== undefined) return 'a pseudo header comes twice';
  fields[key] = value;
  fields.pseudoCount++;
  return undefined;
}

function checkFields(headers: HeaderList, kind: Kind): string | Fields {
  const fields: Fields = {
    method: undefined,
    scheme: undefined,
    path: undefined,
    authority: undefined,
    status: undefined,
    pseudoCount: 0,
    contentLength: undefined,
  };
  let regular = false;
  for (const [name, value] of headers) {
    if (!VALUE.test(value) || isPadded(value)) return 'a value has bad characters';
    if (name.charCodeAt(0) === COLON) {
      if (regular) return 'a pseudo header comes after a regular one';
      const wrong = takePseudo(fields, kind, name, value);
      if (wrong !== undefined) return wrong;
      continue;
    }
    regular = true;
    if (!NAME.test(name)) return 'a name has bad characters';
    if (CONNECTION_NAMES.has(name)) return 'a field belongs to HTTP/1.1 connections';
    if (name === 'te' && value !== 'trailers') return '"te" is not "trailers"';
    if (name === 'content-length') {
      if (fields.contentLength !== undefined || !LENGTH.test(value))
        return '"content-length" is ambiguous';
      fields.contentLength = Number(value);
    }
  }
  return fields;
}

export function checkRequest(headers: HeaderList): MessageFacts | string {
  const fields = checkFields(headers, 'request');
  if (typeof fields === 'string') return fields;
  const { method, authority, scheme = '', path = '' } = fields;
  if (method === undefined || !TOKEN.test(method)) return '":method" is missing or not a token';
  if (authority !== undefined && !AUTHORITY.test(authority)) return '":authority" is malformed';
  if (method === 'CONNECT') {
    if (authority === undefined) return 'a CONNECT has no ":authority"';
    if (fields.pseudoCount > 2) return 'a CONNECT has ":scheme" or ":path"';
    return { method, status: 0, contentLength: undefined };
  }
  if (!SCHEME.test(scheme)) return '":scheme" is missing or malformed';
  if (!PATH.test(path) || (path === '*' && method !== 'OPTIONS'))
    return '":path" is missing or malformed';
  return { method, status: 0, contentLength: fields.contentLength };
}

/** `method` is the request's: what a length means depends on it (RFC 9110 section 6.4.1). */
export function checkResponse(headers: HeaderList, method: string): MessageFacts | string {
  const fields = checkFields(headers, 'response');
  if (typeof fields === 'string') return fields;
  const text = fields.status ?? '';
  const status = Number(text);
  // 101 has no meaning in HTTP/2 (RFC 9113 section 8.6).
  if (!STATUS.test(text) || status === 101) return '":status" is missing or malformed';
  const bodiless = method === 'HEAD' || status === 304 || status === 204 || status < 200;
  const opaque = bodiless || (method === 'CONNECT' && status < 300);
  return { method, status, contentLength: opaque ? undefined : fields.contentLength };
}

/** A reason, or undefined when well formed. */
export function checkTrailers(headers: HeaderList): string | undefined {
  const fields = checkFields(headers, 'trailers');
  return typeof fields === 'string' ? fields : undefined;
}
