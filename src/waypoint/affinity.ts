/**
 * What sticks a client to an endpoint under consistent hashing: a header, a cookie of ours, or its address. The
 * value alone decides, nothing is remembered: every waypoint sends it to the same endpoint.
 */

import { hashText } from '../base/hash.ts';
import type { Random } from '../base/random.ts';
import type { SessionPersistence } from '../core/route.ts';
import type { Affinity, AffinityCookie } from '../core/traffic-policy.ts';
import type { HeaderField, HeaderList } from '../http/h2/contract.ts';

export interface AffinityChoice {
  /** Undefined: the request has nothing to go by, any endpoint will do. */
  readonly hash: number | undefined;
  /** To be added to the response: the client had no session yet. */
  readonly issue: HeaderField | undefined;
}

const NONE: AffinityChoice = { hash: undefined, issue: undefined };
const SEED = 0x9e3779b9;
/** Longer values are hashed by their beginning: a client must not buy time with bytes. */
const VALUE_MAX = 256;
const SESSION_BYTES = 16;
const DEFAULT_NAME = 'nodemesh-session';

export function chooseAffinity(
  affinity: Affinity | undefined,
  headers: HeaderList,
  sourceAddress: string,
  random: Random,
): AffinityChoice {
  if (affinity === undefined) return NONE;
  if (affinity.kind === 'source-address') return { hash: hashOf(sourceAddress), issue: undefined };
  const value =
    affinity.kind === 'cookie'
      ? cookieValue(headers, affinity.name)
      : headers.find(([name]) => name === affinity.name)?.[1];
  if (value !== undefined && value !== '') return { hash: hashOf(value), issue: undefined };
  if (affinity.kind === 'header' && !affinity.issued) return NONE;
  const session = random.bytes(SESSION_BYTES).toString('base64url');
  const issue: HeaderField =
    affinity.kind === 'cookie'
      ? ['set-cookie', formatCookie(affinity, session)]
      : [affinity.name, session];
  return { hash: hashOf(session), issue };
}

/** Of a route rule (GEP-1619). Which cookie or header carries the session is all there is to it. */
export function affinityOf(session: SessionPersistence): Affinity {
  const { kind, absoluteTimeoutMs } = session;
  const name = session.name === '' ? DEFAULT_NAME : session.name;
  if (kind === 'header') return { kind, name: name.toLowerCase(), issued: true };
  const ttlMs = absoluteTimeoutMs ?? 0;
  return { kind, name, ttlMs, path: '/', sameSite: '', secure: false };
}

/** Draws by the session, where there is one: its requests go to the same one of several weighted backends, too. */
export function drawBy(choice: AffinityChoice | undefined, random: Random): Random {
  const hash = choice?.hash;
  if (hash === undefined) return random;
  // Mixed again: the same bits choose the endpoint.
  const share = hashText(String(hash), SEED) / 0x1_0000_0000;
  return { next: () => share, bytes: (count) => random.bytes(count) };
}

function hashOf(value: string): number {
  return hashText(value.length > VALUE_MAX ? value.slice(0, VALUE_MAX) : value, SEED);
}

/** RFC 6265 4.1.1. Never readable by scripts: it is between the browser and us. */
function formatCookie(cookie: AffinityCookie, session: string): string {
  const maxAge = cookie.ttlMs === 0 ? '' : `; Max-Age=${Math.ceil(cookie.ttlMs / 1_000)}`;
  const sameSite = cookie.sameSite === '' ? '' : `; SameSite=${cookie.sameSite}`;
  const secure = cookie.secure ? '; Secure' : '';
  return `${cookie.name}=${session}; Path=${cookie.path}${maxAge}; HttpOnly${sameSite}${secure}`;
}

/** The first cookie of that name in any `cookie` line; HTTP/2 may send one line for each (RFC 9113 8.2.3). */
function cookieValue(headers: HeaderList, wanted: string): string | undefined {
  for (const [name, line] of headers) {
    if (name !== 'cookie') continue;
    let from = 0;
    while (from < line.length) {
      const semicolon = line.indexOf(';', from);
      const until = semicolon < 0 ? line.length : semicolon;
      while (line[from] === ' ') from++;
      if (line.startsWith(wanted, from) && line[from + wanted.length] === '=') {
        const value = line.slice(from + wanted.length + 1, until).trim();
        return value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : value;
      }
      from = until + 1;
    }
  }
  return undefined;
}
