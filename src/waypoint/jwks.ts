/**
 * The keys that tokens are verified with, by the URL they come from.
 *
 * - One fetch at a time and URL, whoever asks. Refreshed in the background when they are used and old, with jitter.
 * - When the issuer is away the last keys stay good for a day; then there are none and every token is refused (T91).
 * - A token with a key id that is not known may cause a fetch, at most one in 30 s and URL.
 */

import { createLocalJWKSet, type JSONWebKeySet, type JWK } from 'jose';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { FetchDocument } from './jwks-fetch.ts';

export interface KeySet {
  /** Changes with the keys. */
  readonly version: number;
  readonly find: ReturnType<typeof createLocalJWKSet>;
}

export interface JwksStore {
  /** The keys to verify with now; a promise only when there are none yet. Undefined: none can be had. */
  keys(url: string, timeoutMs: number): KeySet | undefined | Promise<KeySet | undefined>;
  /** The keys after a fetch that an unknown key id asks for; those there are when one was made just now. */
  refreshed(url: string, timeoutMs: number): Promise<KeySet | undefined>;
  /** Keys of a document given in the configuration. */
  inline(document: string): Result<KeySet>;
  /** Forgets URLs that nothing names any more. */
  retain(urls: ReadonlySet<string>): void;
}

const KEYS_MAX = 64;
const URLS_MAX = 256;
const REFRESH_MS = 5 * 60_000;
const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 60_000;
const COOLDOWN_MS = 30_000;
/** How long keys outlive an issuer that cannot be reached. */
export const STALE_MAX_MS: number = 24 * 60 * 60_000;
/** Shared secrets are not public keys: an `oct` key would let everybody who reads the set sign. */
const KEY_TYPES: readonly (string | undefined)[] = ['RSA', 'EC', 'OKP'];

interface Entry {
  keys: KeySet | undefined;
  fetchedMs: number;
  /** When the next fetch is due. */
  dueMs: number;
  triedMs: number;
  failures: number;
  running: Promise<void> | undefined;
}

export interface JwksStoreParts {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly fetch: FetchDocument;
}

export function createJwksStore({ clock, random, logger, fetch }: JwksStoreParts): JwksStore {
  const entries = new Map<string, Entry>();
  let versions = 0;

  const parse = (document: string): Result<KeySet> => {
    const parsed = parseKeys(document);
    if (!parsed.ok) return parsed;
    versions++;
    return ok({ version: versions, find: createLocalJWKSet(parsed.value) });
  };
  const load = async (url: string, entry: Entry, timeoutMs: number): Promise<void> => {
    entry.triedMs = clock.nowMs();
    try {
      const keys = parse(await fetch(url, timeoutMs));
      if (!keys.ok) throw keys.error;
      entry.keys = keys.value;
      entry.fetchedMs = clock.nowMs();
      entry.failures = 0;
      entry.dueMs = clock.nowMs() + REFRESH_MS * (0.8 + 0.4 * random.next());
    } catch (error) {
      entry.failures++;
      const delayMs = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(entry.failures - 1, 10));
      entry.dueMs = clock.nowMs() + delayMs * (0.5 + 0.5 * random.next());
      logger.warn('Cannot fetch the keys of a token issuer', { url, error });
    }
  };
  const start = (url: string, entry: Entry, timeoutMs: number): Promise<void> => {
    entry.running ??= load(url, entry, timeoutMs).finally(() => {
      entry.running = undefined;
    });
    return entry.running;
  };
  const entryOf = (url: string): Entry | undefined => {
    const known = entries.get(url);
    if (known !== undefined || entries.size >= URLS_MAX) return known;
    const entry: Entry = {
      keys: undefined,
      fetchedMs: 0,
      dueMs: -Infinity,
      triedMs: -Infinity,
      failures: 0,
      running: undefined,
    };
    entries.set(url, entry);
    return entry;
  };
  const usable = (entry: Entry): KeySet | undefined =>
    clock.nowMs() - entry.fetchedMs <= STALE_MAX_MS ? entry.keys : undefined;

  return {
    keys(url, timeoutMs) {
      const entry = entryOf(url);
      if (entry === undefined) return undefined;
      if (clock.nowMs() >= entry.dueMs) void start(url, entry, timeoutMs);
      const keys = usable(entry);
      if (keys !== undefined || entry.running === undefined) return keys;
      return entry.running.then(() => usable(entry));
    },
    async refreshed(url, timeoutMs) {
      const entry = entryOf(url);
      if (entry === undefined) return undefined;
      if (entry.running !== undefined || clock.nowMs() - entry.triedMs >= COOLDOWN_MS) {
        await start(url, entry, timeoutMs);
      }
      return usable(entry);
    },
    inline: parse,
    retain(urls) {
      for (const url of entries.keys()) if (!urls.has(url)) entries.delete(url);
    },
  };
}

/** Public keys of the kinds we know; others are left out, since a set may hold keys for other uses. */
function parseKeys(document: string): Result<JSONWebKeySet> {
  const refuse = (reason: string): Result<never> =>
    fail(new MeshError('MESH_JWKS_UNAVAILABLE', `Cannot read a key set: ${reason}`));
  let value: unknown;
  try {
    value = JSON.parse(document);
  } catch {
    return refuse('not JSON');
  }
  const list: unknown =
    typeof value === 'object' && value !== null && 'keys' in value ? value.keys : undefined;
  if (!Array.isArray(list)) return refuse('it has no list of keys');
  if (list.length > KEYS_MAX) return refuse(`more than ${KEYS_MAX} keys`);
  const keys = list.filter((key: unknown): key is JWK => {
    if (typeof key !== 'object' || key === null || !('kty' in key) || 'd' in key) return false;
    return KEY_TYPES.includes(String(key.kty));
  });
  if (keys.length === 0) return refuse('it has no public key of a known kind');
  return ok({ keys });
}
