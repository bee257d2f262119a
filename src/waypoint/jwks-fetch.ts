/**
 * Fetches one JWKS document from outside, as somebody who does not trust the URL (T91): HTTPS only unless a setting says
 * otherwise, no redirect, one bounded answer in bounded time, and never from this machine or its link: an address is
 * checked when it has been resolved and is then the one that is connected to, so a name cannot answer twice.
 */

import type { LookupAddress, LookupOptions } from 'node:dns';
import { lookup as resolveName } from 'node:dns';
import { request as requestHttp, type IncomingMessage } from 'node:http';
import { request as requestHttps } from 'node:https';
import { isIP } from 'node:net';

import type { Clock } from '../base/clock.ts';
import { errorFromNode, MeshError } from '../base/errors.ts';
import { cidrContains, parseAddress, parseCidr } from '../core/address.ts';
import { unwrap } from '../base/result.ts';

export interface FetchRules {
  /** `http:` URLs are taken, too. Default false. */
  readonly plainHttp: boolean;
  /** Loopback addresses are taken, too: for tests and single machines. Default false. */
  readonly loopback: boolean;
}

export const STRICT_FETCH: FetchRules = { plainHttp: false, loopback: false };
export type FetchDocument = (url: string, timeoutMs: number) => Promise<string>;

const DOCUMENT_BYTES_MAX = 65_536;
const LOOPBACK = ['127.0.0.0/8', '::1'].map((text) => unwrap(parseCidr(text)));
/** This host, the link (cloud metadata lives there), multicast and what is not an address of one machine. */
const FORBIDDEN = ['0.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3', '::', 'fe80::/10', 'ff00::/8'].map(
  (text) => unwrap(parseCidr(text)),
);

function refuse(url: string, reason: string, cause?: unknown): MeshError {
  const message = `Cannot fetch keys from "${url.slice(0, 200)}": ${reason}`;
  return new MeshError('MESH_JWKS_UNAVAILABLE', message, { cause });
}

/** Whether keys may come from there. */
function isAllowed(text: string, rules: FetchRules): boolean {
  const ip = parseAddress(text);
  if (!ip.ok) return false;
  if (LOOPBACK.some((block) => cidrContains(block, ip.value))) return rules.loopback;
  return !FORBIDDEN.some((block) => cidrContains(block, ip.value));
}

export function createJwksFetch(clock: Clock, rules: FetchRules = STRICT_FETCH): FetchDocument {
  return async (text, timeoutMs) => {
    const url = URL.parse(text);
    if (url === null) throw refuse(text, 'not a URL');
    const plain = url.protocol === 'http:';
    if (!plain && url.protocol !== 'https:') throw refuse(text, 'not HTTPS');
    if (plain && !rules.plainHttp) throw refuse(text, 'plain HTTP is not allowed');
    if (url.username !== '' || url.password !== '') throw refuse(text, 'it holds a password');
    const literal = url.hostname.replace(/^\[(.*)\]$/, '$1');
    if (isIP(literal) !== 0 && !isAllowed(literal, rules)) throw refuse(text, 'forbidden address');
    try {
      return await get(url, plain, clock, timeoutMs, rules);
    } catch (error) {
      if (error instanceof MeshError && error.code === 'MESH_JWKS_UNAVAILABLE') throw error;
      throw refuse(text, errorFromNode(error, 'request').message, error);
    }
  };
}

type LookupCallback = (
  error: NodeJS.ErrnoException | null,
  address: string | LookupAddress[],
  family?: number,
) => void;

function get(
  url: URL,
  plain: boolean,
  clock: Clock,
  timeoutMs: number,
  rules: FetchRules,
): Promise<string> {
  const lookup = (name: string, options: LookupOptions, done: LookupCallback): void => {
    resolveName(name, { ...options, all: true }, (error, found) => {
      const allowed =
        error === null ? found.filter(({ address }) => isAllowed(address, rules)) : [];
      const [first] = allowed;
      if (first !== undefined && options.all === true) done(null, allowed);
      else if (first !== undefined) done(null, first.address, first.family);
      else done(error ?? refuse(url.href, 'every address of it is forbidden'), '');
    });
  };
  const send = plain ? requestHttp : requestHttps;
  return new Promise((resolve, reject) => {
    // No agent: a connection of its own, to the address that was checked, closed afterwards.
    const outgoing = send(url, { agent: false, lookup, headers: { accept: 'application/json' } });
    const timer = clock.after(timeoutMs, () =>
      outgoing.destroy(refuse(url.href, 'no answer in time')),
    );
    const fail = (error: Error): void => {
      timer.cancel();
      outgoing.destroy();
      reject(error);
    };
    outgoing.on('error', fail);
    outgoing.on('response', (answer) => {
      if (answer.statusCode !== 200) {
        answer.on('error', () => {});
        fail(refuse(url.href, `status ${answer.statusCode}, and redirects are not followed`));
        return;
      }
      readBody(answer).then(
        (body) => {
          timer.cancel();
          resolve(body);
        },
        (error: unknown) => fail(error instanceof Error ? error : new Error(String(error))),
      );
    });
    outgoing.end();
  });
}

async function readBody(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > DOCUMENT_BYTES_MAX) throw refuse('', `more than ${DOCUMENT_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
