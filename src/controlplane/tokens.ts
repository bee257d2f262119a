/**
 * Tokens in file mode: a file of lines `NODE TOKEN` and `NAMESPACE/ACCOUNT TOKEN`, which says who may join (T05):
 * node proxies, and workloads that speak for themselves (waypoints; one token for all replicas of one).
 *
 * - Only SHA-256 digests stay in memory; a line may hold `sha256:HEX` instead of the token itself.
 * - A presented token is compared with every line in constant time.
 * - The file is read again when it changes; while it cannot be read, or is open to others, what was good
 *   before goes on counting, and the log says so.
 */

import { createHash, timingSafeEqual } from 'node:crypto';
import { open } from 'node:fs/promises';

import type { Clock, Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { isNamespaceName, isServiceAccountName } from '../core/identity.ts';
import { callerId, unauthenticated, type Authenticator, type CallerIdentity } from './caller.ts';

/** A token and the caller it proves. Several tokens per caller, so that one can be replaced. */
interface TokenEntry {
  readonly caller: CallerIdentity;
  readonly digest: Buffer;
}

export type TokenTable = readonly TokenEntry[];

export const TOKENS_MAX = 20_000;
const FILE_BYTES_MAX = 8 * 1024 * 1024;
export const TOKEN_CHARS_MIN = 16;
const TOKEN_CHARS_MAX = 4096;
/** A Kubernetes node name. */
const NODE_NAME = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/;
const DIGEST = /^sha256:([0-9a-f]{64})$/;
const LOOK_PERIOD_MS = 1_000;

function digestOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

/** Empty lines and lines that begin with `#` are skipped. Messages never contain a token. */
export function parseTokens(text: string): Result<TokenTable> {
  const entries: TokenEntry[] = [];
  const ownerOf = new Map<string, string>();
  const refuse = (line: number, reason: string): Result<never> =>
    fail(new MeshError('MESH_CONFIG_INVALID', `Cannot read tokens, line ${line}: ${reason}`));
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const [name = '', token = '', ...rest] = line.split(/\s+/);
    if (rest.length > 0 || token === '') {
      return refuse(index + 1, 'must be "NODE TOKEN" or "NAMESPACE/ACCOUNT TOKEN"');
    }
    const caller = parseCaller(name);
    if (caller === undefined) return refuse(index + 1, 'the node or account is malformed');
    if (entries.length >= TOKENS_MAX) return refuse(index + 1, `more than ${TOKENS_MAX} tokens`);
    const hex = DIGEST.exec(token)?.[1];
    if (hex === undefined && token.length < TOKEN_CHARS_MIN) {
      return refuse(index + 1, `the token is shorter than ${TOKEN_CHARS_MIN} characters`);
    }
    const digest = hex === undefined ? digestOf(token) : Buffer.from(hex, 'hex');
    const key = digest.toString('hex');
    const other = ownerOf.get(key);
    if (other !== undefined && other !== name) {
      return refuse(index + 1, `the token is that of "${other}" too`);
    }
    ownerOf.set(key, name);
    entries.push({ caller, digest });
  }
  return ok(entries);
}

function parseCaller(name: string): CallerIdentity | undefined {
  const slash = name.indexOf('/');
  if (slash < 0) return NODE_NAME.test(name) ? { kind: 'node', node: name } : undefined;
  const [namespace, serviceAccount] = [name.slice(0, slash), name.slice(slash + 1)];
  if (!isNamespaceName(namespace) || !isServiceAccountName(serviceAccount)) return undefined;
  return { kind: 'workload', namespace, serviceAccount };
}

/** The caller that a token proves. Takes the same time for every token. */
export function findCaller(table: TokenTable, token: string): CallerIdentity | undefined {
  if (token.length > TOKEN_CHARS_MAX) return undefined;
  const digest = digestOf(token);
  let found: CallerIdentity | undefined;
  for (const entry of table) {
    const same = timingSafeEqual(entry.digest, digest);
    found = same ? entry.caller : found;
  }
  return found;
}

export interface TokenFileOptions {
  readonly path: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** The user whose files are trusted, besides root. */
  readonly ownUid: number;
}

export interface TokenFile extends Authenticator, Disposable {
  readonly callerCount: number;
}

/**
 * Reads the file; rejects when it cannot be used, so that a controller does not start without it. Later, what
 * cannot be used or is empty changes nothing. Replace the file by a rename: a half-written one may lack nodes.
 */
export async function openTokenFile(options: TokenFileOptions): Promise<TokenFile> {
  const { clock, logger, path } = options;
  let { table, stamp } = await readTokenFile(options, '');
  let problem = '';
  let reading = false;
  const look = async (): Promise<void> => {
    if (reading) return;
    reading = true;
    try {
      const read = await readTokenFile(options, stamp);
      if (read.stamp !== stamp) logger.info('Tokens read', { path, tokens: read.table.length });
      if (read.stamp !== stamp) ({ table, stamp } = read);
      problem = '';
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (message !== problem) logger.error('Cannot read tokens; the old ones stay', { error });
      problem = message;
    } finally {
      reading = false;
    }
  };
  const timer: Timer = clock.every(LOOK_PERIOD_MS, () => void look());
  return {
    get callerCount() {
      return new Set(table.map(({ caller }) => callerId(caller))).size;
    },
    authenticate(token) {
      const caller = findCaller(table, token);
      const known = caller !== undefined;
      return Promise.resolve(known ? ok(caller) : unauthenticated('the token is not in the file'));
    },
    [Symbol.dispose]: () => timer.cancel(),
  };
}

interface ReadTokens {
  readonly table: TokenTable;
  readonly stamp: string;
}

/** An empty table with the same stamp when nothing changed. Checks the very file it reads. */
async function readTokenFile(options: TokenFileOptions, known: string): Promise<ReadTokens> {
  const { path, ownUid } = options;
  const refuse = (reason: string): MeshError =>
    new MeshError('MESH_CONFIG_INVALID', `Cannot use tokens file "${path}": ${reason}`);
  await using handle = await open(path, 'r');
  const info = await handle.stat({ bigint: true });
  if (!info.isFile()) throw refuse('it is not a file');
  if ((Number(info.mode) & 0o077) !== 0) throw refuse('others may read it; set its mode to 0600');
  if (Number(info.uid) !== ownUid && info.uid !== 0n) throw refuse('it belongs to another user');
  if (info.size > FILE_BYTES_MAX) throw refuse(`it is larger than ${FILE_BYTES_MAX} bytes`);
  const stamp = [info.dev, info.ino, info.size, info.mtimeNs, info.ctimeNs].join(':');
  if (stamp === known) return { table: [], stamp };
  const parsed = parseTokens(await handle.readFile('utf8'));
  if (!parsed.ok) throw parsed.error;
  // Met between a truncation and the write after it, or a slip: either way nobody means to lock out every node.
  if (parsed.value.length === 0 && known !== '') throw refuse('it holds no token');
  return { table: parsed.value, stamp };
}
