/**
 * Where a request carries tokens, by the rules of its service. More than one token is a contradiction and refused:
 * which of two the application would take nobody knows (T91).
 */

import type { JwtRule } from '../core/http-policy.ts';
import type { HeaderList } from '../http/h2/contract.ts';
import { queryValue } from './route-candidate.ts';

export interface FoundToken {
  readonly token: string;
  /** The rules that look where it was found. */
  readonly rules: readonly JwtRule[];
}

interface Places {
  readonly headers: JwtRule['fromHeaders'];
  readonly params: readonly string[];
  readonly cookies: readonly string[];
}

const DEFAULT_PLACES: Places = {
  headers: [{ name: 'authorization', prefix: 'Bearer ' }],
  params: ['access_token'],
  cookies: [],
};

function placesOf(rule: JwtRule): Places {
  const { fromHeaders: headers, fromParams: params, fromCookies: cookies } = rule;
  if (headers.length + params.length + cookies.length === 0) return DEFAULT_PLACES;
  return { headers, params, cookies };
}

/** Undefined: none. A text: why the request is refused. */
export function findToken(
  rules: readonly JwtRule[],
  headers: HeaderList,
  query: string,
): FoundToken | string | undefined {
  const byToken = new Map<string, JwtRule[]>();
  const note = (rule: JwtRule, token: string | undefined): void => {
    if (token === undefined || token === '') return;
    const known = byToken.get(token);
    if (known === undefined) byToken.set(token, [rule]);
    else if (!known.includes(rule)) known.push(rule);
  };
  for (const rule of rules) {
    const places = placesOf(rule);
    for (const { name, prefix } of places.headers) {
      let seen = 0;
      for (const [key, value] of headers) {
        if (key !== name) continue;
        seen++;
        note(rule, afterPrefix(value, prefix));
      }
      if (seen > 1 && name === 'authorization') return 'more than one Authorization field';
    }
    for (const name of places.params) note(rule, queryValue(query, name));
    for (const name of places.cookies) note(rule, cookieValue(headers, name));
  }
  if (byToken.size > 1) return 'more than one token';
  for (const [token, found] of byToken) return { token, rules: found };
  return undefined;
}

/** Names of authentication schemes have no case (RFC 9110 section 11.1). */
function afterPrefix(value: string, prefix: string): string | undefined {
  if (value.slice(0, prefix.length).toLowerCase() !== prefix.toLowerCase()) return undefined;
  return value.slice(prefix.length).trim();
}

function cookieValue(headers: HeaderList, name: string): string | undefined {
  for (const [key, line] of headers) {
    if (key !== 'cookie') continue;
    for (const pair of line.split(';')) {
      const mark = pair.indexOf('=');
      if (mark > 0 && pair.slice(0, mark).trim() === name) return pair.slice(mark + 1).trim();
    }
  }
  return undefined;
}

/** The request without its token. */
export function withoutToken(
  rules: readonly JwtRule[],
  headers: HeaderList,
  token: string,
): HeaderList {
  const names = new Set(rules.flatMap((rule) => placesOf(rule).headers.map(({ name }) => name)));
  return headers.filter(([name, value]) => !(names.has(name) && value.includes(token)));
}
