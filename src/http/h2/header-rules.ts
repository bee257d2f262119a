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
function checkFields(
  headers: HeaderList,
  allowed: readonly string[],
): string | { pseudo: Map<string, string>; contentLength: number | undefined } {
  const pseudo = new Map<string, string>();
  let contentLength: number | undefined;
  let regular = false;
  for (const [name, value] of headers) {
    if (!VALUE.test(value) || /^[ \t]|[ \t]$/.test(value)) return 'a value has bad characters';
    if (name.startsWith(':')) {
      if (regular) return 'a pseudo header comes after a regular one';
      if (!allowed.includes(name)) return 'a pseudo header has no place here';
      if (pseudo.has(name)) return 'a pseudo header comes twice';
      pseudo.set(name, value);
      continue;
    }
    regular = true;
    if (!NAME.test(name)) return 'a name has bad characters';
    if (CONNECTION_NAMES.has(name)) return 'a field belongs to HTTP/1.1 connections';
    if (name === 'te' && value !== 'trailers') return '"te" is not "trailers"';
    if (name === 'content-length') {
      if (contentLength !== undefined || !LENGTH.test(value))
        return '"content-length" is ambiguous';
      contentLength = Number(value);
    }
  }
  return { pseudo, contentLength };
}

export function checkRequest(headers: HeaderList): MessageFacts | string {
  const fields = checkFields(headers, [':method', ':scheme', ':path', ':authority']);
  if (typeof fields === 'string') return fields;
  const { pseudo } = fields;
  const method = pseudo.get(':method');
  const authority = pseudo.get(':authority');
  if (method === undefined || !TOKEN.test(method)) return '":method" is missing or not a token';
  if (authority !== undefined && !AUTHORITY.test(authority)) return '":authority" is malformed';
  if (method === 'CONNECT') {
    if (authority === undefined) return 'a CONNECT has no ":authority"';
    if (pseudo.size > 2) return 'a CONNECT has ":scheme" or ":path"';
    return { method, status: 0, contentLength: undefined };
  }
  if (!SCHEME.test(pseudo.get(':scheme') ?? '')) return '":scheme" is missing or malformed';
  const path = pseudo.get(':path') ?? '';
  if (!PATH.test(path) || (path === '*' && method !== 'OPTIONS'))
    return '":path" is missing or malformed';
  return { method, status: 0, contentLength: fields.contentLength };
}

/** `method` is the request's: what a length means depends on it (RFC 9110 section 6.4.1). */
export function checkResponse(headers: HeaderList, method: string): MessageFacts | string {
  const fields = checkFields(headers, [':status']);
  if (typeof fields === 'string') return fields;
  const text = fields.pseudo.get(':status') ?? '';
  const status = Number(text);
  // 101 has no meaning in HTTP/2 (RFC 9113 section 8.6).
  if (!STATUS.test(text) || status === 101) return '":status" is missing or malformed';
  const bodiless = method === 'HEAD' || status === 304 || status === 204 || status < 200;
  const opaque = bodiless || (method === 'CONNECT' && status < 300);
  return { method, status, contentLength: opaque ? undefined : fields.contentLength };
}

/** A reason, or undefined when well formed. */
export function checkTrailers(headers: HeaderList): string | undefined {
  const fields = checkFields(headers, []);
  return typeof fields === 'string' ? fields : undefined;
}
