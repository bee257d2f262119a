/**
 * CORS for a rule (HTTPCORSFilter of Gateway API): answers preflight requests itself, and marks the answers to the
 * others. An origin that is not listed gets no CORS header at all, so that the browser refuses; what the application
 * says about CORS is replaced by what the route says.
 */

import type { HeaderField, HeaderList } from '../http/h2/contract.ts';
import type { Cors } from '../core/route.ts';
import { headerValue } from './route-candidate.ts';

/** The method that a preflight asks for; undefined when the request is none. */
export function preflightMethod(method: string, headers: HeaderList): string | undefined {
  if (method !== 'OPTIONS' || headerValue(headers, 'origin') === undefined) return undefined;
  return headerValue(headers, 'access-control-request-method');
}

/** Header fields of the answer 204 to a preflight. */
export function preflightHeaders(cors: Cors, headers: HeaderList): HeaderField[] {
  const shared = originHeaders(cors, headers);
  if (shared === undefined) return [['vary', 'Origin']];
  const asked = (name: string): string => headerValue(headers, name) ?? '';
  const methods = listed(cors.allowMethods, cors, asked('access-control-request-method'));
  const names = listed(cors.allowHeaders, cors, asked('access-control-request-headers'));
  const fields = [...shared];
  if (methods !== '') fields.push(['access-control-allow-methods', methods]);
  if (names !== '') fields.push(['access-control-allow-headers', names]);
  fields.push(['access-control-max-age', String(cors.maxAgeS)]);
  return fields;
}

/** `answer` with the CORS fields that belong to a request with `headers`. */
export function markAnswer(cors: Cors, headers: HeaderList, answer: HeaderList): HeaderList {
  const kept = answer.filter(([name]) => !name.startsWith('access-control-'));
  const shared = originHeaders(cors, headers);
  if (shared === undefined) return kept;
  const fields = [...kept, ...shared];
  const exposed = listed(cors.exposeHeaders, cors, '');
  if (exposed !== '') fields.push(['access-control-expose-headers', exposed]);
  return fields;
}

/** Undefined: the origin is not allowed, or there is none. */
function originHeaders(cors: Cors, headers: HeaderList): HeaderField[] | undefined {
  const origin = headerValue(headers, 'origin');
  if (origin === undefined || !cors.allowOrigins.some((allowed) => fits(allowed, origin))) {
    return undefined;
  }
  // With credentials a browser takes no wildcard (Fetch standard, section 3.3.5).
  if (cors.allowOrigins.includes('*') && !cors.allowCredentials) {
    return [['access-control-allow-origin', '*']];
  }
  const fields: HeaderField[] = [
    ['access-control-allow-origin', origin],
    ['vary', 'Origin'],
  ];
  if (cors.allowCredentials) fields.push(['access-control-allow-credentials', 'true']);
  return fields;
}

/** `*`, an origin, or one with a wildcard at the start of its host: `https://*.example.com`. */
function fits(allowed: string, origin: string): boolean {
  if (allowed === '*' || allowed.toLowerCase() === origin.toLowerCase()) return true;
  const star = allowed.indexOf('*');
  if (star < 0) return false;
  const text = origin.toLowerCase();
  const start = allowed.slice(0, star).toLowerCase();
  const end = allowed.slice(star + 1).toLowerCase();
  if (!text.startsWith(start) || !text.endsWith(end)) return false;
  const middle = text.slice(start.length, text.length - end.length);
  return text.length > start.length + end.length && /^[a-z0-9.-]+$/.test(middle);
}

function listed(values: readonly string[], cors: Cors, asked: string): string {
  if (!values.includes('*')) return values.join(', ');
  // With credentials a wildcard is a literal star; say what was asked for instead.
  return cors.allowCredentials ? asked : '*';
}
