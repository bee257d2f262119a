/**
 * One form for one path (RFC 3986 section 6), so that policy, routing and the application see the same thing (T86).
 * What could be read in two ways is refused; the rest is brought to a form whose second pass changes nothing.
 *
 * - Refused: anything but printable ASCII, a malformed `%`, an encoded control character, bytes that are not UTF-8
 *   (overlong ones with them), a backslash, a fragment, `..` above the root, a dot segment with parameters (`/..;x`);
 *   by default also an encoded slash or backslash and a `%` that was encoded twice.
 * - Changed: encoded unreserved characters are decoded, other escapes get upper case, characters that a path cannot
 *   hold are encoded, duplicate slashes are merged and dot segments removed, in this order.
 * - Kept: the case of letters (paths are case-sensitive), a trailing slash, `;parameters`.
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';

export interface PathRules {
  /** `%2F` and `%5C`. Applications disagree on what they are. Default `refuse`. */
  readonly escapedSlash: 'refuse' | 'keep';
  /** `%252e`: harmless unless somebody behind decodes twice. Default `refuse`. */
  readonly doubleEncoding: 'refuse' | 'keep';
}

export const STRICT_PATHS: PathRules = { escapedSlash: 'refuse', doubleEncoding: 'refuse' };

export interface RequestPath {
  /** What goes upstream. */
  readonly path: string;
  /** What routes and policies are compared with: as `path`, with every escape decoded that a path can hold. */
  readonly compared: string;
  /**
   * As `compared` without `;parameters`: how servers of the Java family read it. What is denied is denied in
   * either reading. The same string when there are none.
   */
  readonly plain: string;
}

/** Nearly every path: nothing to decode, merge, remove or refuse. */
const NORMAL = /^(?:\/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)*\/?$/;
const PRINTABLE = /^[\x21-\x7e]*$/;
const MALFORMED_ESCAPE = /%(?![0-9A-Fa-f]{2})/;
const ESCAPE = /%[0-9A-Fa-f]{2}/g;
const HIGH_ESCAPES = /(?:%[89A-F][0-9A-F])+/g;
const UNRESERVED = /[A-Za-z0-9\-._~]/;
/** What may stand in a segment undecoded (RFC 3986 section 3.3, pchar). */
const SEGMENT_CHARACTER = /[A-Za-z0-9\-._~!$&'()*+,;=:@]/;
/** Printable, and not allowed in a path. */
const NOT_IN_PATHS = /["<>[\]^`{|}]/g;
const ESCAPED_SLASH = /%2F|%5C/;
const DOUBLE_ENCODING = /%25[0-9A-Fa-f]{2}/;
const DOTS_WITH_PARAMETERS = /(?:^|\/)\.\.?;/;

function refuse(reason: string): Result<never> {
  return fail(
    new MeshError('MESH_HTTP_TARGET_INVALID', `Cannot serve the request path: ${reason}`),
  );
}

/** `raw` begins with a slash and has no query. */
export function normalisePath(raw: string, rules: PathRules = STRICT_PATHS): Result<RequestPath> {
  if (!raw.startsWith('/')) return refuse('it does not begin with a slash');
  if (NORMAL.test(raw)) return ok({ path: raw, compared: raw, plain: raw });
  if (!PRINTABLE.test(raw)) return refuse('it holds a character that is not printable ASCII');
  if (raw.includes('#')) return refuse('it holds a fragment');
  if (raw.includes('\\')) return refuse('it holds a backslash');
  if (raw.includes('?')) return refuse('it holds a query');
  const escaped = normaliseEscapes(raw, UNRESERVED);
  if (!escaped.ok) return escaped;
  const text = escaped.value;
  if (ESCAPED_SLASH.test(text)) {
    if (rules.escapedSlash === 'refuse') return refuse('it holds an encoded slash or backslash');
    // Whoever takes them for slashes would resolve these dots after us.
    const pieces = text.split(/\/|%2F|%5C/);
    if (pieces.some((piece) => piece === '.' || piece === '..'))
      return refuse('it holds a dot segment beside an encoded slash');
  }
  if (rules.doubleEncoding === 'refuse' && DOUBLE_ENCODING.test(text))
    return refuse('it is encoded twice');
  const path = removeDots(text);
  if (path === undefined) return refuse('it leads above the root');
  const compared = normaliseEscapes(path, SEGMENT_CHARACTER);
  if (!compared.ok) return compared;
  if (DOTS_WITH_PARAMETERS.test(compared.value))
    return refuse('it holds a dot segment with parameters');
  return ok({ path, compared: compared.value, plain: withoutParameters(compared.value) });
}

/**
 * A path of a policy or route, or a part of one, in the form of `RequestPath.compared`; what cannot be brought to it
 * stays as it is and will match nothing.
 */
export function comparablePath(text: string): string {
  const ascii = text.replace(/[^\x21-\x7e]+/g, (run) => encodeURIComponent(run.toWellFormed()));
  const escaped = normaliseEscapes(ascii, SEGMENT_CHARACTER);
  return escaped.ok ? escaped.value : text;
}

/** Decodes what `decodable` lists, writes the other escapes in upper case, encodes what needs it. */
function normaliseEscapes(text: string, decodable: RegExp): Result<string> {
  if (MALFORMED_ESCAPE.test(text)) return refuse('it holds a malformed escape');
  let control = false;
  const decoded = text.replace(ESCAPE, (escape) => {
    const code = Number.parseInt(escape.slice(1), 16);
    if (code < 0x20 || code === 0x7f) control = true;
    const character = String.fromCharCode(code);
    return code < 0x80 && decodable.test(character) ? character : escape.toUpperCase();
  });
  if (control) return refuse('it holds an encoded control character');
  const badBytes = decoded.match(HIGH_ESCAPES)?.some((run) => !isUtf8(run)) ?? false;
  if (badBytes) return refuse('its escapes are not UTF-8');
  return ok(decoded.replace(NOT_IN_PATHS, (character) => encodeURIComponent(character)));
}

function isUtf8(escapes: string): boolean {
  try {
    decodeURIComponent(escapes);
    return true;
  } catch {
    return false;
  }
}

/** Merges slashes, then removes dot segments (RFC 3986 section 5.2.4). Undefined: above the root. */
function removeDots(text: string): string | undefined {
  const kept: string[] = [];
  const segments = text.split('/');
  for (const segment of segments) {
    if (segment === '' || segment === '.') continue;
    if (segment !== '..') kept.push(segment);
    else if (kept.pop() === undefined) return undefined;
  }
  const last = segments.at(-1);
  const endsInSlash = last === '' || last === '.' || last === '..';
  if (kept.length === 0) return '/';
  return `/${kept.join('/')}${endsInSlash ? '/' : ''}`;
}

function withoutParameters(path: string): string {
  if (!path.includes(';')) return path;
  const plain = path.replace(/;[^/]*/g, '').replace(/\/{2,}/g, '/');
  return plain === '' ? '/' : plain;
}
